"""Our towers against timm, contrastors and transformers: outputs, inner values and gradients, case by case.

The weights go through `lit_tune.convert`, so its table of names is checked by the same numbers.
"""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lit_tune import convert, tree
from lit_tune.convert import keymap, keymap_text, keymap_vision, mapping
from lit_tune.convert.peer_text import text_spec
from lit_tune.convert.peer_vision import vision_spec
from lit_tune.errors import ConfigError
from lit_tune.models.two_towers import family_of, l2_normalize, tower_of
from lit_tune.text import weights as text_weights

TIMM, NOMIC, NOMIC_TEXT, TEXTS = "a_timm", "b_nomic_vision", "c_text_nomic", "c_text_towers"


@pytest.fixture(autouse=True)
def highest_precision() -> Any:
    """float32 products in float32, as the tolerances assume."""
    with jax.default_matmul_precision("highest"):
        yield


def stages(tower: convert.ConvertedTower, *inputs: Any) -> dict[str, np.ndarray]:
    """Every intermediate value of a tower."""
    run = jax.jit(lambda params, *x: tower_of(tower.spec).apply(params, *x, method="stages"))
    return {name: np.asarray(value) for name, value in run(tower.params, *map(jnp.asarray, inputs)).items()}


def rope_sin_cos(found: dict[str, np.ndarray], prefix: int) -> np.ndarray:
    """Our rotary tables in timm's form: sin then cos, each value twice, without the class token."""
    return np.concatenate([np.repeat(found[f"rope_{f}"][prefix:], 2, axis=-1) for f in ("sin", "cos")], axis=-1)


def vision_gradients(tower: convert.ConvertedTower, pixels: np.ndarray, cotangent: np.ndarray, unit: bool) -> tuple:
    """Gradients of sum(pooled * cotangent) with respect to parameters and pixels; `unit` normalises pooled first."""

    def scalar(params: tree.Tree, x: jax.Array) -> jax.Array:
        pooled = tower_of(tower.spec).apply(params, x)
        return jnp.sum((l2_normalize(pooled) if unit else pooled) * cotangent)

    return jax.jit(jax.grad(scalar, argnums=(0, 1)))(tower.params, jnp.asarray(pixels))


def check_gradients(
    case: str, folder: str, tower: convert.ConvertedTower, stored: dict[str, np.ndarray], unit: bool
) -> None:
    """Compare the gradient of every weight and of the pixels, under the peer's names."""
    layout = {TIMM: "timm", NOMIC: "nomic"}[folder]
    table = keymap.TABLES[family_of(tower.spec), layout]
    theirs = reference.arrays(folder, case, ".grads.safetensors")
    seed = reference.entry(folder, case)["fill_seed"]
    cotangent = reference.draw("cotangent", stored["pooled"].shape, seed)
    of_params, of_pixels = vision_gradients(tower, reference.pixels(stored), cotangent, unit)
    ours = mapping.write_with(table, of_params, tower.spec)
    ours["__pixels__"] = np.asarray(of_pixels).transpose(0, 3, 1, 2)
    theirs = {name: array for name, array in theirs.items() if name in ours}
    assert set(ours) - {"__pixels__"} <= set(theirs), "every weight has a gradient"
    for name in theirs:
        if re.search(r"kv\.bias$", name, re.IGNORECASE):
            (key, _), (their_key, their_value) = np.split(ours[name], 2), np.split(theirs[name], 2)
            limit = reference.KEY_BIAS * np.sqrt(np.mean(np.square(their_value)))
            np.testing.assert_allclose(key, their_key, rtol=0, atol=limit, err_msg=name)
    reference.check(f"{case} gradients", ours, theirs, reference.GRADIENTS)


@pytest.mark.parametrize("case", reference.cases(TIMM))
def test_eva02_and_vit_are_timms(case: str) -> None:
    found = reference.entry(TIMM, case)
    stored = reference.arrays(TIMM, case)
    tower = convert.vision(reference.weights(TIMM, case), found["kwargs"], "timm")
    ours = stages(tower, reference.pixels(stored))
    assert family_of(tower.spec) == {"Eva": "eva02", "VisionTransformer": "vit"}[found["cls"]]
    if "rope_sin_cos" in stored:
        ours["rope_sin_cos"] = rope_sin_cos(ours, int(tower.spec.class_token))
    reference.check(case, ours, {n: a for n, a in stored.items() if n != "pixels"}, reference.FORWARD)
    assert reference.rel(tower(reference.pixels(stored)), stored["pooled"]) <= reference.FORWARD
    assert reference.rel(tower.tokens(reference.pixels(stored)), stored["forward_features"]) <= reference.FORWARD
    if reference.has(TIMM, case, ".grads.safetensors"):
        check_gradients(case, TIMM, tower, stored, unit=False)


@pytest.mark.parametrize("case", reference.cases(NOMIC))
def test_the_nomic_vision_tower_is_contrastors(case: str) -> None:
    stored, tower = reference.arrays(NOMIC, case), nomic_vision(case)
    ours = stages(tower, reference.pixels(stored))
    ours |= {
        "embeddings": ours["block_input"],
        "rope_sin_cos": rope_sin_cos(ours, 1),
        "last_hidden_state": tower.tokens(reference.pixels(stored)),
        "embedding": l2_normalize(tower(reference.pixels(stored))),
    }
    reference.check(case, ours, {n: a for n, a in stored.items() if n != "pixels"}, reference.FORWARD)
    if reference.has(NOMIC, case, ".grads.safetensors"):
        check_gradients(case, NOMIC, tower, stored, unit=True)


def nomic_vision(case: str) -> convert.ConvertedTower:
    """The tower of a case: the released config with the case's changes."""
    found = reference.entry(NOMIC, case)
    return convert.vision(reference.weights(NOMIC, case), released_config() | found["config_changes"], "nomic")


def released_config() -> dict[str, Any]:
    """config.json of nomic-embed-vision-v1.5."""
    return json.loads((reference.ROOT / NOMIC / "nomic_embed_vision_v1_5.config.json").read_text())


@pytest.mark.parametrize("path", sorted((reference.ROOT / NOMIC).glob("*.from_timm_keys.json")), ids=lambda p: p.stem)
def test_nomics_names_come_from_the_timm_names_that_the_peer_states(path: Path) -> None:
    case = path.name.removesuffix(".from_timm_keys.json")
    stated = json.loads(path.read_text())["nomic_key_from_timm_keys_concatenated_on_axis_0"]
    spec = nomic_vision(case).spec
    rules = mapping.expand(keymap.TABLES["eva02", "nomic"], spec)
    nomic = {rule.peer: rule.ours for rule in rules}
    timm = {r.peer: r.ours for r in mapping.expand(keymap_vision.TIMM_TRUNK, spec_like_timm(spec))}
    for name, parts in stated.items():
        ours = [o for part in parts for o in (timm[part] if part in timm else ("no key bias",))]
        expected = ["no key bias" if o.endswith("k/bias") else o for o in nomic[name]]
        assert ours == expected, name


def spec_like_timm(spec: Any) -> Any:
    """The same trunk with timm's split attention."""
    return type(spec)(**(vars(spec) | {"qkv_fused": False, "key_bias": False}))


def test_the_released_nomic_vision_model_has_the_peers_211_arrays() -> None:
    keys = json.loads((reference.ROOT / NOMIC / "nomic_embed_vision_v1_5.keys.json").read_text())
    spec = vision_spec(released_config(), "nomic")
    shapes = {name: leaf.shape for name, leaf in tree.flatten(tower_of(spec).abstract()).items()}
    rules = mapping.expand(keymap.TABLES["eva02", "nomic"], spec)
    found = {rule.peer: list(mapping.peer_shape(rule, shapes)) for rule in rules}
    assert found == keys["shapes"] and len(found) == 211
    assert tree.count(tower_of(spec).abstract()) == 92_946_688
    print("nomic-embed-vision-v1.5: 211 arrays compared (names and shapes)")


def test_the_released_nomic_text_model_has_the_peers_arrays() -> None:
    keys = json.loads((reference.ROOT / NOMIC_TEXT / "nomic_embed_text_v1_5.keys.json").read_text())
    spec = text_spec(keys["config"], "nomic", layer_norm=True)
    shapes = {name: leaf.shape for name, leaf in tree.flatten(tower_of(spec).abstract()).items()}
    rules = mapping.expand(keymap.TABLES["nomic_bert", "nomic"], spec)
    assert {rule.peer: list(mapping.peer_shape(rule, shapes)) for rule in rules} == keys["shapes"]
    print(f"nomic-embed-text-v1.5: {len(keys['shapes'])} arrays compared (names and shapes)")


def real_tokens(found: dict[str, Any], mask: np.ndarray) -> dict[str, np.ndarray]:
    """Token arrays (b, s, d) cut to the rows where the mask is 1; vectors as they are."""
    return {n: np.asarray(a)[mask != 0] if np.ndim(a) == 3 else np.asarray(a) for n, a in found.items()}


@pytest.mark.parametrize("case", reference.cases(NOMIC_TEXT))
def test_the_nomic_text_tower_is_contrastors(case: str) -> None:
    stored, config = reference.arrays(NOMIC_TEXT, case), reference.entry(NOMIC_TEXT, case)["config"]
    ids, mask = stored.pop("input_ids"), stored.pop("attention_mask")
    plain, normed = (
        convert.text(reference.weights(NOMIC_TEXT, case), config, "nomic", layer_norm=ln) for ln in (False, True)
    )
    if config["rotary_scaling_factor"]:
        # the peer's other arrays depend on what it was batched with and on what it saw before
        name = "embedding_layer_norm_each_row_alone_in_a_fresh_model"
        return reference.check(case, {name: l2_normalize(normed(ids, mask))}, {name: stored[name]}, reference.FORWARD)
    ours = stages(plain, ids, mask) | {
        "mean_pooled": plain(ids, mask),
        "mean_pooled_layer_norm": normed(ids, mask),
        "embedding": l2_normalize(plain(ids, mask)),
        "embedding_layer_norm": l2_normalize(normed(ids, mask)),
    }
    for name in stored:
        cut = re.fullmatch(r"embedding_layer_norm_matryoshka_(\d+)", name)
        if cut:
            ours[name] = l2_normalize(normed(ids, mask)[:, : int(cut[1])])
    reference.check(case, real_tokens(ours, mask), real_tokens(stored, mask), reference.FORWARD)


@pytest.mark.parametrize("case", reference.cases(TEXTS, ".native_transformers.npz"))
def test_the_nomic_text_tower_is_transformers_own(case: str) -> None:
    if case not in reference.cases(NOMIC_TEXT):
        pytest.skip(f"{case}: its weights are in {NOMIC_TEXT}, which is not there")
    given = reference.arrays(NOMIC_TEXT, case)
    ids, mask = given["input_ids"], given["attention_mask"]
    stored = reference.arrays(TEXTS, case, ".native_transformers.npz")
    hub = reference.weights(NOMIC_TEXT, case)
    config = reference.entry(TEXTS, case, ".native_transformers.npz")["config"]
    config = json.loads(config) if isinstance(config, str) else config
    # transformers keeps its own names in memory and writes the hub's: both must give the same tower
    spec = text_spec(config, "hf", layer_norm=True)
    native = mapping.write_with(keymap_text.NOMIC_BERT_HF, mapping.from_peer(hub, spec, "nomic"), spec)
    assert set(native) != set(hub)
    for weights in (hub, native):
        tower = convert.text(weights, config, "hf", layer_norm=True)
        ours = {"last_hidden_state": tower.tokens(ids, mask), "embedding_layer_norm": l2_normalize(tower(ids, mask))}
        reference.check(case, real_tokens(ours, mask), real_tokens(stored, mask), reference.FORWARD)


@pytest.mark.parametrize("case", [c for c in reference.cases(TEXTS) if c != "minilm"])
def test_text_towers_are_transformers(case: str) -> None:
    found = reference.entry(TEXTS, case)
    config = json.loads(found["config"]) if isinstance(found["config"], str) else found["config"]
    stored = reference.arrays(TEXTS, case)
    ids, mask = stored.pop("input_ids"), stored.pop("attention_mask")
    tower = convert.text(reference.weights(TEXTS, case), config, "hf")
    ours = stages(tower, ids, mask)
    ours["mean_pooled"] = mean_over(ours["last_hidden_state"], mask)
    if "clip" in case or "siglip" in case:
        ours["pooler_output"] = tower(ids, mask)  # they pool by their own rule
    else:
        stored.pop("pooler_output", None)  # no embedding model uses it, and our tower has none
        assert reference.rel(tower(ids, mask), stored["mean_pooled"]) <= reference.FORWARD
    reference.check(case, real_tokens(ours, mask), real_tokens(stored, mask), reference.FORWARD)


def mean_over(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean of the tokens where the mask is 1."""
    return np.einsum("bsd,bs->bd", tokens, mask) / mask.sum(1, keepdims=True)


@pytest.mark.parametrize("case", [c for c in reference.cases(TEXTS) if c == "minilm"])
def test_minilm_is_transformers(case: str) -> None:
    folder = minilm_folder()
    config = json.loads((folder / "config.json").read_text())
    stored = reference.arrays(TEXTS, case)
    tower = convert.text(folder, config, "hf")
    ours = {"mean_pooled": by_length(tower, stored["input_ids"], stored["attention_mask"])}
    ours["embedding"] = l2_normalize(ours["mean_pooled"])
    names = ("mean_pooled", "embedding")
    reference.check(case, ours, {name: stored[name] for name in names}, reference.FORWARD)


def minilm_folder() -> Path:
    """The folder of the real all-MiniLM-L6-v2, found as a run finds it."""
    request = SimpleNamespace(model="all-MiniLM-L6-v2", revision="", sha256="")
    try:
        return text_weights.find(request).folder
    except ConfigError as error:
        pytest.skip(f"no all-MiniLM-L6-v2 here: {error}")


def by_length(tower: convert.ConvertedTower, ids: np.ndarray, mask: np.ndarray) -> jax.Array:
    """The vectors of a batch, short rows without the padding of the long ones, to save time."""
    order = np.argsort(mask.sum(axis=1))
    parts = np.split(order, [len(order) // 2, len(order) * 3 // 4])
    found = [tower(ids[p, : mask[p].sum(1).max()], mask[p, : mask[p].sum(1).max()]) for p in parts]
    return jnp.concatenate(found)[np.argsort(np.concatenate(parts))]
