"""Our text towers against small random ones of transformers and open_clip, and theirs on the files that we write."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import open_clip
import pytest
import torch
import transformers

from lit_tune import convert, tree
from lit_tune.convert import keymap, mapping, weights as weight_files
from lit_tune.convert.peer_text import text_spec
from lit_tune.models.two_towers import tower_of

pytestmark = pytest.mark.interop
CLOSE = 1e-5  # of the rms, of float32 vectors
SIZES = dict(vocab_size=90, hidden_size=48, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4)


def noisy(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model with noise on every parameter, so that a mistake in any of them shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The peer's weights by its own names."""
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def batch(pad_id: int, eos_id: int, low: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of four texts of 11, 6, 2 and 8 tokens, each with one eos at its end, padded on the right."""
    lengths = np.array([11, 6, 2, 8])
    ids = np.random.default_rng(0).integers(low, 80, (4, 11))
    mask = np.arange(11) < lengths[:, None]
    ids[np.arange(4), lengths - 1] = eos_id
    return np.where(mask, ids, pad_id), mask.astype(np.int64)


def rel(ours: Any, theirs: Any) -> float:
    """max |ours - theirs| / rms(theirs)."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs)) / np.sqrt(np.mean(np.square(theirs))))


def run(model: Any, **inputs: np.ndarray) -> Any:
    """The peer's output on numpy inputs."""
    with torch.no_grad():
        return model(**{name: torch.from_numpy(array) for name, array in inputs.items()})


def clip_config(eos_id: int, **changes: Any) -> transformers.CLIPTextConfig:
    """A small CLIP text config; ids end at 85."""
    return transformers.CLIPTextConfig(
        **SIZES, max_position_embeddings=20, eos_token_id=eos_id, projection_dim=24, **changes
    )


@pytest.mark.parametrize("eos_id, act", [(2, "quick_gelu"), (85, "gelu")])
@pytest.mark.parametrize("saved", [False, True])
def test_clip_text_with_projection_is_transformers_and_goes_back_strictly(
    eos_id: int, act: str, saved: bool, tmp_path: Path
) -> None:
    model = noisy(transformers.CLIPTextModelWithProjection(clip_config(eos_id, hidden_act=act)))
    ids, mask = batch(1, 85)
    if saved:
        model.save_pretrained(tmp_path)
        tower = convert.text(tmp_path, json.loads((tmp_path / "config.json").read_text()), "hf")
    else:
        tower = convert.text(arrays(model), model.config.to_dict(), "hf")
    theirs = run(model, input_ids=ids, attention_mask=mask)
    assert rel(tower(ids, mask), theirs.text_embeds) <= CLOSE
    real = mask == 1
    assert rel(np.asarray(tower.tokens(ids, mask))[real], theirs.last_hidden_state[real]) <= CLOSE
    written = mapping.to_peer(tower.params, tower.spec, "hf")
    fresh = transformers.CLIPTextModelWithProjection(model.config).eval()
    fresh.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in written.items()}, strict=True)
    assert torch.equal(run(fresh, input_ids=ids, attention_mask=mask).text_embeds, theirs.text_embeds)


def test_clip_text_without_projection_is_transformers_from_memory_and_from_its_file(tmp_path: Path) -> None:
    model = noisy(transformers.CLIPTextModel(clip_config(85)))
    ids, mask = batch(1, 85)
    theirs = run(model, input_ids=ids, attention_mask=mask).pooler_output
    model.save_pretrained(tmp_path)
    for given in (arrays(model), tmp_path):
        tower = convert.text(given, model.config.to_dict(), "hf")
        assert tower.spec.embed_dim == 0
        assert rel(tower(ids, mask), theirs) <= CLOSE
    written = mapping.to_peer(tower.params, tower.spec, "hf")
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in written.items()}, strict=True)


def test_the_text_tower_of_clip_and_of_siglip_is_read_from_a_file_with_both(tmp_path: Path) -> None:
    vision = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=28,
                  patch_size=14)  # fmt: skip
    text = SIZES | {"max_position_embeddings": 20}
    clip = transformers.CLIPConfig(
        text_config=text | {"eos_token_id": 85}, vision_config=vision, projection_dim=24
    )
    siglip = transformers.SiglipConfig(text_config=text, vision_config=vision)
    ids, mask = batch(1, 85)
    full = np.pad(ids, ((0, 0), (0, 9)), constant_values=1)
    for cls, config, given in (
        (transformers.CLIPModel, clip, {"input_ids": ids, "attention_mask": mask}),
        (transformers.SiglipModel, siglip, {"input_ids": full}),
    ):
        model = noisy(cls(config))
        model.save_pretrained(tmp_path / cls.__name__)
        read = json.loads((tmp_path / cls.__name__ / "config.json").read_text())
        tower = convert.text(tmp_path / cls.__name__, read, "hf")
        with torch.no_grad():
            theirs = model.get_text_features(**{name: torch.from_numpy(array) for name, array in given.items()})
        theirs = getattr(theirs, "pooler_output", theirs)
        assert rel(tower(ids, mask), theirs) <= CLOSE, cls


def test_siglip_text_is_transformers_from_short_rows_too() -> None:
    config = transformers.SiglipTextConfig(**SIZES, max_position_embeddings=20, pad_token_id=1, projection_size=40)
    model = noisy(transformers.SiglipTextModel(config))
    ids, mask = batch(1, 85)
    full = np.pad(ids, ((0, 0), (0, 9)), constant_values=1)
    tower = convert.text(arrays(model), config.to_dict(), "hf")
    theirs = run(model, input_ids=full)
    assert rel(tower(ids, mask), theirs.pooler_output) <= CLOSE
    assert rel(tower.tokens(ids, mask), theirs.last_hidden_state) <= CLOSE


def xlm_roberta() -> Any:
    """A small XLMRobertaModel."""
    return transformers.XLMRobertaModel(
        transformers.XLMRobertaConfig(**SIZES, max_position_embeddings=30, type_vocab_size=1, pad_token_id=1)
    )


def roberta() -> Any:
    """A small RobertaForMaskedLM: its tower is under "roberta.", beside a head."""
    return transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(**SIZES, max_position_embeddings=30, type_vocab_size=1, pad_token_id=1)
    )


def modern_bert() -> Any:
    """A small ModernBertModel whose window is shorter than the texts."""
    return transformers.ModernBertModel(
        transformers.ModernBertConfig(**(SIZES | {"num_hidden_layers": 4}), local_attention=6, pad_token_id=0,
                                      cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2,
                                      max_position_embeddings=64, attn_implementation="eager")
    )  # fmt: skip


def nomic_bert() -> Any:
    """A small native NomicBertModel."""
    return transformers.NomicBertModel(transformers.NomicBertConfig(**SIZES, type_vocab_size=2, pad_token_id=0))


def bert() -> Any:
    """A small BertModel."""
    return transformers.BertModel(transformers.BertConfig(**SIZES, max_position_embeddings=30, type_vocab_size=2))


@pytest.mark.parametrize("build", [xlm_roberta, roberta, modern_bert, nomic_bert, bert])
def test_bert_and_its_kin_are_transformers(build: Callable[[], Any], tmp_path: Path) -> None:
    model = noisy(build())
    ids, mask = batch(model.config.pad_token_id, 85)
    base = getattr(model, "roberta", model)
    hidden = run(base, input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
    lengths = mask.sum(1)
    pooled = {
        "mean": np.einsum("bsd,bs->bd", hidden, mask) / lengths[:, None],
        "cls": hidden[:, 0],
        "last": hidden[np.arange(4), lengths - 1],
    }
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for pool, theirs in pooled.items():
        tower = convert.text(tmp_path, config, "hf", pool=pool)
        assert rel(tower(ids, mask), theirs) <= CLOSE
    assert rel(np.asarray(tower.tokens(ids, mask))[mask == 1], hidden[mask == 1]) <= CLOSE
    from_memory, from_file = (convert.text(given, config, "hf").params for given in (arrays(model), tmp_path))
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (from_memory, from_file)), strict=True))


@pytest.mark.parametrize("build", [nomic_bert, bert])
def test_our_files_load_in_transformers_and_give_the_same(build: Callable[[], Any], tmp_path: Path) -> None:
    model = noisy(build())
    model.save_pretrained(tmp_path)
    tower = convert.text(tmp_path, model.config.to_dict(), "hf")
    layout = "nomic" if build is nomic_bert else "hf"  # what transformers writes and reads back
    written = mapping.to_peer(tower.params, tower.spec, layout)
    weight_files.write(tmp_path / weight_files.FILE, written, {"format": "pt"})
    again, told = type(model).from_pretrained(tmp_path, output_loading_info=True)
    expected = {"pooler.dense.weight", "pooler.dense.bias"} if build is bert else set()
    assert set(told["missing_keys"]) == expected and not told["unexpected_keys"] and not told["mismatched_keys"]
    ids, mask = batch(0, 85)
    given = {"input_ids": ids, "attention_mask": mask}
    assert torch.equal(run(again.eval(), **given).last_hidden_state, run(model, **given).last_hidden_state)


VISION = {"image_size": 28, "layers": 1, "width": 64, "patch_size": 14}
TEXT = {"context_length": 20, "vocab_size": 90, "width": 64, "heads": 4, "layers": 2}
SIGLIP = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}, "pad_id": 1}
OPEN_CLIP = {
    "CLIP": {"text_cfg": TEXT, "quick_gelu": True},
    "CLIP with custom_text": {"text_cfg": TEXT, "custom_text": True},
    "CLIP that reads the first eos": {"text_cfg": TEXT | {"pool_type": "eos", "eos_id": 85}, "custom_text": True},
    "no projection": {"text_cfg": TEXT | {"proj_type": "none"}, "custom_text": True},
    "SigLIP": {"text_cfg": TEXT | SIGLIP, "custom_text": True, "init_logit_bias": -10},
    "SigLIP 2": {"text_cfg": TEXT | SIGLIP | {"act_kwargs": {"approximate": "tanh"}}, "custom_text": True},
}


def open_clip_model(config: dict[str, Any]) -> torch.nn.Module:
    """open_clip's model of a config."""
    config = json.loads(json.dumps(config))
    cls = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    return noisy(cls(**config))


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clips_text_towers_are_open_clips(name: str) -> None:
    config = {"embed_dim": 24, "vision_cfg": VISION, **OPEN_CLIP[name]}
    model = open_clip_model(config)
    ids, mask = batch(1 if "SigLIP" in name else 0, 85)
    full = np.pad(ids, ((0, 0), (0, 9)), constant_values=1 if "SigLIP" in name else 0)
    with torch.no_grad():
        theirs = model.encode_text(torch.from_numpy(full)).numpy()
    tower = convert.text(arrays(model), config, "open_clip")
    assert rel(tower(ids, mask), theirs) <= CLOSE
    if "SigLIP" in name:
        return
    layout = "open_clip_custom_text" if "custom_text" in config else "open_clip"
    written = mapping.to_peer(tower.params, tower.spec, layout)
    old = arrays(model)
    assert set(written) <= set(old) and all(np.array_equal(old[n], array) for n, array in written.items())
    rest = {n for n in set(old) - set(written) if not n.startswith("visual.")}
    assert rest <= {"logit_scale", "logit_bias"}
    whole = {n: torch.from_numpy(np.array(a)) for n, a in (old | written).items()}
    open_clip_model(config).load_state_dict(whole, strict=True)


@pytest.mark.parametrize(
    "name", ["ViT-B-16", "ViT-B-16-quickgelu", "EVA02-B-16", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2"]
)
def test_registered_open_clip_models_have_our_names_and_shapes(name: str) -> None:
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        text = open_clip.model._build_text_tower(
            config["embed_dim"], config["text_cfg"], "quick_gelu" in config and config["quick_gelu"]
        )
    spec = text_spec(config, "open_clip")
    shapes = {key: leaf.shape for key, leaf in tree.flatten(tower_of(spec).abstract()).items()}
    rules = mapping.expand(keymap.TABLES["clip_text", "open_clip"], spec)
    theirs = {key: tuple(tensor.shape) for key, tensor in text.state_dict().items()}
    assert {rule.peer: mapping.peer_shape(rule, shapes) for rule in rules} == theirs
