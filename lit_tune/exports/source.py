"""What is to be exported, found: a run's checkpoint, an import or another export, with all that is known about it."""

import json
from pathlib import Path
from typing import Any

from lit_tune import rundir, tower
from lit_tune.errors import ConfigError, explain
from lit_tune.exports.parts import Source
from lit_tune.model import Model
from lit_tune.text.encode import TextEncoder

PROOF = "proof.json"
LOGITS = ("logit_scale", "logit_bias")  # what cosines are scaled (a logarithm) and shifted with; the bias is sigmoid's


def of_run(workdir: Path, step: int | None, name: str = "") -> Source:
    """The towers of a checkpoint, its config, data and scores.

    Args:
        step: which; None takes the newest whole one.
        name: for people; "" takes the folder's.

    Raises:
        ConfigError: no run there, or other text weights than it was trained with.
        CheckpointError: no whole checkpoint.
    """
    if not tower.is_run(workdir):
        raise ConfigError(explain(f"--workdir {workdir}", expected="a run's folder (config.json, checkpoints/)",
                                  found="none", do="name one, or give an import or export as --model=DIR"))
    state, meta = tower.read_state(workdir, step)
    model, params = tower.of_state(workdir, state, meta), tower.averaged(state)
    scores, where = _scores(workdir, meta["step"])
    facts = {"kind": "run", "step": meta["step"], "config_hash": meta["config_hash"], "config": meta["config"],
             "data": meta["data"], "trained_with": meta["versions"], "scores": scores, "scores_from": where,
             **{name: float(params[name]) for name in LOGITS if name in params}}
    return Source(model.vision, _text(model), name or workdir.resolve().name, facts)


def of_folder(folder: Path, name: str = "") -> Source:
    """The towers of an import or export, and what its descriptions and its proof say about them; of a run as `of_run`.

    Raises:
        ConfigError: no such folder, or no image tower in it.
    """
    if tower.is_run(folder):
        return of_run(folder, None, name)
    model = tower.load(folder)
    facts: dict[str, Any] = {"kind": "import"}
    text = _text(model)
    for kind, side in (("vision", model.vision), ("text", text)):
        if side is not None and "source" in side.description:
            facts[kind] = side.description["source"]
    if (folder / PROOF).is_file():
        facts = json.loads((folder / PROOF).read_text())["source"]  # of a run that was exported already
    return Source(model.vision, text, name or folder.resolve().name, facts)


def _text(model: Model) -> TextEncoder | None:
    """The text side, None of an image tower alone."""
    return model.text if model.has_text else None


def _scores(workdir: Path, step: int) -> tuple[dict[str, float], str]:
    """(scores of a step, the file they are from); ({}, "") where it was not evaluated."""
    scores = rundir.read_eval(workdir, step)
    if scores:
        return scores, f"eval/{step}.json"
    final = workdir / "final.json"
    page = json.loads(final.read_text()) if final.is_file() else {"step": -1}
    return (page["eval"], final.name) if page["step"] == step and page["eval"] else ({}, "")
