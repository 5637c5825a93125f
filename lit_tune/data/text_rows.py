"""The text side of a row, as the loader asks for it, from cached vectors or as token ids for a live tower.

A provider needs one method, `row`; where `config.loss.extra_negatives` is used also `extra`, with
`config.loss.text_bank` also `captions`. The loader calls `row` in its decoding threads and, with workers, in other
processes: it must be thread-safe and cheap to pickle.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lit_tune.data import order
from lit_tune.data.captions import token_caption_id
from lit_tune.data.sample import Source
from lit_tune.errors import ConfigError, explain


@runtime_checkable
class TextRows(Protocol):
    """The text side of the batches."""

    def row(self, index: int, choice: int) -> dict[str, np.ndarray]:
        """Arrays of one row: `caption_id` uint32 (2,) and `ztxt` (d,), or `input_ids` and `attention_mask` int32 (s,).

        Args:
            index: of the sample in its source.
            choice: which of the sample's captions, below their number.
        """
        ...


class CachedText:
    """Rows of a `lit_tune.text.cache.TextCache`.

    Args:
        cache: has `vector(i, j)`, `caption_id(i)`, `take(rows)`, `unique`, `rows`, `offsets`, `caption_ids`.
    """

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self._owners: np.ndarray | None = None

    def row(self, index: int, choice: int) -> dict[str, np.ndarray]:
        """`ztxt` float32 (d,) and `caption_id` uint32 (2,)."""
        return {"ztxt": self.cache.vector(index, choice), "caption_id": self.cache.caption_id(index)}

    def extra(self, step: int, k: int, seed: int) -> dict[str, np.ndarray]:
        """Distinct captions of this step; each carries the id of the first sample that has it, so masking sees it."""
        if self._owners is None:
            # The mask compares sets of captions, so a lone caption takes the id of a sample that it stands for.
            _, first = np.unique(self.cache.rows, return_index=True)
            self._owners = np.searchsorted(self.cache.offsets, first, side="right") - 1
        rows = order.extra_rows(step, k, self.cache.unique, seed)
        return {"extra_ztxt": self.cache.take(rows), "extra_caption_id": self.cache.caption_ids[self._owners[rows]]}


    def captions(self, index: int) -> int:
        """How many captions a sample has."""
        return self.cache.captions(index)


class TokenText:
    """Captions of a source as token ids for a text tower that runs inside the step.

    Args:
        source: where the captions come from.
        tokenizer: texts -> one id array each, prefix and truncation included, not padded.
        max_length: columns of the result.
        joined: all captions of a sample as one text, a blank between them, instead of one of them.
    """

    def __init__(
        self, source: Source, tokenizer: Callable[[Sequence[str]], list[np.ndarray]], max_length: int,
        joined: bool = False,
    ) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.joined = joined

    def row(self, index: int, choice: int) -> dict[str, np.ndarray]:
        """`input_ids` and `attention_mask` int32 (max_length,), zeros after the text, and `caption_id`."""
        captions = self.source.captions(index)
        tokens = self.tokenizer(captions)  # of each: the id stands for the set of them, however they are put together
        chosen = self.tokenizer([" ".join(captions)])[0] if self.joined else tokens[choice]
        ids = np.zeros(self.max_length, np.int32)
        ids[: len(chosen)] = chosen
        mask = (np.arange(self.max_length) < len(chosen)).astype(np.int32)
        return {"input_ids": ids, "attention_mask": mask, "caption_id": token_caption_id(tokens)}

    def extra(self, step: int, k: int, seed: int) -> dict[str, np.ndarray]:
        """Not offered: a live tower would have to encode them in the step."""
        del step, seed
        raise ConfigError(
            explain("config.loss.extra_negatives", expected="0 with config.text.source 'live'", found=k,
                    do="set text.source to cached, or extra_negatives to 0")
        )  # fmt: skip
