"""Nomic's pooling head as a timm model: contrastors' numbers, and ours in every switch; without it nothing loads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import reference
import small_exports as small
import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.models import _registry

from lit_tune import tree
from lit_tune.convert import keymap, mapping, peer_timm, peer_vision, weights
from lit_tune.exports import open_clip as writer
from lit_tune.integrations import open_clip as lit_open_clip, timm as lit_timm
from lit_tune.models.eva02 import Eva02Spec

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore::UserWarning")]
FOLDER = "b_nomic_vision"
RELEASED = json.loads((reference.ROOT / FOLDER / "nomic_embed_vision_v1_5.config.json").read_text())
PHOTO = small.PICTURES["non-square"]
SWITCHES: dict[str, dict[str, Any]] = {
    "as released": small.NOMIC_HEAD,
    "projection": small.NOMIC_HEAD | {"embed_dim": 24, "embed_bias": True},
    "split, no key bias, final norm": {"pool": "nomic"},
    "split, key bias, every eps another": {"pool": "nomic", "key_bias": True, "norm_eps": 0.1, "sub_ln_eps": 0.2,
                                           "pool_norm_eps": 0.3},
    "no sub-LN, fused, no key bias": {"pool": "nomic", "sub_ln": False, "qkv_fused": True, "attn_inner_norm": True},
    "positions of another grid": small.NOMIC_HEAD | {"pos_embed_grid": (3, 5), "image_size": (40, 24)},
}  # fmt: skip


def module(spec: Eva02Spec, params: tree.Tree) -> torch.nn.Module:
    """The registered architecture with our parameters in it, every name used."""
    lit_timm.register()
    model = timm.create_model(peer_timm.NOMIC, **peer_timm.timm_arguments(spec)).eval()
    named = mapping.write_with(keymap.TABLES["eva02", "timm"], params, spec)
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in named.items()}, strict=True)
    return model


@pytest.mark.parametrize("case", reference.cases(FOLDER))
def test_the_timm_model_is_contrastors(case: str) -> None:
    spec = peer_vision.vision_spec(RELEASED | reference.entry(FOLDER, case)["config_changes"], "nomic")
    stored = reference.arrays(FOLDER, case)
    params = mapping.from_peer(weights.read(reference.weights(FOLDER, case)), spec, "nomic")
    model, pixels = module(spec, params), torch.from_numpy(stored["pixels"])
    with torch.no_grad():
        pooled = model(pixels)
        found = {"pooled": pooled, "embedding": torch.nn.functional.normalize(pooled, dim=-1),
                 "hidden_states": model.forward_features(pixels)}  # fmt: skip
    reference.check(f"{case} in timm", found, {name: stored[name] for name in found}, reference.FORWARD)


def test_the_released_shape_has_its_92_946_688_parameters_in_timm() -> None:
    spec = peer_vision.vision_spec(RELEASED, "nomic")
    lit_timm.register()
    with torch.device("meta"):
        model = timm.create_model(peer_timm.NOMIC, **peer_timm.timm_arguments(spec))
    assert sum(p.numel() for p in model.parameters()) == 92_946_688


@pytest.mark.parametrize("name", SWITCHES)
def test_open_clip_and_timm_give_our_vectors_of_a_folder(name: str, tmp_path: Path) -> None:
    image = small.vision(resize="squash", **SWITCHES[name])
    given = small.source(image, small.bert(tmp_path / "text"))
    writer.write(given, tmp_path / "out")
    ours = small.model(given).embed_images([PHOTO])
    model, transform, _ = lit_open_clip.load(tmp_path / "out")
    trunk = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    prepare = create_transform(**resolve_data_config({}, model=trunk))
    picture = small.opened(PHOTO)
    with torch.no_grad():
        for theirs in (model.encode_image(transform(picture)[None]), trunk(prepare(picture)[None])):
            np.testing.assert_allclose(torch.nn.functional.normalize(theirs, dim=-1), ours, rtol=0, atol=1e-5)


def test_nobody_who_was_not_told_of_the_head_makes_anything_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = small.source(small.vision(**small.NOMIC_HEAD), small.bert(tmp_path / "text"))
    writer.write(given, tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setattr(_registry, "_model_entrypoints", dict(_registry._model_entrypoints))
    _registry._model_entrypoints.pop(peer_timm.NOMIC, None)  # as in a process of its own
    plain = getattr(open_clip.factory.create_model, "__wrapped__", open_clip.factory.create_model)
    for load in (plain, timm.create_model):
        with pytest.raises(RuntimeError, match="Unknown model .lit_tune_nomic_vision"):
            load("local-dir:.")


def test_registering_twice_is_registering_once(recwarn: pytest.WarningsRecorder) -> None:
    lit_timm.register()
    lit_timm.register()
    assert timm.is_model(peer_timm.NOMIC) and not [w for w in recwarn if "Overwriting" in str(w.message)]
    with pytest.raises(TypeError, match="norm_eps"):  # there is no tower of that name alone
        timm.create_model(peer_timm.NOMIC)
