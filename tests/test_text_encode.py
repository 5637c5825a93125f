"""Text vectors equal the reference, whatever they are encoded together with."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import reference
from safetensors.numpy import save_file
from small_models import small_config, text_encoder, write_text_tower, write_tokenizer

from lit_tune import convert
from lit_tune.errors import ConfigError
from lit_tune.text import encode, weights
from lit_tune.text.cache_build import open_or_build
from lit_tune.text.encode import TextEncoder, buckets

TEXTS = ["a cat", "", "the red dogs", "a big red cat on the mat " * 9, "dog", "a cat on the mat"]
MINILM = SimpleNamespace(model="all-MiniLM-L6-v2", revision="", sha256="", prefix="", max_length=256, pool="mean",
                         layer_norm=False, dim=0)  # fmt: skip


def minilm() -> TextEncoder:
    """The real text tower, if this machine has its weights."""
    try:
        return TextEncoder.from_files(weights.find(MINILM, download=False), MINILM)
    except ConfigError:
        pytest.skip("text weights not cached")


def minilm_reference() -> tuple[list[str], dict[str, np.ndarray]]:
    """64 sentences and what sentence-transformers makes of them."""
    folder = reference.ROOT / "c_text_towers"
    if not (folder / "minilm.sentences.json").is_file():
        pytest.skip(f"no minilm.sentences.json in {folder}")
    return json.loads((folder / "minilm.sentences.json").read_text()), reference.arrays("c_text_towers", "minilm")


@pytest.fixture
def encoder(tmp_path: Path) -> TextEncoder:
    return text_encoder(small_config(write_text_tower(tmp_path / "text")))


def test_minilm_from_sentence_through_the_cache_to_unit_vector_equals_the_reference(tmp_path: Path) -> None:
    sentences, stored = minilm_reference()

    class Source:
        spec = fingerprint = "minilm"

        def __len__(self) -> int:
            return len(sentences)

        def caption_sets(self) -> Iterator[tuple[str, ...]]:
            return ((sentence,) for sentence in sentences)

        def captions(self, i: int) -> tuple[str, ...]:
            return (sentences[i],)

    cache = open_or_build(Source(), minilm(), tmp_path / "cache")
    read = np.stack([cache.vector(i, 0) for i in range(len(cache))])
    assert cache.unique < len(sentences)  # hello / HELLO, " " / ""
    reference.check("minilm", {"embedding": read}, {"embedding": stored["embedding"]}, reference.FORWARD)


@pytest.mark.parametrize("case", [c for c in reference.cases("c_text_nomic") if c != "nomic_text_ntk"])
def test_nomic_text_from_its_files_with_layer_norm_and_a_cut_equals_the_reference(case: str, tmp_path: Path) -> None:
    # the ntk case is compared where the tower is: there the peer's vector depends on its batch
    page, stored = reference.entry("c_text_nomic", case)["config"], reference.arrays("c_text_nomic", case)
    write_tokenizer(tmp_path)
    save_file(reference.weights("c_text_nomic", case), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(page | {"model_type": "nomic_bert"}))
    rows = zip(stored["input_ids"], stored["attention_mask"], strict=True)
    ids = [row[mask == 1].astype(np.int32) for row, mask in rows]
    cuts = sorted(name for name in stored if "matryoshka" in name)
    ours, theirs = {}, {}
    for name in ["embedding_layer_norm", *cuts[:1]]:
        dim = int(name.rpartition("_")[2]) if "matryoshka" in name else 0
        encoder = text_encoder(small_config(tmp_path, text__layer_norm=True, text__dim=dim))
        ours[name], theirs[name] = encoder.encode_ids(ids), stored[name]
    reference.check(case, ours, theirs, reference.FORWARD)


def test_vectors_equal_those_of_the_converted_tower(encoder: TextEncoder, tmp_path: Path) -> None:
    config = json.loads((tmp_path / "text" / "config.json").read_text())
    plain = convert.text(tmp_path / "text", config, "hf")
    pooled = np.asarray(plain(*encoder.tokenizer.pad(encoder.tokenizer(TEXTS))))
    expected = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-6)


def test_a_text_s_vector_does_not_depend_on_its_neighbours(encoder: TextEncoder) -> None:
    together = encoder.encode(TEXTS * 20)
    np.testing.assert_array_equal(together[:6], together[6:12])
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1])[::-1], together[:6], atol=1e-6)
    np.testing.assert_allclose(np.concatenate([encoder.encode([text]) for text in TEXTS]), together[:6], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert together.dtype == np.float32


def test_two_shapes_are_compiled_a_bucket_whatever_the_number_of_texts(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, run = set(), encoder._run

    def note(params: object, input_ids: np.ndarray, attention_mask: np.ndarray) -> jax.Array:
        shapes.add(input_ids.shape)
        assert attention_mask.sum(axis=1).min() > 0  # no row without a token
        return run(params, input_ids, attention_mask)

    monkeypatch.setattr(encoder, "_run", note)
    for count in (1, 2, 5, 33, 40):
        encoder.encode(["a cat", "a big red cat on the mat"] * count)
    assert shapes == {(4, 8), (4, 16), (32, 8), (32, 16)}


def test_buckets_hold_every_text_once_in_the_smallest_shape() -> None:
    lengths = [3, 8, 9, 200, 77, 1, 64]
    found = buckets(lengths)
    assert found == {8: [0, 1, 5], 16: [2], 64: [6], 96: [4], 256: [3]}
    with pytest.raises(ValueError, match="a text of 9000 tokens: at most 8192"):
        buckets([9000])


def test_no_texts_give_no_rows(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, 16)


def test_prefix_is_put_before_every_text_unless_another_is_given(encoder: TextEncoder) -> None:
    np.testing.assert_array_equal(encoder.encode(["cat"]), encoder.encode(["query: cat"], prefix=""))
    assert np.abs(encoder.encode(["cat"]) - encoder.encode(["cat"], prefix="")).max() > 1e-3


def test_pool_layer_norm_and_dim_of_the_config_are_those_of_the_vectors(tmp_path: Path) -> None:
    folder = write_text_tower(tmp_path / "text")
    config = small_config(folder, text__pool="cls", text__layer_norm=True, text__dim=8)
    encoder = text_encoder(config)
    page = json.loads((folder / "config.json").read_text())
    tokens = np.asarray(
        convert.text(folder, page, "hf").tokens(*encoder.tokenizer.pad(encoder.tokenizer(["a cat"])))
    )
    first = tokens[0, 0]
    normed = ((first - first.mean()) / np.sqrt(first.var() + 1e-5))[:8]
    np.testing.assert_allclose(encoder.encode(["a cat"])[0], normed / np.linalg.norm(normed), atol=1e-5)
    assert encoder.dim == 8


def test_the_fingerprint_changes_with_everything_that_changes_a_vector(tmp_path: Path) -> None:
    folder = write_text_tower(tmp_path / "text")
    changes = [{}, {"text__pool": "cls"}, {"text__layer_norm": True}, {"text__dim": 8}, {"text__prefix": ""},
               {"text__max_length": 9}]  # fmt: skip
    prints = [json.dumps(text_encoder(small_config(folder, **change)).fingerprint) for change in changes]
    prints.append(json.dumps(text_encoder(small_config(write_text_tower(tmp_path / "other", seed=1))).fingerprint))
    assert len(set(prints)) == len(prints)
    moved = write_text_tower(tmp_path / "moved")  # the same files elsewhere
    assert json.dumps(text_encoder(small_config(moved)).fingerprint) == prints[0]


def test_an_encoder_is_made_and_told_apart_without_reading_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(encode.weight_files, "read", refuse)
    assert text_encoder(small_config(write_text_tower(tmp_path / "text"))).fingerprint


def test_more_tokens_than_positions_are_refused(tmp_path: Path) -> None:
    folder = write_text_tower(tmp_path / "text")
    with pytest.raises(ConfigError, match="max_length: expected at most 40 tokens for this tower, found 41"):
        text_encoder(small_config(folder, text__max_length=41))


def test_description_is_json_and_rebuilds_the_same_tower(encoder: TextEncoder) -> None:
    page = json.loads(json.dumps(encoder.description))
    assert encode.text_tower(page) == encoder.tower
    assert page["kind"] == "text" and page["family"] == "bert" and page["format"] == 1
    assert page["text"] | {"weights_sha256": "", "name": ""} == {
        "prefix": "query: ", "max_length": 12, "tokenizer": "tokenizer.json", "normalize": True, "weights_sha256": "",
        "name": "",
    }  # fmt: skip
    for change in ({"family": "eva02"}, {"spec": {"width": 3}}):
        with pytest.raises(ConfigError, match="text_tower.json"):
            encode.text_tower(page | change)
