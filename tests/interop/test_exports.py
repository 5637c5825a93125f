"""One exported folder gives our vectors in sentence-transformers, timm, transformers and open_clip."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import open_clip
import pytest
import small_exports as small
import timm
import torch
import transformers
from PIL import Image
from sentence_transformers import SentenceTransformer
from timm.data import create_transform, resolve_data_config

from lit_tune.convert import mapping, weights
from lit_tune.exports import hf
from lit_tune.exports.parts import Source
from lit_tune.integrations import open_clip as lit_open_clip

pytestmark = pytest.mark.interop
CLOSE = 1e-5  # of unit vectors
PHOTO = small.PICTURES["non-square"]
TOWERS: dict[str, Callable[[Path], Source]] = {
    "BERT": lambda folder: small.source(small.vision(), small.bert(folder)),
    "BERT, cls, prefix": lambda folder: small.source(small.vision(), small.bert(folder, "query: ", pool="cls")),
    "nomic": lambda folder: small.source(small.vision(), small.nomic_bert(folder), logit_scale=3.0),
    "nomic, cut, projection": lambda folder: small.source(small.vision(embed_dim=8), small.nomic_bert(folder, dim=8),
                                                          logit_scale=2.0, logit_bias=-9.0),
    "biased projection": lambda folder: small.source(
        small.vision(embed_dim=16, embed_bias=True, width=32), small.bert(folder, pool="cls", layer_norm=True)),
    "cls, squashed, not square": lambda folder: small.source(
        small.vision(resize="squash", pool="cls", image_size=(24, 40)), small.bert(folder)),
    "mean": lambda folder: small.source(small.vision(pool="mean"), small.bert(folder)),
}  # fmt: skip


@pytest.fixture(scope="module", params=TOWERS)
def export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Path]:
    """Towers and the folder that they were exported to."""
    folder = tmp_path_factory.mktemp("export")
    given = TOWERS[request.param](folder / "text")
    hf.write(given, folder / "out")
    return given, folder / "out"


def distance(ours: np.ndarray, theirs: Any) -> float:
    """Largest difference of float32 arrays of one shape."""
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max())


def unit(x: torch.Tensor) -> np.ndarray:
    """Unit rows."""
    return torch.nn.functional.normalize(x.detach(), dim=-1).numpy()


def photo() -> Image.Image:
    """The picture as Pillow opens it."""
    return small.opened(PHOTO)


def test_sentence_transformers_gives_our_vectors_of_texts_and_pictures(export: tuple[Source, Path]) -> None:
    given, folder = export
    ours, theirs = small.model(given), SentenceTransformer(str(folder))
    texts = ours.embed_texts(small.TEXTS)
    assert distance(ours.embed_images([PHOTO]), theirs.encode([photo()])) <= CLOSE
    assert distance(texts, theirs.encode(small.TEXTS)) <= CLOSE
    assert distance(texts, theirs.encode_query(small.TEXTS)) <= CLOSE
    assert distance(texts, theirs.encode_document(small.TEXTS)) <= CLOSE
    mixed = theirs.similarity(theirs.encode(small.TEXTS), theirs.encode([photo()]))
    assert distance(texts @ ours.embed_images([PHOTO]).T, mixed) <= CLOSE
    assert theirs.get_embedding_dimension() == ours.dim


def test_a_prompt_replaces_the_prefix_and_an_empty_text_has_it(export: tuple[Source, Path]) -> None:
    given, folder = export
    ours, theirs = small.model(given), SentenceTransformer(str(folder))
    for prompt in ("", "red : "):
        assert distance(ours.embed_texts(small.TEXTS, prompt), theirs.encode(small.TEXTS, prompt=prompt)) <= CLOSE
    assert distance(ours.embed_texts([""]), theirs.encode([""])) <= CLOSE


def test_truncate_dim_cuts_after_the_layer_norm(export: tuple[Source, Path]) -> None:
    given, folder = export
    ours, theirs = small.model(given), SentenceTransformer(str(folder), truncate_dim=5)
    for full, inputs in ((ours.embed_texts(small.TEXTS), small.TEXTS), (ours.embed_images([PHOTO]), [photo()])):
        cut = full[:, :5] / np.linalg.norm(full[:, :5], axis=1, keepdims=True)
        assert distance(cut, theirs.encode(inputs, normalize_embeddings=True)) <= CLOSE


def test_timm_gives_our_vectors_of_pictures(export: tuple[Source, Path]) -> None:
    given, folder = export
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    assert distance(small.model(given).embed_images([PHOTO]), unit(model(transform(photo())[None]))) <= CLOSE


def test_transformers_gives_our_vectors_of_pictures_before_the_projection(export: tuple[Source, Path]) -> None:
    given, folder = export
    folder = folder / "image_0_Transformer"
    model, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    unused = {"head.weight", "head.bias"} if given.vision.tower.spec.projects else set()  # told, not silently dropped
    assert {key.removeprefix("timm_model.") for key in info["unexpected_keys"]} == unused
    pooled = model.eval()(**transformers.AutoImageProcessor.from_pretrained(folder)(photo())).pooler_output
    if given.vision.tower.spec.projects:
        head = {name: torch.tensor(array) for name, array in jax.device_get(given.vision.params["head"]).items()}
        pooled = pooled @ head["kernel"] + (head["bias"] if "bias" in head else 0)
    assert distance(small.model(given).embed_images([PHOTO]), unit(pooled)) <= CLOSE


def test_transformers_gives_the_tokens_of_the_text_tower(export: tuple[Source, Path]) -> None:
    given, folder = export
    folder, encoder = folder / "text_0_Transformer", given.text
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["unexpected_keys"] and all(key.startswith("pooler.") for key in info["missing_keys"])
    given_ids = tokenizer(small.TEXTS, padding=True, truncation=True, return_tensors="pt")
    ids = encoder.tokenizer(small.TEXTS, "")
    assert given_ids["attention_mask"].sum(1).tolist() == [len(one) for one in ids]
    with torch.no_grad():
        theirs = model.eval()(**given_ids).last_hidden_state.numpy()
    padded = map(jnp.asarray, encoder.tokenizer.pad(ids, theirs.shape[1]))
    ours = encoder.tower.apply(encoder.params, *padded, method="tokens")
    for row, one in enumerate(ids):
        np.testing.assert_array_equal(given_ids["input_ids"][row, : len(one)].numpy(), one)
        tokens = theirs[row, : len(one)]
        rms = np.sqrt(np.mean(np.square(tokens)))  # they are not unit vectors
        assert distance(np.asarray(ours[row, : len(one)]) / rms, tokens / rms) <= CLOSE


def test_open_clip_gives_our_vectors_and_scale(
    export: tuple[Source, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, folder = export
    ours = small.model(given)
    lit_open_clip.register()
    monkeypatch.chdir(folder.parent)  # a relative name, from elsewhere
    name = f"local-dir:{folder.name}"
    by_name = open_clip.create_model_and_transforms(name)[::2] + (open_clip.get_tokenizer(name),)
    texts = [*small.TEXTS, "a &amp; cat"]
    for model, transform, tokenizer in (lit_open_clip.load(folder), by_name):
        model.eval()
        assert distance(ours.embed_images([PHOTO]), unit(model.encode_image(transform(photo())[None]))) <= CLOSE
        assert distance(ours.embed_texts(texts), unit(model.encode_text(tokenizer(texts)))) <= CLOSE
        facts = given.facts
        assert model.logit_scale.item() == pytest.approx(facts.get("logit_scale", np.log(1 / 0.07)))
        assert (model.logit_bias is None) == ("logit_bias" not in facts)
        if "logit_bias" in facts:
            assert model.logit_bias.item() == facts["logit_bias"]


def test_open_clip_options_still_reach_a_folder_of_ours(tmp_path: Path) -> None:
    given = TOWERS["BERT"](tmp_path / "text")
    hf.write(given, tmp_path / "out")
    lit_open_clip.register()
    name = f"local-dir:{tmp_path / 'out'}"
    model = open_clip.create_model(name, force_image_size=48, force_context_length=7)
    assert tuple(model.visual.image_size) == (48, 48)
    assert open_clip.create_model("ViT-S-32", load_weights=False).visual.image_size == (224, 224)  # others as before


def test_open_clip_loads_a_bert_tower_from_inside_the_folder_without_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = TOWERS["BERT"](tmp_path / "text")
    hf.write(given, tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    plain = getattr(open_clip.factory.create_model, "__wrapped__", open_clip.factory.create_model)
    pixels = torch.zeros(1, 3, 32, 32)
    ours = open_clip.create_model("local-dir:.").eval() if plain is open_clip.factory.create_model else None
    theirs = plain("local-dir:.").eval()
    assert ours is None or torch.equal(ours.encode_image(pixels), theirs.encode_image(pixels))
    assert distance(small.model(given).embed_texts(["a cat"]),
                    unit(theirs.encode_text(open_clip.get_tokenizer("local-dir:.")(["a cat"])))) <= CLOSE


def test_the_text_weights_are_the_frozen_towers_own_bytes(export: tuple[Source, Path]) -> None:
    given, folder = export
    written = (folder / "text_0_Transformer" / "model.safetensors").read_bytes()
    assert hashlib.sha256(written).hexdigest() == given.text.description["text"]["weights_sha256"]


def test_every_written_file_reads_back_as_our_own_parameters(export: tuple[Source, Path], tmp_path: Path) -> None:
    given, _ = export
    towers = {"vision": given.vision, "text": given.text}
    for part in hf.write(given, tmp_path / "again"):
        if part.layout == "onnx":  # which its runtime reads: test_export_proof.py
            continue
        tower = towers[part.kind]
        read = mapping.from_peer(weights.read(tmp_path / "again" / part.file), tower.tower.spec, part.layout)
        jax.tree.map(np.testing.assert_array_equal, read, jax.device_get(tower.params))
