"""Token ids equal those of transformers' own tokenizer; padding and truncation are ours."""

import json
import pickle
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from reference import ROOT as REFERENCE_ROOT
from small_models import write_tokenizer

from lit_tune.errors import ConfigError
from lit_tune.text import weights
from lit_tune.text.tokenizer import Tokenizer

REFERENCE = REFERENCE_ROOT / "c_text_towers"


def minilm_folder() -> Path:
    """The real text tower's files, if this machine has them."""
    try:
        return weights.find(SimpleNamespace(model="all-MiniLM-L6-v2", revision="", sha256=""), download=False).folder
    except ConfigError:
        pytest.skip("text weights not cached")


def test_ids_and_mask_of_minilm_equal_the_reference() -> None:
    sentences = REFERENCE / "minilm.sentences.json"
    if not sentences.is_file():
        pytest.skip(f"no {sentences}")
    reference = np.load(REFERENCE / "minilm.io.npz")
    tokenizer = Tokenizer(minilm_folder(), "", 256)
    input_ids, attention_mask = tokenizer.pad(tokenizer(json.loads(sentences.read_text())))
    np.testing.assert_array_equal(input_ids, reference["input_ids"])
    np.testing.assert_array_equal(attention_mask, reference["attention_mask"])


def test_padding_and_truncation_of_the_file_are_switched_off(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_tokenizer(tmp_path), "", 512)
    assert [ids.tolist() for ids in tokenizer(["a cat", ""])] == [[2, 4, 5, 3], [2, 3]]
    assert len(tokenizer(["dogs " * 200])[0]) == 402


def test_truncation_counts_prefix_and_special_tokens_and_keeps_the_last_special(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_tokenizer(tmp_path), "query: ", 5)
    ids = tokenizer(["a red cat"])[0]
    assert ids.tolist() == [2, 11, 10, 4, 3]
    assert ids.dtype == np.int32


def test_prefix_of_a_call_replaces_the_stored_one(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_tokenizer(tmp_path), "query: ", 9)
    assert tokenizer(["cat"], prefix="")[0].tolist() == [2, 5, 3]
    assert tokenizer(["cat"], prefix="red ")[0].tolist() == [2, 8, 5, 3]


def test_pad_fills_to_max_length_with_the_pad_id_and_masks_it(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_tokenizer(tmp_path), "", 6)
    input_ids, attention_mask = tokenizer.pad(tokenizer(["a cat", "dog"]))
    assert input_ids.tolist() == [[2, 4, 5, 3, 0, 0], [2, 6, 3, 0, 0, 0]]
    assert attention_mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]]
    assert input_ids.dtype == attention_mask.dtype == np.int32
    assert tokenizer.pad([])[0].shape == (0, 6)


def test_digest_does_not_depend_on_the_file_s_padding_but_on_its_words(tmp_path: Path) -> None:
    padded, plain = write_tokenizer(tmp_path / "a"), write_tokenizer(tmp_path / "b", padded=False)
    assert Tokenizer(padded, "", 9).sha256 == Tokenizer(plain, "x", 12).sha256
    page = (plain / "tokenizer.json").read_text().replace('"dog"', '"hog"')
    (plain / "tokenizer.json").write_text(page)
    assert Tokenizer(padded, "", 9).sha256 != Tokenizer(plain, "", 9).sha256


def test_a_pickled_tokenizer_gives_the_same_ids(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_tokenizer(tmp_path), "query: ", 9)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy(["dogs"])[0].tolist() == tokenizer(["dogs"])[0].tolist()
    assert (copy.prefix, copy.max_length, copy.sha256) == ("query: ", 9, tokenizer.sha256)


def test_a_folder_with_only_a_vocabulary_goes_through_transformers(tmp_path: Path) -> None:
    source = minilm_folder()
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "config.json"):
        shutil.copy(source / name, tmp_path / name)
    texts = ["Crème brûlée, 2 jalapeño poppers", "日本の首都", "hello   world"]
    ours, theirs = Tokenizer(source, "", 64)(texts), Tokenizer(tmp_path, "", 64)(texts)
    assert [ids.tolist() for ids in ours] == [ids.tolist() for ids in theirs]


def test_a_broken_tokenizer_file_and_a_max_length_without_room_are_one_line(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match=r"config.text.max_length: expected more than the 2 special tokens"):
        Tokenizer(tmp_path, "", 2)
    (tmp_path / "tokenizer.json").write_text("<html>")
    with pytest.raises(ConfigError, match="tokenizer.json: expected a tokenizer.json") as caught:
        Tokenizer(tmp_path, "", 9)
    assert "\n" not in str(caught.value)


def test_tokenizing_imports_neither_jax_nor_torch(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; from pathlib import Path; from lit_tune.text.tokenizer import Tokenizer\n"
        f"Tokenizer(Path({str(write_tokenizer(tmp_path))!r}), '', 9)(['cat'])\n"
        "sys.exit(any(name in sys.modules for name in ('jax', 'torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0
