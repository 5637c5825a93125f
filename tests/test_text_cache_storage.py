"""Rounded text vectors: their bytes, their error, and a training loss that does not notice."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lit_tune import config as config_lib, live_text, losses, sharding
from lit_tune.data.sources import open_source
from lit_tune.data.text_rows import CachedText, TokenText
from lit_tune.errors import ConfigError
from lit_tune.text import cache_storage
from lit_tune.text.cache_build import open_or_build
from lit_tune.text.provider import open_encoder

BOUNDS = {"float32": 3e-7, "bfloat16": 2**-8, "int8": 0.012}  # length of the error of a unit row of 768 numbers


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Unit rows of 768 random numbers."""
    vectors = np.random.default_rng(3).standard_normal((500, 768)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", cache_storage.DTYPES)
def test_a_row_comes_back_as_a_unit_row_near_the_one_that_was_stored(dtype: str, rows: np.ndarray) -> None:
    back = cache_storage.unpack(cache_storage.pack(rows, dtype))
    assert back.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(back.astype(np.float64), axis=1), 1, atol=1e-6)
    assert np.linalg.norm(back - rows, axis=1).max() < BOUNDS[dtype]


def test_bfloat16_rounds_as_jax_does_and_int8_as_a_scale_of_the_row_would(rows: np.ndarray) -> None:
    words = cache_storage.pack(rows, "bfloat16")
    np.testing.assert_array_equal(words.view(jnp.bfloat16), np.asarray(jnp.asarray(rows).astype(jnp.bfloat16)))
    numbers = cache_storage.pack(rows, "int8")
    assert (np.abs(numbers.astype(int)).max(axis=1) == 127).all()
    scaled = numbers * (np.abs(rows).max(axis=1, keepdims=True) / 127)
    assert np.abs(scaled - rows).max() <= np.abs(rows).max() / 254 * 1.001  # half a step of the coarsest row
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    np.testing.assert_allclose(cache_storage.unpack(numbers), scaled, atol=1e-7)  # with or without it: the same row


@pytest.mark.parametrize("dtype, size", [("float32", 3072), ("bfloat16", 1536), ("int8", 768)])
def test_bytes_of_a_row_are_those_of_the_file(dtype: str, size: int, rows: np.ndarray) -> None:
    assert cache_storage.row_bytes(768, dtype) == size == cache_storage.pack(rows, dtype).nbytes / len(rows)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_loss_of_stored_vectors_is_that_of_live_text(
    loss: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "WIDTH", 768)  # as real towers: the error of a cosine falls with the root of the width
    pictures, text = tiny.picture_folder(tmp_path / "pictures"), tiny.text_folder(tmp_path / "text")
    config = config_lib.load("quickstart", [
        ("text.model", str(text)), ("text.max_length", "16"), ("data.caption_field", "txt"),
        ("vision.embed_dim", str(tiny.WIDTH))])
    source, encoder = open_source(str(pictures), config.data), open_encoder(config)
    cached = CachedText(open_or_build(source, encoder, tmp_path / "cache", dtype))
    live = TokenText(source, encoder.tokenizer, 16)
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    values = [jnp.float32(np.log(1 / 0.07))] + [jnp.float32(-10)] * (loss == "sigmoid")
    # 240 rows, each caption with ten pictures: the rounding of a row is random, and the loss is a mean over rows
    batch = np.random.default_rng(0).permutation(240).tolist()
    ids, mask = (jnp.stack([live.row(i % 24, 0)[name] for i in batch]) for name in ("input_ids", "attention_mask"))
    wanted = live_text.embed(encoder.tower, encoder.params, ids, mask, dtype=jnp.float32, mesh=mesh, lengths=(),
                             parts=1)
    stored = np.stack([cached.row(i % 24, 0)["ztxt"] for i in batch])
    assert not np.array_equal(stored, wanted)  # it was rounded
    zimg = np.asarray(wanted) + np.random.default_rng(1).standard_normal(wanted.shape) / 28
    zimg = jnp.asarray(zimg / np.linalg.norm(zimg, axis=1, keepdims=True), jnp.float32)
    results = [float(losses.named(loss)(zimg, jnp.asarray(texts), *values)[0]) for texts in (wanted, stored)]
    assert results[1] == pytest.approx(results[0], rel=3e-4)


def test_another_dtype_is_another_cache(tmp_path: Path) -> None:
    from test_text_cache import SETS, Encoder, Source

    made = open_or_build(Source(SETS), Encoder(), tmp_path / "cache", "int8")
    assert json.loads((made.folder / "cache.json").read_text())["dtype"] == "int8"
    assert made.vectors[0].dtype == np.int8
    with pytest.raises(ConfigError, match="expected dtype 'bfloat16', found 'int8'"):
        open_or_build(Source(SETS), Encoder(), tmp_path / "cache", "bfloat16")
