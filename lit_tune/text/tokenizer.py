"""Captions to token ids, through the tokenizer that came with the text tower's weights. No jax here.

Trap: published tokenizer.json files may carry their own padding and truncation (all-MiniLM-L6-v2: both at 128), which
would make nine tenths of a short caption's work padding. Both are switched off and ours are used.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_tune.errors import ConfigError, explain


class Tokenizer:
    """`tokenizer(texts)` -> one int32 array of token ids per text, special tokens included, unpadded.

    Args:
        folder: where tokenizer.json is; without one, transformers makes it from the other files there.
        prefix: put before every text, not stripped ("search_query: ").
        max_length: most tokens a text, prefix and special tokens included; the end of a longer text is cut off.
    """

    def __init__(self, folder: Path, prefix: str, max_length: int) -> None:
        self.prefix = prefix
        self.max_length = max_length
        self._tokenizer = _read(folder)
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_length <= special:
            raise ConfigError(
                explain(
                    "config.text.max_length",
                    expected=f"more than the {special} special tokens",
                    found=max_length,
                    do="raise it",
                )
            )
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self.pad_id = _pad_id(self._tokenizer)
        # of what the tokenizer does, not of the file's spelling: the padding and truncation there do not count
        self.sha256 = hashlib.sha256(_without_lengths(self._tokenizer).encode()).hexdigest()

    def __call__(self, texts: Sequence[str], prefix: str | None = None) -> list[np.ndarray]:
        """int32 token ids (s,) of each text, s <= max_length.

        Args:
            texts: what to tokenise; an empty text gives the special tokens alone.
            prefix: instead of the stored one.
        """
        prefix = self.prefix if prefix is None else prefix
        encodings = self._tokenizer.encode_batch_fast([prefix + text for text in texts])
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def pad(self, ids: Sequence[np.ndarray], length: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(input_ids, attention_mask), both int32 (b, length): ids padded on the right, 1 at real tokens.

        Args:
            ids: token ids of each text, (s,) each.
            length: columns; 0 takes max_length, which keeps one compiled shape.
        """
        length = length or self.max_length
        input_ids = np.full((len(ids), length), self.pad_id, np.int32)
        attention_mask = np.zeros((len(ids), length), np.int32)
        for row, one in enumerate(ids):
            input_ids[row, : len(one)] = one
            attention_mask[row, : len(one)] = 1
        return input_ids, attention_mask

    def save(self, path: Path) -> None:
        """Write it as a tokenizer.json without padding and truncation."""
        path.write_text(_without_lengths(self._tokenizer))


def _read(folder: Path) -> Any:
    """A `tokenizers.Tokenizer` of the folder."""
    import tokenizers

    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            return tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for a file it cannot read
            raise ConfigError(
                explain(str(path), expected="a tokenizer.json", found=str(error)[:160], do="fetch the file again")
            ) from error
    return _through_transformers(folder)


def _through_transformers(folder: Path) -> Any:
    """The same object, made by transformers from vocab.txt or a sentencepiece model."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except (AttributeError, OSError, ValueError, ImportError) as error:
        raise ConfigError(
            explain(
                f"tokenizer in {folder}",
                expected="tokenizer.json, or files transformers can make one from",
                found=f"{type(error).__name__}: {str(error)[:160]}",
                do="add the model's tokenizer.json",
            )
        ) from error


def _pad_id(tokenizer: Any) -> int:
    """The id that fills rows up; the mask hides it, so 0 will do for a vocabulary without one."""
    for token in ("[PAD]", "<pad>", "<|endoftext|>"):
        found = tokenizer.token_to_id(token)
        if found is not None:
            return int(found)
    return 0


def _without_lengths(tokenizer: Any) -> str:
    """The tokenizer's JSON without truncation and padding."""
    import tokenizers

    copy = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy.to_str()
