"""Every shipped config: it loads, locks, is accepted, says what its golden text says, and builds abstractly.

A changed default shows up as a change of tests/golden/configs; `python tests/test_configs.py` writes those anew.
"""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from lit_tune import config as config_lib, config_check, config_start, errors

GOLDEN = Path(__file__).parent / "golden" / "configs"
SPECS = ["quickstart", "quickstart:dev", "finetune", "nomic_embed_vision_v1_5", "nomic_embed_vision_v1_5:best",
         "siglip_b16", "lit_b16_v5e8", "lit_b16_1gpu"]


def as_text(config: ConfigDict) -> str:
    """One `key = value` a line."""
    return "".join(f"{key} = {value!r}\n" for key, value in config_lib.flat(config).items())


def golden(spec: str) -> Path:
    """The file that holds a config's text."""
    return GOLDEN / f"{spec.replace(':', '-')}.txt"


def refusal(spec: str, *changes: tuple[str, str], files: bool = False) -> str:
    """What `check` says about a shipped config with changes."""
    with pytest.raises(errors.ConfigError, match=".") as caught:
        config_lib.check(config_lib.load(spec, changes), files=files)
    return str(caught.value)


def test_every_shipped_config_is_tested() -> None:
    assert {spec.partition(":")[0] for spec in SPECS} == set(config_lib.names())


@pytest.mark.parametrize("spec", SPECS)
def test_config_loads_locked_and_resolves_to_its_golden_text(spec: str) -> None:
    config = config_lib.load(spec)
    config_lib.check(config, files=False)
    assert config.is_locked and config.optim.is_locked
    assert as_text(config) == golden(spec).read_text(), "run python tests/test_configs.py and look at the difference"


@pytest.mark.parametrize("spec", SPECS)
def test_config_builds_abstractly(spec: str) -> None:
    import jax
    import numpy as np

    from lit_tune import optim, sharding
    from lit_tune.step import build_step

    config = config_lib.load(spec)
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:8])
    built = build_step(config, mesh)
    state, batch, _ = built.abstract
    assert batch["image"].shape == (config.global_batch, *config.vision.image_size, 3)
    assert jax.tree.structure(built.shardings[0]) == jax.tree.structure(state)
    rates = [float(optim.make_schedule(config)(step)) for step in (0, config.optim.warmup_steps, config.total_steps)]
    assert rates[1] == pytest.approx(optim.resolve_lr(config), rel=1e-3) and max(rates) == rates[1]
    parameters = sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(state["params"]["image"]))
    # nomic-embed-vision-v1.5 as MTEB lists it; timm's EVA02-B/16 with a MAP head of 2048, counted in timm 1.0.31
    published = {"nomic_embed_vision_v1_5": 92_946_688, "nomic_embed_vision_v1_5:best": 91_364_096}
    assert spec not in published or parameters == published[spec]


def test_finetune_starts_from_the_quick_starts_tower_and_text() -> None:
    mine, quick = config_lib.load("finetune"), config_lib.load("quickstart")
    towers = [config_lib.resolved(config)["vision"] for config in (mine, quick)]
    for tower in towers:
        del tower["patch_dropout"], tower["init_spec"]  # how a run treats the tower, not what it is
    assert towers[0] == towers[1]
    assert config_lib.resolved(mine)["text"] == config_lib.resolved(quick)["text"]


def test_the_published_run_is_4_643_billion_pairs() -> None:
    config = config_lib.load("nomic_embed_vision_v1_5")
    assert config.global_batch * config.total_steps == 4_643_094_528
    assert config.global_batch * config.total_steps / 1_547_277_668 == pytest.approx(3.0008, abs=5e-5)


def test_every_number_has_a_range_and_every_name_its_choices() -> None:
    values = config_lib.flat(config_lib.load("nomic_embed_vision_v1_5"))
    numbers = {key for key, value in values.items()
               if not isinstance(value, bool | str) and not (isinstance(value, tuple) and value[:1] in ((), ("{}",)))}
    empty = {"loss.matryoshka_dims", "text.length_buckets"}  # numbers too, none by default
    assert numbers | empty == set(config_check.RANGES)
    assert set(config_check.CHOICES) <= set(values)


def test_keys_of_a_start_are_keys_that_exist_and_no_part_of_the_tower() -> None:
    from lit_tune.models import two_towers

    vision = config_lib.load("quickstart").vision
    assert set(config_start.OWN) - {"embed_dim"} == set(two_towers.RUN_KEYS) - {"family"} < set(vision)


def test_names_that_are_accepted_are_names_that_exist() -> None:
    from lit_tune import losses
    from lit_tune.data import sources
    from lit_tune.models import heads, layers

    assert set(config_check.CHOICES["loss.name"]) == set(losses.LOSSES)
    assert set(config_check.CHOICES["vision.pool"]) == set(heads.POOLS) - {"none"}
    assert set(config_check.CHOICES["vision.act"]) == set(layers.ACTIVATIONS)
    assert set(config_check.EMOJI) == set(sources.EMOJI)


def test_overrides_take_the_type_of_the_key() -> None:
    config = config_lib.load("quickstart", [
        ("optim.lr", "3"), ("total_steps", "1_000"), ("vision.image_size", "(64, 32)"), ("vision.rope", "False"),
        ("text.prefix", "3"), ("eval.sets", "a=x{0..3}.tar"), ("eval.templates", "('{}', 'a {}')"),
        ("data.crop_scale", "1, 1"), ("seed", "4"), ("seed", "5")])
    assert (config.optim.lr, type(config.optim.lr)) == (3.0, float)
    assert (config.total_steps, config.vision.image_size, config.vision.rope) == (1000, (64, 32), False)
    assert (config.text.prefix, config.eval.sets, config.eval.templates) == ("3", ("a=x{0..3}.tar",), ("{}", "a {}"))
    assert config.data.crop_scale == (1.0, 1.0) and config.seed == 5


@pytest.mark.parametrize("key, value, says", [
    ("vision.pool", "max", "map | nomic | cls | mean"), ("loss.name", "triplet", "softmax | sigmoid"),
    ("optim.schedule", "linear", "cosine | deepspeed_cosine"), ("data.resize", "crop", "shortest | squash"),
    ("data.policy", "ours", "clean | reference"), ("vision.depth", "0", "[1, inf)"), ("optim.lr", "nan", "(0, inf)"),
    ("optim.b2", "1", "[0, 1)"), ("vision.image_size", "(50, 48)", "use (48, 48)"),
    ("vision.num_heads", "5", "a divisor of the width 192"), ("vision.num_heads", "96", "divides by 4"),
    ("vision.pos_embed_grid", "(3, 0)", "(0, 0)"), ("vision.class_token", "false", "vision.pool"),
    ("optim.warmup_steps", "1_000_000", "fewer than total_steps"), ("eval.templates", "a photo", "{} where"),
    ("eval.sets", "unnamed", "name=shards or folder"), ("eval.best_metric", "val/none/x", "val/NAME/metric"),
    ("mesh.fsdp", "-1", "at most one"), ("loss.logit_scale_max", "0.5", "at least 1"), ("text.sha256", "12", "64 hex"),
    ("vision.init_resample", "nearest", "bicubic | pinv"), ("optim.layer_decay", "0", "(0, 1]"),
    ("vision.freeze_blocks", "5", "at most the depth 4"), ("vision.freeze_blocks", "-2", "[-1, inf)"),
    ("vision.freeze_blocks", "-1", "0 without vision.init_from"),
    ("data.crop_scale", "(1, 0.5)", "low <= high"), ("data.resize_on", "gpu", "host | device"),
    ("data.max_aspect", "0.5", "at least 1, or 0"), ("data.captions", "all", "random | first | joined"),
    ("text.source", "live", "loss.extra_negatives"),
])
def test_check_refuses_and_says_what_to_do(key: str, value: str, says: str) -> None:
    more = {"vision.class_token": [("vision.pool", "cls")], "text.source": [("loss.extra_negatives", "8")]}
    message = refusal("quickstart", (key, value), *more.get(key, []))
    assert says in message and "\n" not in message


def test_a_key_of_the_family_that_is_not_trained_keeps_its_default() -> None:
    other = refusal("quickstart", ("vision.act", "quick_gelu"))
    assert "config.vision.act: expected its default gelu with vision.family=eva02, found quick_gelu" in other
    vit = [("vision.family", "vit"), ("vision.rope_reference_grid", "(14, 14)")]
    assert "config.vision.rope: expected its default True" in refusal("quickstart", *vit, ("vision.rope", "false"))
    config = config_lib.load("quickstart", [*vit, ("vision.act", "gelu_tanh")])
    config_lib.check(config, files=False)
    from lit_tune.models import two_towers

    assert two_towers.vision_spec(config).act == "gelu_tanh"


def test_the_keys_of_each_family_are_the_fields_that_only_its_spec_has() -> None:
    from lit_tune.models.two_towers import VISION_FAMILIES

    fields = {name: [f.name for f in dataclasses.fields(spec)] for name, (spec, _) in VISION_FAMILIES.items()}
    assert set(config_check.FAMILY_KEYS) == set(fields) == set(config_check.CHOICES["vision.family"])
    for family, names in fields.items():
        others = {name for other, found in fields.items() if other != family for name in found}
        assert set(config_check.FAMILY_KEYS[family]) == set(names) - others


def test_check_refuses_missing_data_and_starting_weights(tmp_path: Path) -> None:
    assert "--config.data.train=" in refusal("finetune", files=True)
    assert "check the path" in refusal("finetune", ("data.train", str(tmp_path / "none")), files=True)
    assert "emoji:train" in refusal("finetune", ("data.train", "emoji:tain"), files=True)
    here = ("data.train", str(tmp_path))
    assert "vision.init_from" in refusal("finetune", here, ("vision.init_from", str(tmp_path / "none")), files=True)
    config_lib.check(config_lib.load("finetune", [here]))
    # Shards are looked at where they are opened, with exit code 4.
    config_lib.check(config_lib.load("finetune", [("data.train", str(tmp_path / "{0..3}.tar"))]))


@pytest.mark.parametrize("batch, devices, changes, says", [
    (100, 8, [], "use 96 or 104"), (4, 8, [], "use 8"), (256, 6, [("mesh.fsdp", "4")], "multiply to 6 devices"),
    (256, 8, [("mesh.data", "4")], "multiply to 8 devices"), (256, 8, [("mesh.tensor", "8")], "a divisor of 3 heads"),
])
def test_a_batch_or_mesh_that_does_not_divide_names_what_does(batch: int, devices: int, changes: list,
                                                              says: str) -> None:
    config = config_lib.load("quickstart", [("global_batch", str(batch)), *changes])
    with pytest.raises(errors.ConfigError, match=".") as caught:
        config_lib.check_devices(config, devices)
    assert says in str(caught.value)


def test_batches_that_divide_are_accepted() -> None:
    for devices, tensor in [(1, 1), (8, 1), (6, 3), (64, 1)]:
        config_lib.check_devices(config_lib.load("quickstart", [("mesh.tensor", str(tensor))]), devices)


@pytest.mark.parametrize("spec", SPECS)
def test_a_stored_config_comes_back_equal_and_with_the_same_hash(spec: str) -> None:
    config = config_lib.load(spec)
    stored = config_lib.to_json(config)
    for text in (stored, json.dumps({"hash": "x", "config": json.loads(stored)})):  # alone, or in a run's config.json
        back = config_lib.from_json(text)
        assert config_lib.diff(config, back) == {} and back.is_locked
        assert config_lib.config_hash(back) == config_lib.config_hash(config)


def test_hash_and_difference_see_a_changed_key() -> None:
    old, new = config_lib.load("quickstart"), config_lib.load("quickstart", [("optim.lr", "0.5")])
    assert config_lib.diff(old, new) == {"optim.lr": (old.optim.lr, 0.5)}
    assert config_lib.config_hash(old) != config_lib.config_hash(new)


def test_a_stored_config_of_another_version_is_read_or_refused() -> None:
    stored = json.loads(config_lib.to_json(config_lib.load("quickstart")))
    del stored["log"]["block_stats_steps"]
    assert config_lib.from_json(json.dumps(stored)).log.block_stats_steps == 500  # the default of common.py
    stored["log"]["gone"] = 1
    for text in (json.dumps(stored), "not json", "[]", '{"config": 3}'):
        with pytest.raises(errors.ConfigError):
            config_lib.from_json(text)


USER_FILE = """
from lit_tune.configs import common

def get_config():
    c = common.get_config()
    {line}
    return c
"""


@pytest.mark.parametrize("changes, says", [
    ((("data.resize_on", "device"), ("data.canvas", "200")), "data.canvas: expected at least 224"),
    ((("data.resize_on", "device"), ("data.rotate", "5")), "data.rotate: expected 0 with data.resize_on=device"),
    ((("data.captions", "joined"), ("text.source", "cached")), "data.captions: expected random or first"),
])
def test_input_settings_that_exclude_each_other_are_refused(changes: tuple, says: str) -> None:
    with pytest.raises(errors.ConfigError, match=re.escape(says)):
        config_lib.check(config_lib.load("nomic_embed_vision_v1_5", changes), files=False)


@pytest.mark.parametrize("line, says", [
    ("c.optim.lrr = 1.0", "did you mean config.optim.lr?"), ("c.optim.lr = 'fast'", "line 6"),
    ("del c.optim['lr']", "the key optim.lr"), ("c.vision.pool = undefined", "line 6: NameError"),
    ("c.vision.image_size = (1, 2, 3)", "2 numbers"), ("c.vision.depth =", "line 6: SyntaxError"),
])
def test_a_config_file_with_a_mistake_is_refused_with_its_line(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(USER_FILE.format(line=line))
    with pytest.raises(errors.ConfigError, match=".") as caught:
        config_lib.load(str(path))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_file_of_ones_own_is_loaded_outside_the_clone(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(USER_FILE.format(line="c.optim.lr = 1").replace("get_config():", "get_config(arg='x'):"))
    assert config_lib.load(f"{path}:small").optim.lr == 1.0
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); from lit_tune import config; "
    code += f"config.load('quickstart'); config.load({str(path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for each in SPECS:
        golden(each).write_text(as_text(config_lib.load(each)))
