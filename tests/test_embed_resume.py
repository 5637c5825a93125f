"""embed goes on where it stopped: whatever killed it, whenever, the file is the one of a run that nobody disturbed."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from collections_on_disk import refused, write_tar
from small_models import picture, small_config, write_run, write_text_tower

from lit_tune import cli, embed, tower, unfinished

PICTURES = 11
ARRIVAL = 120  # seconds for a process to begin embedding


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run, a tar of pictures of which two are broken, a file of texts with equal ones."""
    from PIL import Image

    root = tmp_path_factory.mktemp("home")
    write_run(root / "run", small_config(write_text_tower(root / "text")))
    members = {}
    for number in range(PICTURES):
        Image.fromarray(picture(number)).save(root / "x.png")
        members[f"{number:03}.png"] = (root / "x.png").read_bytes()
    members["004.png"], members["009.png"] = b"<html>", members["009.png"][:-200]
    write_tar(root / "a.tar", members)
    words = ["a cat", "red dogs", "the big red dog on the mat", "a cat", "a dog on the mat"]
    (root / "texts.txt").write_text("".join(f"{words[i % 5]} {i % 7}\n" for i in range(PICTURES)))
    return SimpleNamespace(root=root, run=root / "run", images=f"--images={root / 'a.tar'}",
                           texts=f"--texts={root / 'texts.txt'}")  # fmt: skip


def argv(home: SimpleNamespace, what: str, out: Path) -> list[str]:
    """A command line."""
    return ["embed", f"--model={home.run}", what, f"--out={out}"]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("kind, suffix", [("images", ".npz"), ("texts", ".parquet")])
def test_killed_at_any_step_it_goes_on_and_gives_the_very_same_file(
    kind: str, suffix: str, home: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "CHUNKS", {"pictures": 3, "texts": 4})
    monkeypatch.setattr(tower, "load", functools.cache(tower.load))  # a real process loads the model again, below
    what, code = getattr(home, kind), 4 if kind == "images" else 0
    assert cli.main(argv(home, what, tmp_path / f"whole{suffix}")) == code
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    for moment in range(1, 1000):
        left, before = moment, {name: getattr(os, name) for name in ("fsync", "replace", "truncate", "rename")}

        def counted(name: str) -> object:
            def call(*args: object) -> object:
                nonlocal left
                left -= 1
                if left == 0:
                    raise Killed
                return before[name](*args)  # noqa: B023
            return call  # fmt: skip

        out = tmp_path / f"{moment}{suffix}"
        with monkeypatch.context() as patch:
            for name in before:
                patch.setattr(os, name, counted(name))
            try:
                cli.main(argv(home, what, out))
                break  # there is no such moment: all have been tried
            except Killed:
                pass
        assert cli.main(argv(home, what, out)) == code
        assert out.read_bytes() == whole, f"killed at moment {moment}"
        assert not out.with_name(out.name + ".partial").exists()
    assert moment > 10


def test_what_is_done_is_not_done_again_and_what_a_killed_process_wrote_beyond_it_is_cut_off(
    home: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embed, "CHUNKS", {"pictures": 3, "texts": 4})
    assert cli.main(argv(home, home.images, tmp_path / "whole.npz")) == 4
    real, out, seen = embed.embed_pictures, tmp_path / "x.npz", []

    def interrupted(model: object, chunk: list) -> object:
        if len(seen) == 6:
            raise KeyboardInterrupt
        seen.extend(one.name for one in chunk)
        return real(model, chunk)

    monkeypatch.setattr(embed, "embed_pictures", interrupted)
    capsys.readouterr()
    assert cli.main(argv(home, home.images, out)) == cli.INTERRUPTED
    assert "6 pictures are done: the same command line goes on" in capsys.readouterr().err
    partial = tmp_path / "x.npz.partial"
    for name in ("vectors.f32", "ids.jsonl"):
        with (partial / name).open("ab") as file:
            file.write(b"half a row of a process that was killed")
    seen.clear()
    monkeypatch.setattr(embed, "embed_pictures", lambda model, chunk: (seen.extend(chunk), real(model, chunk))[1])
    assert cli.main(argv(home, home.images, out)) == 4
    assert len(seen) == PICTURES - 6
    said = capsys.readouterr().err
    assert "going on after 6 pictures" in said and "2 pictures were left out" in said  # one of them before
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes() and not partial.exists()


def test_another_model_or_collection_is_refused_by_name_and_restart_begins_anew(
    home: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, real = tmp_path / "x.npz", unfinished.Unfinished.add

    def stop_after_one(work: unfinished.Unfinished, *args: object) -> None:
        real(work, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(unfinished.Unfinished, "add", stop_after_one)
    monkeypatch.setattr(embed, "CHUNKS", {"pictures": 3, "texts": 4})
    assert cli.main(argv(home, home.texts, out)) == cli.INTERRUPTED
    write_run(tmp_path / "other", small_config(write_text_tower(tmp_path / "text", seed=1)))
    (tmp_path / "texts.txt").write_text("a cat\n")
    base = argv(home, home.texts, out)
    for words, difference in [
        (["embed", f"--model={tmp_path / 'other'}", home.texts, f"--out={out}"], "expected model_sha256 "),
        (argv(home, f"--texts={tmp_path / 'texts.txt'}", out), "expected inputs_sha256 "),
        ([*base, "--prompt=a "], "expected prompt None, found a"),
        (argv(home, home.images, out), "expected kind texts, found pictures"),
    ]:
        line = refused(capsys, *words)
        assert difference in line and "x.npz.partial, half done" in line and "--restart" in line
    monkeypatch.setattr(unfinished.Unfinished, "add", real)
    (out.with_name("x.npz.partial") / "vectors.f32").write_bytes(b"")
    assert "found vectors.f32 of 0 bytes; begin anew with --restart" in refused(capsys, *base)
    assert cli.main([*argv(home, f"--texts={tmp_path / 'texts.txt'}", out), "--restart"]) == 0
    with np.load(out) as file:
        assert file["ids"].tolist() == ["a cat"]


def test_a_second_process_is_kept_out(
    home: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = unfinished.Unfinished(tmp_path / "x.npz", {"dim": 16}, restart=False)
    assert "expected one process at a time" in refused(capsys, *argv(home, home.texts, tmp_path / "x.npz"))
    work.remove()


@pytest.fixture(scope="module")
def many(home: SimpleNamespace) -> SimpleNamespace:
    """Texts of many chunks, and their file from a process that nobody disturbed."""
    lines = 30 * embed.CHUNKS["texts"]
    (home.root / "many.txt").write_text("".join(f"a {'red ' * (i % 3)}cat {i % 11}\n" for i in range(lines)))
    texts = f"--texts={home.root / 'many.txt'}"
    assert cli.main(argv(home, texts, home.root / "many.npz")) == 0
    return SimpleNamespace(lines=lines, texts=texts, whole=(home.root / "many.npz").read_bytes())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_real_process_that_is_killed_in_the_middle_loses_nothing(
    how: signal.Signals, home: SimpleNamespace, many: SimpleNamespace, tmp_path: Path
) -> None:
    out = tmp_path / "x.npz"
    process = subprocess.Popen([sys.executable, "-m", "lit_tune", *argv(home, many.texts, out)],
                               stderr=subprocess.DEVNULL, env=os.environ | {"JAX_PLATFORMS": "cpu"})  # fmt: skip
    progress, deadline = tmp_path / "x.npz.partial" / "progress.json", time.monotonic() + ARRIVAL
    while not (progress.exists() and json.loads(progress.read_text())["inputs"]):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(how)
    assert process.wait(60) == -how
    done = json.loads(progress.read_text())["inputs"]
    assert 0 < done < many.lines and done % embed.CHUNKS["texts"] == 0 and not out.exists()
    assert cli.main(argv(home, many.texts, out)) == 0
    assert out.read_bytes() == many.whole
