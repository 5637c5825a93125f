"""A process's share of each global batch as numpy arrays: a function of the step, whoever computes it and when."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_tune.data import order
from lit_tune.data.batch_memory import BatchMemory
from lit_tune.data.decoding import Limits, Picture, load_pixels
from lit_tune.data.orphans import end_with_parent
from lit_tune.data.sample import KINDS, BadSample, Source
from lit_tune.data.text_rows import TextRows
from lit_tune.data.transforms import Augment, train_crop, train_transform
from lit_tune.errors import DataError, explain

NAMED = 3  # shards in a message
TRIES = 16  # samples tried for one row; with one in ten bad, all fail once in 10**16 rows


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the rows of a batch hold, beside the source and the text.

    Attributes:
        seed: of the run.
        image_size: (height, width) in pixels.
        policy: see `decoding`.
        limits, augment: see `decoding`, `transforms`.
        cache_bytes: memory for decoded pictures; 0 for none.
        canvas: side of the square that crops are sent in, for a device that resizes them; 0: resized here.
        captions: which of a sample's captions its position takes: random | first | joined (all of them).
    """

    seed: int
    image_size: tuple[int, int]
    policy: str
    limits: Limits
    augment: Augment
    cache_bytes: int
    canvas: int
    captions: str

    @classmethod
    def of(cls, config: Any) -> "Recipe":
        """The recipe that a whole run config describes."""
        data = config.data
        return cls(
            config.seed, tuple(config.vision.image_size), data.policy,
            Limits.of(data),
            Augment(tuple(data.crop_scale), tuple(data.crop_ratio), data.flip, data.color_jitter, data.grayscale,
                    data.rotate),
            data.cache_decoded_mib << 20, data.canvas if data.resize_on == "device" else 0, data.captions,
        )  # fmt: skip


class PictureCache:
    """Decoded pictures with their number of captions, kept until the memory is used up; nothing is thrown out.

    A fixed set serves as well as the most recent ones where every epoch visits all pictures in another order. Threads
    need no lock: the worst race decodes one picture twice and counts its memory twice.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._kept: dict[int, tuple[Picture, int]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process empty."""
        return PictureCache, (self._left,)

    def get(self, index: int) -> tuple[Picture, int] | None:
        """The picture of sample `index` and its number of captions, if kept."""
        return self._kept.get(index)

    def put(self, index: int, picture: Picture, captions: int) -> None:
        """Keep a picture where it still fits."""
        # Pillow stores RGB in four bytes
        size = picture.nbytes if isinstance(picture, np.ndarray) else 4 * picture.width * picture.height
        if size <= self._left:
            self._left -= size
            self._kept[index] = picture, captions


class HostBatches:
    """`host_batches(step)`: the rows of this process, the same arrays in every thread, process and run.

    Args:
        source: the pairs.
        text: the text side.
        planned: which pair stands where.
        recipe: the rest.
        rows: int64, this process's rows of the global batch, rising.
        bank_rows: int64, this process's rows of the bank of past texts, rising; none where there is no bank.

    Attributes:
        reading: by thread, the sample that is being read at this moment.
    """

    def __init__(self, source: Source, text: TextRows, planned: order.Order, recipe: Recipe, rows: np.ndarray,
                 bank_rows: np.ndarray | None = None) -> None:
        self.source = source
        self.text = text
        self.order = planned
        self.recipe = recipe
        self.rows = rows
        self.bank_rows = bank_rows
        self._cache = PictureCache(recipe.cache_bytes)
        self._memory = BatchMemory()
        self.reading: dict[int, int] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In the worker process that it was sent to."""
        self.__dict__.update(state)
        end_with_parent()

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """One step's rows, h of them.

        Args:
            step: of the run; may lie anywhere.

        Returns:
            `image` uint8 (h, height, width, 3); with a canvas (h, canvas, canvas, 3), a crop in each and anything
            around it, and `crop` int32 (h, 5), its top, left, height and width and whether to flip it (0 or 1); the
            text provider's arrays (h, ...); `tried` int64 (h, TRIES), the indices tried for each row, -1 after the
            last; `fault` uint8 (h, TRIES), 0 or 1 + place in KINDS of what was wrong with each. From a row on for which
            all were bad, the rest is empty.
        """
        count, canvas = len(self.rows), self.recipe.canvas
        height, width = (canvas, canvas) if canvas else self.recipe.image_size
        batch = {
            "image": self._memory.take((count, height, width, 3)),
            "tried": np.full((count, TRIES), -1, np.int64),
            "fault": np.zeros((count, TRIES), np.uint8),
        }
        if canvas:
            batch["crop"] = np.tile(np.array((0, 0, 1, 1, 0), np.int32), (count, 1))  # never 0 pixels
        positions = self.order.positions(step, self.rows)
        planned, texts = self.order.locate(positions), {}
        for row, (position, index) in enumerate(zip(positions.tolist(), planned.tolist(), strict=True)):
            found = self._fill(batch, row, position, index)
            if found is None:
                for name in (*texts, "image"):
                    batch[name][row:] = 0
                break
            texts = self.text.row(*found)
            # The provider decides which arrays there are; their shapes are known from the first row on.
            for name, value in texts.items():
                if name not in batch:
                    batch[name] = self._memory.take((count, *value.shape), value.dtype)
                batch[name][row] = value
        if self.bank_rows is not None:
            batch |= self._bank(step)
        return batch

    def shards(self, step: int) -> str:
        """Names of the shards (files, of a folder) that a step's rows lie in, for messages: those being read now.

        Where nothing is being read here, because worker processes read: all of the step's, the first ones named.
        """
        indices: Iterable[int] = list(self.reading.values())
        if not indices:
            indices = self.order.locate(self.order.positions(step, self.rows)).tolist()
        names = sorted({self.source.describe(index)[0] for index in indices})
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"{', '.join(names[:NAMED])}{more}"

    def _bank(self, step: int) -> dict[str, np.ndarray]:
        """Texts planned for the steps before: those of step - 1 first, then of step - 2, ..."""
        recipe = self.recipe
        positions = self.order.past_positions(step, self.bank_rows)
        texts = []
        for position, index in zip(positions.tolist(), self.order.locate(positions).tolist(), strict=True):
            index = self._with_text(position, index)
            choice = _choice(order.generator(recipe.seed, position), self.text.captions(index), recipe.captions)
            texts.append(self.text.row(index, choice))
        return {f"bank_{name}": np.stack([row[name] for row in texts]) for name in ("ztxt", "caption_id")}

    def _with_text(self, position: int, index: int) -> int:
        """The planned sample, or the first substitute that has a usable caption."""
        for attempt in range(TRIES):
            if attempt:
                index = self.order.substitute(position, attempt)
            if self.text.captions(index):
                return index
        raise DataError(explain(self.source.spec, expected="captions for the bank of past texts",
                                found=f"{TRIES} samples in a row without one", do="look at the data with `lit-tune "
                                "data inspect`, or set config.loss.text_bank=0"))  # fmt: skip

    def _fill(self, batch: dict[str, np.ndarray], row: int, position: int, index: int) -> tuple[int, int] | None:
        """Put a picture into a row: the planned sample or the first good substitute.

        Returns:
            (index, caption choice) of what was put there, None where all tries were bad.
        """
        recipe, place = self.recipe, batch["image"][row]
        # One generator a position, whoever stands in there: workers, hosts and restarts cannot tell.
        rng = order.generator(recipe.seed, position)
        for attempt in range(TRIES):
            if attempt:
                index = self.order.substitute(position, attempt)
            batch["tried"][row, attempt] = index
            try:
                picture, captions = self._picture(index, place)
            except BadSample as bad:
                batch["fault"][row, attempt] = 1 + KINDS.index(bad.kind)
                continue
            choice = _choice(rng, captions, recipe.captions)
            if recipe.canvas:
                batch["crop"][row] = train_crop(picture, rng, recipe.augment, place)
            else:
                place[:] = train_transform(picture, rng, recipe.image_size, recipe.augment, recipe.policy)
            return index, choice
        return None

    def _picture(self, index: int, place: np.ndarray) -> tuple[Picture, int]:
        """The decoded picture of a sample, in its place in the batch where that serves, and its number of captions."""
        kept = self._cache.get(index)
        if kept is None:
            self.reading[threading.get_ident()] = index  # stays there while the read hangs
            try:
                data, captions = self.source.pair(index, self.recipe.limits.max_bytes)
            finally:
                del self.reading[threading.get_ident()]
            # a picture that is kept must not lie in a batch
            canvas = place if self.recipe.canvas and not self.recipe.cache_bytes else None
            kept = load_pixels(data, self.recipe.policy, self.recipe.limits, canvas), len(captions)
            self._cache.put(index, *kept)
        return kept


def _choice(rng: np.random.Generator, captions: int, rule: str) -> int:
    """Which of a sample's captions its position takes: by the first number of the position's generator, or the first.

    Drawn also for a single caption and where none is chosen, so that the view does not hang on it.
    """
    drawn = int(rng.random() * captions)
    return drawn if rule == "random" else 0
