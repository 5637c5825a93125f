"""Text towers that are not whole or not what their config says: one line, exit 2, nothing written."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from lit_tune import cli

MOST_S = 20  # from the start of the program to its end
FIRST = "encoder.layer.0.attention.output.dense.weight"
Named = dict[str, np.ndarray]
CHANGES: dict[str, tuple[Callable[[Named], Named], str]] = {  # what is done to the arrays, what is said
    "one missing": (lambda named: {key: named[key] for key in named if key != FIRST}, f"1 missing ({FIRST})"),
    "one extra": (lambda named: named | {"encoder.layer.7.x": named[FIRST]}, "1 extra (encoder.layer.7.x)"),
    "another shape": (lambda named: named | {FIRST: named[FIRST][:-1]}, f"{FIRST} of shape (15, 16) instead of"),
    "whole numbers": (lambda named: named | {FIRST: named[FIRST].astype(np.int8)}, f"{FIRST} of int8 instead of"),
    "float64": (lambda named: named | {FIRST: named[FIRST].astype(np.float64)}, f"weight {FIRST}: expected float32"),
    "float8": (lambda named: named | {FIRST: named[FIRST].astype(ml_dtypes.float8_e4m3fn)}, f"{FIRST} of F8_E4M3"),
}
CONFIGS = {  # the same weights under a config that says otherwise
    "another depth": ({"num_hidden_layers": 2}, "missing (encoder.layer.1."),
    "another position table": ({"max_position_embeddings": 32}, "embeddings.position_embeddings.weight of shape"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole text tower, and pictures."""
    return tiny.make_home(tmp_path_factory.mktemp("weights"))


def refused(home: Path, text: Path | str, run: Path, **environment: str) -> tuple[str, float]:
    """(the one line that `lit-tune train` says with exit 2, seconds it took)."""
    started = time.monotonic()
    words = tiny.arguments(Path(text), home / "pictures", run, eval__sets=())
    code, output = tiny.finish(tiny.start(words, run.parent / "cache", **environment))
    assert code == 2 and output.count("\n") == 1, output
    assert not list((run / "checkpoints").glob("*")) and not (run / "metrics.jsonl").exists()
    return output, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.faults(row=40, fault="a text tower without tokenizer, or one that is nowhere here, and no network",
                    expected="exit 2 within 20 s with one line that names the file or every place tried")
def test_a_missing_tokenizer_is_named_and_not_waited_for(
    home: Path, tmp_path: Path, recovery: Callable[[float], None]
) -> None:
    folder = shutil.copytree(home / "text", tmp_path / "text")
    (folder / "tokenizer.json").unlink()
    line, seconds = refused(home, folder, tmp_path / "run", HF_HUB_OFFLINE="1")
    assert "found no tokenizer.json" in line and str(folder) in line
    there = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    line, more = refused(home, "somebody/something", tmp_path / "other", **there)
    assert "somebody/something" in line and "HF_HUB_OFFLINE is set" in line
    # a hub that nobody answers for: refused at once, tried once
    there = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    line, most = refused(home, "somebody/something", tmp_path / "third", **there)
    assert "somebody/something" in line and "the hub (" in line
    assert max(seconds, more, most) < MOST_S
    recovery(max(seconds, more, most))


@pytest.mark.slow
@pytest.mark.faults(row=41, fault="weights with one array missing, extra, of another shape or type; another depth or "
                    "position table than the config says", expected="exit 2 with one line that names the first of them")
def test_weights_that_are_not_those_of_their_config_are_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recovery: Callable[[float], None]
) -> None:
    named = load_file(home / "text" / "model.safetensors")
    page = json.loads((home / "text" / "config.json").read_text())
    cases = [(name, change(named), page, said) for name, (change, said) in CHANGES.items()]
    cases += [(name, named, page | change, said) for name, (change, said) in CONFIGS.items()]
    for name, arrays, config, said in cases:
        folder = shutil.copytree(home / "text", tmp_path / name)
        save_file(arrays, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config))
        assert cli.main(["import", "--from=hf", f"--weights={folder}", f"--out={tmp_path / 'out'}"]) == 2, name
        line = capsys.readouterr().err
        assert said in line and line.count("\n") == 1, (name, line)
        assert not os.path.lexists(tmp_path / "out")
    line, seconds = refused(home, tmp_path / "whole numbers", tmp_path / "run")  # training reads them alike
    assert CHANGES["whole numbers"][1] in line
    recovery(seconds)
