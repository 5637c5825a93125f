"""onnxruntime and fastembed give our vectors from the ONNX files that we write."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastembed
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from fastembed.common.model_description import DenseModelDescription, ModelSource, PoolingType
from fastembed.image.onnx_embedding import supported_onnx_models
from jax.export import symbolic_shape
from PIL import Image
from small_models import WORDS, write_tokenizer

from lit_tune import tree
from lit_tune.convert import onnx_session
from lit_tune.data.transforms import eval_transform
from lit_tune.errors import ConfigError
from lit_tune.exports import onnx as onnx_export, preprocessing
from lit_tune.exports.onnx_graph import Input, translate
from lit_tune.exports.onnx_ops import OPS
from lit_tune.model import EMBED as EMBED_IMAGE
from lit_tune.models import layers, linear, two_towers
from lit_tune.models.bert import BertSpec
from lit_tune.models.clip_text import ClipTextSpec
from lit_tune.models.eva02 import VARIANTS
from lit_tune.models.jina_bert import JinaBertSpec
from lit_tune.models.modern_bert import ModernBertSpec
from lit_tune.models.nomic_bert import NomicBertSpec
from lit_tune.models.vision import resample_positions
from lit_tune.models.vit import VitSpec
from lit_tune.text.encode import EMBED as EMBED_TEXT
from lit_tune.text.tokenizer import Tokenizer

pytestmark = pytest.mark.interop
CLOSE = 1e-5  # of components of unit vectors; 1e-4 is the format's tolerance

SMALL = dict(image_size=(32, 48), patch_size=8, width=32, depth=2, num_heads=2, mlp_dim=48, pool_mlp_dim=48)
PREPROCESS = {"image_size": [32, 48], "resize": "squash", "interpolation": "bicubic", "policy": "reference",
              "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}  # fmt: skip
EVA = dataclasses.replace(VARIANTS["eva02_base_patch14_224"], **SMALL)
VIT = VitSpec(**SMALL, qkv_bias=True, class_token=True, pos_embed=True, pos_embed_grid=(0, 0), norm_eps=1e-5,
              pool="cls", pool_norm_eps=1e-5, final_norm=True, embed_dim=20, embed_bias=False, act="quick_gelu",
              pre_norm=True, patch_bias=False, norm_after_pool=False)  # fmt: skip
SIGLIP = dict(pool="map", class_token=False, act="gelu_tanh", pre_norm=False, patch_bias=True, embed_dim=0)
VISION = {
    "CLIP": VIT, "SigLIP": dataclasses.replace(VIT, **SIGLIP), **{name: dataclasses.replace(EVA, **changes)
    for name, changes in {
    "map": dict(pool="map"), "nomic": dict(pool="nomic"), "cls": dict(pool="cls", attn_inner_norm=True),
    "mean, fused": dict(pool="mean", qkv_fused=True, sub_ln=False), "projection": dict(pool="map", embed_dim=20),
    "positions of another grid": dict(pool="map", pos_embed_grid=(3, 5), embed_dim=20, embed_bias=True),
    }.items()},
}  # fmt: skip
BERT = BertSpec(vocab_size=len(WORDS), max_positions=20, type_vocab=2, width=32, depth=2, num_heads=2, mlp_dim=48,
                norm_eps=1e-12, pool="mean", layer_norm=False, dim=0)  # fmt: skip
NOMIC = NomicBertSpec(vocab_size=50, type_vocab=2, width=32, depth=2, num_heads=2, mlp_dim=40, norm_eps=1e-12,
                      rope_theta=1000.0, ntk_factor=0.0, ntk_length=8, pool="mean", layer_norm=True,
                      dim=16)  # fmt: skip
CLIP = ClipTextSpec(vocab_size=50, max_positions=20, width=32, depth=2, num_heads=2, mlp_dim=48, norm_eps=1e-5,
                    act="quick_gelu", causal=True, pool="argmax", eos_id=7, pad_id=1, embed_dim=24, proj_bias=False,
                    layer_norm=False, dim=0)  # fmt: skip
MODERN = ModernBertSpec(vocab_size=50, width=32, depth=4, num_heads=2, mlp_dim=48, norm_eps=1e-5, global_every=3,
                        window=2, global_theta=1e4, local_theta=1e2, pool="mean", layer_norm=False,
                        dim=0)  # fmt: skip
JINA = JinaBertSpec(vocab_size=50, type_vocab=2, width=36, depth=2, num_heads=3, mlp_dim=48, norm_eps=1e-12,
                    pool="mean", layer_norm=False, dim=0)  # fmt: skip
TEXT = {
    "clip": CLIP, "clip, first end of text": dataclasses.replace(CLIP, pool="eos", act="gelu"),
    "siglip": dataclasses.replace(CLIP, causal=False, pool="last", act="gelu_tanh", embed_dim=32, proj_bias=True),
    "xlm_roberta": dataclasses.replace(BERT, max_positions=22, type_vocab=1, first_position=2),
    "modern_bert": MODERN, "modern_bert last": dataclasses.replace(MODERN, pool="last"), "jina_bert": JINA,
    "bert mean": BERT, "bert cls": dataclasses.replace(BERT, pool="cls"),
    "bert with layer_norm": dataclasses.replace(BERT, layer_norm=True, dim=24), "nomic_bert": NOMIC,
    "nomic_bert with ntk": dataclasses.replace(NOMIC, ntk_factor=2.0),
}  # fmt: skip


def noisy(tower: Any, seed: int = 0) -> tree.Tree:
    """Parameters of which none is zero or one, so that a mistake in any of them shows."""
    rng = np.random.default_rng(seed)
    return tree.unflatten({n: 0.1 * rng.standard_normal(a.shape, np.float32) + n.endswith("scale")
                           for n, a in tree.flatten(tower.abstract()).items()})  # fmt: skip


def embed_image(tower: Any, params: tree.Tree, pixels: np.ndarray, preprocess: dict[str, Any]) -> jax.Array:
    """Our own vectors of uint8 pictures."""
    return EMBED_IMAGE(tower, params, pixels, tuple(preprocess["mean"]), tuple(preprocess["std"]))


def far(ours: Any, theirs: Any) -> float:
    """Largest difference of two arrays of one shape."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs)))


@pytest.mark.parametrize("name", VISION)
def test_onnxruntime_gives_our_vectors_of_pictures(name: str, tmp_path: Path) -> None:
    tower = two_towers.tower_of(VISION[name])
    params, path = noisy(tower), tmp_path / "onnx" / "model.onnx"
    onnx_export.export_vision(params, tower, path, PREPROCESS)
    embed = onnx_session.vision_session(path, PREPROCESS["mean"], PREPROCESS["std"])
    for count in (1, 3):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 32, 48, 3), np.uint8)
        assert far(embed_image(tower, params, pixels, PREPROCESS), embed({}, pixels)) <= CLOSE
    other = jax.tree.map(lambda x: x + 0.1, params)
    assert far(embed_image(tower, other, pixels, PREPROCESS), embed({}, pixels)) > 1e-3  # it does compare


@pytest.mark.parametrize("name", TEXT)
def test_onnxruntime_gives_our_vectors_of_texts_of_any_length(name: str, tmp_path: Path) -> None:
    tower = two_towers.tower_of(TEXT[name])
    params, path = noisy(tower), tmp_path / "text_model.onnx"
    onnx_export.export_text(params, tower, path, 20)
    embed, rng = onnx_session.text_session(path), np.random.default_rng(0)
    for count, length in ((1, 5), (3, 17), (1, 17), (3, 5))[: 4 if name in ("bert mean", "nomic_bert") else 2]:
        ids = rng.integers(0, tower.spec.vocab_size, (count, length)).astype(np.int32)
        mask = (np.arange(length) < np.array([[length], [length // 2], [1]])[:count]).astype(np.int32)
        assert far(EMBED_TEXT(tower, params, ids, mask), embed({}, ids, mask)) <= CLOSE


def test_the_file_has_the_names_that_consumers_ask_for_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    tower = two_towers.tower_of(dataclasses.replace(EVA, pool="map"))
    params = noisy(tower)
    digests = {onnx_export.export_vision(params, tower, tmp_path / name, PREPROCESS) for name in ("a", "b")}
    assert len(digests) == 1 and (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    model = onnx.load(tmp_path / "a")
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
              for v in [*model.graph.input, *model.graph.output]}  # fmt: skip
    assert shapes == {"pixel_values": ["batch", 3, 32, 48], "image_embeds": ["batch", 32],
                      "last_hidden_state": ["batch", 1, 32]}  # fmt: skip
    assert [one.version for one in model.opset_import] == [17] and model.ir_version == 8
    named = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    np.testing.assert_array_equal(named["blocks/0/attn/q/kernel"], params["blocks"]["0"]["attn"]["q"]["kernel"])
    assert set(tree.flatten(params)) <= set(named)


def test_texts_have_both_outputs_and_free_axes(tmp_path: Path) -> None:
    tower = two_towers.tower_of(BERT)
    onnx_export.export_text(noisy(tower), tower, tmp_path / "text.onnx", 20)
    run = onnx_session.session(tmp_path / "text.onnx")
    assert {one.name: one.shape for one in run.get_inputs()} == {
        "input_ids": ["batch", "sequence"], "attention_mask": ["batch", "sequence"]}  # fmt: skip
    assert {one.name: one.shape for one in run.get_outputs()} == {
        "sentence_embedding": ["batch", 32], "last_hidden_state": ["batch", 1, 32]}  # fmt: skip
    ids = np.ones((2, 21), np.int64)
    with pytest.raises(Exception, match="20"):  # more tokens than positions: an error, not a vector
        run.run(None, {"input_ids": ids, "attention_mask": ids})


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="x.onnx: expected an ONNX file"):
        onnx_session.session(tmp_path / "x.onnx")


def picture(folder: Path, number: int, size: tuple[int, int]) -> Path:
    """A smooth picture as PNG."""
    x, y = np.meshgrid(np.linspace(0, 3, size[0]), np.linspace(0, 2, size[1]))
    waves = [np.sin(x * (number + c + 1) + y * c) for c in range(3)]
    path = folder / f"{number}.png"
    Image.fromarray((127.5 + 127.5 * np.stack(waves, -1)).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("resize, size, dim", [("shortest", [32, 32], 0), ("squash", [32, 48], 0),
                                               ("shortest", [32, 32], 768)])  # fmt: skip
def test_fastembed_gives_our_vectors_of_pictures(resize: str, size: list[int], dim: int, tmp_path: Path) -> None:
    tower = two_towers.tower_of(dataclasses.replace(EVA, image_size=tuple(size), pool="map", embed_dim=dim))
    params, preprocess = noisy(tower), PREPROCESS | {"image_size": size, "resize": resize}
    onnx_export.export_vision(params, tower, tmp_path / onnx_export.VISION_FILE, preprocess)
    page = preprocessing.preprocessor_config(preprocess)
    (tmp_path / preprocessing.FILE).write_text(json.dumps(page))
    pictures = [picture(tmp_path, 0, (48, 48)), picture(tmp_path, 1, (96, 64)), picture(tmp_path, 2, (40, 100))]
    own = f"own/{resize}-{dim}"
    entry = DenseModelDescription(model=own, dim=32, description="", license="", size_in_GB=0.1,
                                  sources=ModelSource(hf=own), model_file=onnx_export.VISION_FILE)  # fmt: skip
    supported_onnx_models.append(entry)
    name = "nomic-ai/nomic-embed-vision-v1.5" if dim == 768 else own
    model = fastembed.ImageEmbedding(name, specific_model_path=str(tmp_path))
    theirs = np.stack(list(model.embed([str(path) for path in pictures])))
    pixels = np.stack([eval_transform(path.read_bytes(), tuple(size), "reference", resize) for path in pictures])
    assert far(embed_image(tower, params, pixels, preprocess), theirs) <= CLOSE


def pixels_of_both(name: str, folder: Path, path: Path, how: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Ours and a transformers processor's of one picture, 0 to 255, (h, w, 3)."""
    import transformers

    preprocess = PREPROCESS | how
    page = preprocessing.preprocessor_config(preprocess)
    (folder / preprocessing.FILE).write_text(json.dumps(page))
    processor = getattr(transformers, name).from_pretrained(str(folder))
    theirs = np.asarray(processor(Image.open(path), return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    filters = {key: preprocess[key] for key in ("interpolation", "crop_pct") if key in preprocess}
    size = tuple(preprocess["image_size"])
    ours = eval_transform(path.read_bytes(), size, "reference", preprocess["resize"], **filters)
    return ours, 255 * (theirs * np.array(preprocess["std"]) + np.array(preprocess["mean"]))


SQUARE = {"resize": "shortest", "image_size": [32, 32]}


@pytest.mark.parametrize("name, levels", [("CLIPImageProcessorPil", 1e-4), ("CLIPImageProcessor", 1.001)])
def test_transformers_prepares_pictures_as_we_do(name: str, levels: float, tmp_path: Path) -> None:
    for how in ({"resize": "squash"}, SQUARE, SQUARE | {"crop_pct": 0.88, "interpolation": "bilinear"}):
        for number, size in enumerate([(48, 48), (96, 64), (40, 100)]):
            path = picture(tmp_path, number, size)
            assert far(*pixels_of_both(name, tmp_path, path, how)) <= levels


def test_transformers_cuts_an_odd_margin_one_pixel_further_left_and_up(tmp_path: Path) -> None:
    path = picture(tmp_path, 0, (48, 48))
    ours, theirs = pixels_of_both("CLIPImageProcessorPil", tmp_path, path, SQUARE | {"crop_pct": 0.9})
    assert far(ours, theirs) > 1 and far(ours[:-1, :-1], theirs[1:, 1:]) <= 1e-4


def test_fastembed_gives_our_vectors_of_texts(tmp_path: Path) -> None:
    spec = dataclasses.replace(BERT, layer_norm=True, dim=24)
    tower = two_towers.tower_of(spec)
    params = noisy(tower)
    onnx_export.export_text(params, tower, tmp_path / onnx_export.TEXT_FILE, 20)
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 12, "pad_token": "[PAD]"}))
    fastembed.TextEmbedding.add_custom_model(
        "own/text", pooling=PoolingType.DISABLED, normalization=True, sources=ModelSource(hf="own/text"), dim=24,
        model_file=onnx_export.TEXT_FILE,
    )  # fmt: skip
    model = fastembed.TextEmbedding("own/text", specific_model_path=str(tmp_path))
    texts = ["a cat", "red dogs on the big mat", "", "the big red cat on the mat a dog a cat a dog on the mat"]
    theirs = np.stack(list(model.embed([f"query: {text}" for text in texts])))
    tokenizer = Tokenizer(tmp_path, "query: ", 12)
    padded = tokenizer.pad(tokenizer(texts), 12)
    assert far(EMBED_TEXT(tower, params, *padded), theirs) <= CLOSE


def window(x: jax.Array) -> jax.Array:
    """Attention weights within two tokens, ALiBi's slope on the distance."""
    steps = jnp.arange(x.shape[1])
    apart = jnp.abs(steps[:, None] - steps[None])
    bias = jnp.array([0.5, 0.25])[:, None, None] * -apart
    logits = jnp.where((apart <= 2)[None, None], jnp.einsum("bnd,bmd->bnm", x, x)[:, None] + bias, -1e9)
    return jax.nn.softmax(logits)


def eos(x: jax.Array) -> jax.Array:
    """The row of the largest first number, as CLIP pools."""
    return x[jnp.arange(x.shape[0]), jnp.argmax(x[..., 0], axis=-1)]


FORMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "ALiBi and a sliding window": window,
    "a causal mask": lambda x: jnp.where(jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool)), x @ x.mT, 0.0),
    "pooling at the largest": eos,
    "the last real token": lambda x: x[jnp.arange(x.shape[0]), jnp.sum(x[..., 0] > -9, axis=1) - 1],
    "take_along_axis": lambda x: jnp.take_along_axis(x, jnp.argmax(x, axis=1)[:, None, :1], axis=1),
    "take_along_axis of all axes": lambda x: jnp.take_along_axis(x, jnp.argmax(x, axis=1)[:, None], axis=1),
    "positions that count real tokens": lambda x: jnp.cumsum(x[..., 0] > 0, axis=1) * (x[..., 0] > 0) + 1,
    "take": lambda x: jnp.take(x, jnp.array([2, 0, 1]), axis=2, mode="clip"),
    "rows of a table": lambda x: jnp.arange(12.0).reshape(6, 2)[jnp.clip(jnp.floor(jnp.abs(x)), 0, 5).astype(int)],
    "quick gelu": layers.ACTIVATIONS["quick_gelu"],
    "gelu by tanh": layers.ACTIVATIONS["gelu_tanh"],
    "gelu by erf": layers.ACTIVATIONS["gelu"],
    "positions resampled": lambda x: resample_positions(x[:1, :1] + jnp.arange(20.0)[:, None], (4, 5), (3, 7), 0),
    "mean over a free axis": lambda x: jnp.mean(x, axis=1),
    "cut, turned and joined": lambda x: jnp.concatenate([x[:, 1::2, ::-1], x[:, :1], x[:, -2:]], axis=1),
    "norm": lambda x: linear.standardize(x, 1e-5) * jnp.log1p(jnp.abs(x)) + jnp.expm1(-jnp.abs(x)) ** 3,
    "padding": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 2)), constant_values=2.0),
    "two axes summed": lambda x: jnp.einsum("bnd,mnd->bm", x[:, :3], jnp.ones((4, 3, 8))),
    "products of axes": lambda x: jnp.einsum("bnd,de->ebn", x, jnp.ones((8, 2))),
    "any and all": lambda x: jnp.any(x > 1, axis=1) & ~jnp.all(x > -1, axis=1),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_what_towers_are_made_of_keeps_its_numbers(name: str, tmp_path: Path) -> None:
    batch, sequence = symbolic_shape("batch, sequence", constraints=["sequence >= 4"])
    function = lambda params, x: (FORMS[name](x),)  # noqa: E731
    graph = translate(function, {}, [Input("x", "float32", (batch, sequence, 8))], ["y"], OPS)
    (out,) = jax.eval_shape(function, {}, jax.ShapeDtypeStruct((2, 5, 8), jnp.float32))
    onnx_export.write(graph, tmp_path / "x.onnx", {"kind": "test"})
    run = onnx_session.session(tmp_path / "x.onnx")
    for shape in ((1, 5, 8), (3, 17, 8)):
        x = np.random.default_rng(shape[0]).standard_normal(shape, np.float32)
        theirs = run.run(None, {"x": x})[0]
        assert theirs.dtype == out.dtype
        assert far(FORMS[name](jnp.asarray(x)), theirs) <= CLOSE
