"""A process's share of each global batch as numpy arrays: a function of the step, whoever computes it and when."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from lit_tune.data import order
from lit_tune.data.sample import KINDS, BadSample, Source
from lit_tune.data.text_rows import TextRows
from lit_tune.data.transforms import Augment, Limits, load_image, train_transform
from lit_tune.errors import DataError, explain

TRIES = 16  # samples tried for one row; with one in ten bad, all fail once in 10**16 rows
WINDOW = 10_000  # samples over which config.data.max_bad_fraction is taken


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the rows of a batch hold, beside the source and the text.

    Attributes:
        seed: of the run.
        image_size: (height, width) in pixels.
        policy: see `transforms`.
        limits, augment: see `transforms`.
        cache_bytes: memory for decoded pictures; 0 for none.
    """

    seed: int
    image_size: tuple[int, int]
    policy: str
    limits: Limits
    augment: Augment
    cache_bytes: int

    @classmethod
    def of(cls, config: Any) -> "Recipe":
        """The recipe that a whole run config describes."""
        data = config.data
        return cls(
            config.seed, tuple(config.vision.image_size), data.policy,
            Limits(data.max_image_mib << 20, data.max_pixels),
            Augment(tuple(data.crop_scale), tuple(data.crop_ratio), data.flip, data.color_jitter, data.grayscale,
                    data.rotate),
            data.cache_decoded_mib << 20,
        )  # fmt: skip


class PictureCache:
    """Decoded pictures with their number of captions, kept until the memory is used up; nothing is thrown out.

    A fixed set serves as well as the most recent ones where every epoch visits all pictures in another order. Threads
    need no lock: the worst race decodes one picture twice.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._kept: dict[int, tuple[Image.Image, int]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process empty."""
        return PictureCache, (self._left,)

    def get(self, index: int) -> tuple[Image.Image, int] | None:
        """The picture of sample `index` and its number of captions, if kept."""
        return self._kept.get(index)

    def put(self, index: int, picture: Image.Image, captions: int) -> None:
        """Keep a picture where it still fits."""
        size = 4 * picture.width * picture.height  # Pillow stores RGB in four bytes
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

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """One step's rows, h of them.

        Args:
            step: of the run; may lie anywhere.

        Returns:
            `image` uint8 (h, height, width, 3); the text provider's arrays (h, ...); `tried` int64 (h, TRIES), the
            indices tried for each row, -1 after the last; `fault` uint8 (h, TRIES), 0 or 1 + place in KINDS of what
            was wrong with each. After a row for which all were bad, the rest stays empty.
        """
        height, width = self.recipe.image_size
        count = len(self.rows)
        batch = {
            "image": np.zeros((count, height, width, 3), np.uint8),
            "tried": np.full((count, TRIES), -1, np.int64),
            "fault": np.zeros((count, TRIES), np.uint8),
        }
        positions = self.order.positions(step, self.rows)
        planned = self.order.locate(positions)
        for row, (position, index) in enumerate(zip(positions.tolist(), planned.tolist(), strict=True)):
            found = self._fill(batch, row, position, index)
            if found is None:
                break
            # The provider decides which arrays there are; their shapes are known from the first row on.
            for name, value in self.text.row(*found).items():
                if name not in batch:
                    batch[name] = np.zeros((count, *value.shape), value.dtype)
                batch[name][row] = value
        if self.bank_rows is not None:
            batch |= self._bank(step)
        return batch

    def _bank(self, step: int) -> dict[str, np.ndarray]:
        """Texts planned for the steps before: those of step - 1 first, then of step - 2, ..."""
        recipe = self.recipe
        positions = self.order.past_positions(step, self.bank_rows)
        planned = self.order.locate(positions)
        texts = [self.text.row(index, _choice(order.generator(recipe.seed, position), self.text.captions(index)))
                 for position, index in zip(positions.tolist(), planned.tolist(), strict=True)]
        return {f"bank_{name}": np.stack([row[name] for row in texts]) for name in ("ztxt", "caption_id")}

    def _fill(self, batch: dict[str, np.ndarray], row: int, position: int, index: int) -> tuple[int, int] | None:
        """Put a picture into a row: the planned sample or the first good substitute.

        Returns:
            (index, caption choice) of what was put there, None where all tries were bad.
        """
        recipe = self.recipe
        # One generator a position, whoever stands in there: workers, hosts and restarts cannot tell.
        rng = order.generator(recipe.seed, position)
        for attempt in range(TRIES):
            if attempt:
                index = self.order.substitute(position, attempt)
            batch["tried"][row, attempt] = index
            try:
                picture, captions = self._picture(index)
            except BadSample as bad:
                batch["fault"][row, attempt] = 1 + KINDS.index(bad.kind)
                continue
            choice = _choice(rng, captions)
            batch["image"][row] = train_transform(picture, rng, recipe.image_size, recipe.augment)
            return index, choice
        return None

    def _picture(self, index: int) -> tuple[Image.Image, int]:
        """The decoded picture of a sample and how many captions it has."""
        kept = self._cache.get(index)
        if kept is None:
            data, captions = self.source.pair(index, self.recipe.limits.max_bytes)
            kept = load_image(data, self.recipe.policy, self.recipe.limits), len(captions)
            self._cache.put(index, *kept)
        return kept


def _choice(rng: np.random.Generator, captions: int) -> int:
    """Which of a sample's captions its position takes: the first number of the position's generator.

    Drawn also for a single caption, so that the view does not hang on how many there are.
    """
    return int(rng.random() * captions)


class Quarantine:
    """Counts refused samples, remembers each of them once, and ends the run when there are too many.

    Args:
        source: names the samples.
        max_bad_fraction: of a window of WINDOW samples.
    """

    def __init__(self, source: Source, max_bad_fraction: float) -> None:
        self.counts: Counter[str] = Counter(samples=0, bad=0)
        self._source = source
        self._max_fraction = max_bad_fraction
        self._window: deque[tuple[int, int]] = deque()
        self._known: set[int] = set()
        self._lines: list[dict[str, Any]] = []

    def take(self, tried: np.ndarray, fault: np.ndarray) -> None:
        """Count a batch's tries (see HostBatches).

        Raises:
            DataError: a row had no usable sample in TRIES, or the window holds too many bad ones.
        """
        for row, attempt in np.argwhere(fault):
            self._add(int(tried[row, attempt]), KINDS[fault[row, attempt] - 1])
        samples, bad = int((tried >= 0).sum()), int((fault > 0).sum())
        self.counts["samples"] += samples
        self.counts["bad"] += bad
        self._window.append((samples, bad))
        # Whole batches leave the window, and never so many that it covers less than WINDOW samples.
        while sum(n for n, _ in self._window) - self._window[0][0] >= WINDOW:
            self._window.popleft()
        if fault.all(axis=1).any():
            raise self._too_many(f"{TRIES} bad ones in a row for one place")
        seen, recent = (sum(column) for column in zip(*self._window, strict=True))
        if recent > self._max_fraction * max(seen, WINDOW):  # a short start is not yet a rate
            raise self._too_many(f"{recent} bad ones among the last {seen}")

    def drain(self) -> list[dict[str, Any]]:
        """Lines for quarantine.jsonl since the last call: index, shard, key, kind; each sample once in a run."""
        lines, self._lines = self._lines, []
        return lines

    def _add(self, index: int, kind: str) -> None:
        self.counts[kind] += 1
        if index not in self._known:
            self._known.add(index)
            shard, key = self._source.describe(index)
            self._lines.append({"shard": shard, "key": key, "kind": kind, "index": index})

    def _too_many(self, found: str) -> DataError:
        kinds = ", ".join(f"{kind} {self.counts[kind]}" for kind in KINDS if self.counts[kind])
        first = ", ".join("/".join(self._source.describe(index)) for index in sorted(self._known)[:3])
        return DataError(
            explain(self._source.spec, expected=f"at most {self._max_fraction:.3%} bad samples",
                    found=f"{found} ({kinds}; such as {first})",
                    do="look at them with `lit-tune data inspect`, or raise config.data.max_bad_fraction")
        )  # fmt: skip
