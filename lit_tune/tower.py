"""`load(DIR)`: a trained run, an import or an export as a model that embeds pictures and texts."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lit_tune import config as configs
from lit_tune.checkpoint import Checkpointer
from lit_tune.convert import described, onnx_session
from lit_tune.description import TEXT_FILE, VISION_FILE, aligned_to_vectors, of_run, read_description, vision_tower
from lit_tune.errors import CheckpointError, ConfigError, explain
from lit_tune.model import Model, VisionEncoder
from lit_tune.step_folders import say
from lit_tune.text import encode, weights
from lit_tune.text.encode import TextEncoder
from lit_tune.tree import Tree, unflatten


def load(folder: str | Path, step: int | None = None) -> Model:
    """The model in a run directory, or in a folder that `lit-tune import` or `lit-tune export` wrote.

    Args:
        folder: any of them.
        step: which checkpoint of a run; None takes the newest whole one.

    Raises:
        ConfigError: no such folder, or it is neither.
        CheckpointError: a run without a whole checkpoint.
    """
    folder = Path(folder).expanduser()
    if is_run(folder):
        return of_state(folder, *read_state(folder, step))
    if is_model(folder):
        return _load_folder(folder)
    found = "neither" if folder.is_dir() else "no such folder"
    expected = f"a run (config.json, checkpoints/) or an import or export ({VISION_FILE})"
    raise ConfigError(explain(f"model {folder}", expected=expected, found=found, do="check the path"))


def is_model(folder: Path) -> bool:
    """Whether `load` knows this folder as a model."""
    return is_run(folder) or (folder / VISION_FILE).is_file() or (folder / TEXT_FILE).is_file()


def is_run(folder: Path) -> bool:
    """Whether a folder is a run directory."""
    return (folder / "checkpoints").is_dir() and (folder / "config.json").is_file()


def of_state(folder: Path, state: Tree, meta: Mapping[str, Any]) -> Model:
    """The model of a run's state; the running average of the weights where the run keeps one."""
    config = configs.from_json((folder / "config.json").read_text())
    params = averaged(state)["image"]
    if config.text.source == "vectors":
        page = aligned_to_vectors(of_run(config), meta["text_tower"]["made"])
        return Model(VisionEncoder(page, params), None, "")
    return Model(VisionEncoder(of_run(config), params), lambda: text_of_run(config, meta), config.text.prefix)


def averaged(state: Tree) -> Tree:
    """The parameters that stand for a state: the running average where there is one."""
    return state["ema"] if "ema" in state else state["params"]


def read_state(folder: Path, step: int | None = None) -> tuple[Tree, dict[str, Any]]:
    """(state, meta) of a run's checkpoint on this process's first device, digests compared.

    Args:
        folder: the run directory.
        step: which; None takes the newest whole one.
    """
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    # Orbax refuses relative paths
    with Checkpointer(folder.absolute() / "checkpoints", keep=1, read_only=True) as checkpoints:
        faults = []
        for candidate in reversed(checkpoints.steps()) if step is None else [step]:
            try:
                found = _restore(checkpoints, candidate, sharding)
            except CheckpointError as error:
                faults.append(str(error))
                continue
            for fault in faults:
                say(f"step {candidate} is taken: {fault}")
            return found
    found = faults[0] if faults else "no checkpoint yet"
    raise CheckpointError(explain(str(folder), expected="a whole checkpoint", found=found, do="train, or name a step"))


def _restore(
    checkpoints: Checkpointer, step: int, sharding: jax.sharding.Sharding
) -> tuple[Tree, dict[str, Any]]:
    """State and meta of one step; its structure is the one that was saved with it."""
    if step not in checkpoints.steps():
        raise CheckpointError(f"no whole checkpoint of step {step}; there are: {checkpoints.steps()}")
    arrays = checkpoints.meta(step)["arrays"]
    abstract = unflatten({name: jax.ShapeDtypeStruct(*facts) for name, facts in arrays.items()})
    _, state, meta = checkpoints.restore(step, abstract, sharding)
    return state, meta


def text_of_run(config: ConfigDict, meta: Mapping[str, Any]) -> TextEncoder:
    """The frozen text tower of a run that has one, found by name and compared by digest with the one that trained it.

    Raises:
        ConfigError: not found, or other weights.
    """
    files = weights.find(config.text)
    trained = meta.get("text_tower", {}).get("text", {}).get("weights_sha256", files.sha256)
    if files.sha256 != trained:
        raise ConfigError(
            explain(f"text weights in {files.folder}", expected=f"sha256 {trained}", found=files.sha256,
                    do="give the run's own text weights as config.text.model")
        )
    return TextEncoder.from_files(files, config.text)


def _load_folder(folder: Path) -> Model:
    """The model of an import or export: the towers that its descriptions name."""
    vision = text = None
    prompt = ""
    if (folder / VISION_FILE).is_file():
        page = read_description(folder / VISION_FILE)
        vision = _vision(folder, page)
    if (folder / TEXT_FILE).is_file():
        page = read_description(folder / TEXT_FILE)
        prompt, text = page["text"]["prefix"], partial(encode.read_folder, folder, page)
    return Model(vision, text, prompt)


def _vision(folder: Path, page: dict[str, Any]) -> VisionEncoder:
    """The image side that a folder's description is of."""
    facts, preprocess = page["weights"], page["preprocess"]
    if facts["layout"] == onnx_session.LAYOUT:
        file = described.check_file(folder, facts)
        return VisionEncoder(page, {}, onnx_session.vision_session(file, preprocess["mean"], preprocess["std"]))
    return VisionEncoder(page, described.read_params(folder, facts, vision_tower(page).spec))
