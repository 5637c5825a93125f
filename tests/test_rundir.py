"""Run directories: locks held by real processes, other configs, other data, half-written lines."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from lit_tune import files, runlock
from lit_tune.config import config_hash, load, to_json
from lit_tune.errors import ConfigError
from lit_tune.rundir import RunDir, differences


def changed(**changes: object) -> ConfigDict:
    """A shipped config with known values of what these tests change; `__` stands for a dot."""
    known = {"optim__lr": 0.001, "log__every": 50, "checkpoint__every": 10, "checkpoint__keep": 2, "total_steps": 100,
             "data__workers": 0, "data__threads": 1}
    return load("finetune", [(key.replace("__", "."), str(value)) for key, value in (known | changes).items()])


def config(**changes: object) -> str:
    """Its text."""
    return to_json(changed(**changes))


def opened(workdir: Path, page: str | None = None, **options: object) -> RunDir:
    return RunDir.open(workdir, page or config(), **options)


@pytest.fixture(autouse=True)
def trained(tmp_path: Path) -> None:
    """A first line of metrics, without which a recorded config binds nobody."""
    (tmp_path / "metrics.jsonl").touch()



def test_first_start_records_config_hash_and_data(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "b", data={"train": "f00"}) as run:
        recorded = json.loads((run.path / "config.json").read_text())
        assert recorded["config"] == json.loads(config())
        assert recorded["hash"] == run.config_hash == config_hash(changed())
        assert recorded["data"] == {"train": "f00"}
        assert (run.path / "run.lock").exists()
    assert not (tmp_path / "a" / "b" / "run.lock").exists()
    before = (tmp_path / "a" / "b" / "config.json").read_bytes()
    opened(tmp_path / "a" / "b", data={"train": "f00"}).close()
    assert (tmp_path / "a" / "b" / "config.json").read_bytes() == before


def test_other_config_is_refused_with_the_difference_and_nothing_written(tmp_path: Path) -> None:
    opened(tmp_path).close()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"optim\.lr is 0\.001 recorded, 0\.002 given") as caught:
        opened(tmp_path, config(optim__lr=0.002, log__every=7))
    assert caught.value.exit_code == 2
    assert "log.every" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_first_start_that_trained_nothing_does_not_bind_the_next(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").unlink()
    opened(tmp_path, config(total_steps=100)).close()
    opened(tmp_path, config(total_steps=50)).close()
    assert json.loads((tmp_path / "config.json").read_text())["config"]["total_steps"] == 50


def test_harmless_changes_are_accepted_and_recorded(tmp_path: Path) -> None:
    opened(tmp_path).close()
    for changes in ({"log__every": 7}, {"log__every": 7, "checkpoint__every": 9, "checkpoint__keep": 4},
                    {"data__workers": 3, "data__threads": 4}):
        opened(tmp_path, config(**changes)).close()
    recorded = json.loads((tmp_path / "config.json").read_text())
    assert [sorted(change["changed"]) for change in recorded["changes"]] == [
        ["log.every"],
        ["checkpoint.every", "checkpoint.keep"],
        ["checkpoint.every", "checkpoint.keep", "data.threads", "data.workers", "log.every"],
    ]
    assert recorded["changes"][0]["changed"]["log.every"] == "50 recorded, 7 given"
    assert recorded["hash"] == config_hash(changed(data__workers=3, data__threads=4))


def test_total_steps_grow_only_with_extend(tmp_path: Path) -> None:
    opened(tmp_path, config(total_steps=100)).close()
    with pytest.raises(ConfigError, match="--extend"):
        opened(tmp_path, config(total_steps=200))
    with pytest.raises(ConfigError, match="total_steps is 100 recorded, 50 given"):
        opened(tmp_path, config(total_steps=50), extend=True)
    opened(tmp_path, config(total_steps=200), extend=True).close()
    opened(tmp_path, config(total_steps=200)).close()


def test_other_data_is_refused_by_name(tmp_path: Path) -> None:
    opened(tmp_path, data={"train": "a", "00000.tar": "x", "00001.tar": "y"}).close()
    with pytest.raises(ConfigError, match='00001.tar is "y" recorded, absent now.*00002.tar is absent') as caught:
        opened(tmp_path, data={"train": "b", "00000.tar": "x", "00002.tar": "y"})
    assert "00000.tar" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_config_that_no_run_wrote_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"half')
    with pytest.raises(ConfigError, match="config.json"):
        opened(tmp_path)
    assert not (tmp_path / "run.lock").exists()


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=str(tmp_path / "file" / "run")) as caught:
        opened(tmp_path / "file" / "run")
    assert caught.value.exit_code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="can be written"):
        opened(tmp_path)


def test_differences_are_named_with_dots() -> None:
    found = differences({"a": {"b": 1, "c": [1, 2]}, "d": "x"}, {"a": {"b": 2, "c": [1, 2]}, "e": None})
    assert found == {"a.b": "1 recorded, 2 given", "d": '"x" recorded, absent now',
                     "e": "absent in the record, null given"}


# The lock.

HOLD = """
import sys, time
from pathlib import Path
from lit_tune import runlock
lock = runlock.RunLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def hold(lock: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.faults(row=20, fault="the lock of a live process, then of a killed one",
                    expected="refused with its number, exit 2; taken over with a line")
def test_live_run_is_refused_and_a_killed_one_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    process = hold(tmp_path / "run.lock")
    with pytest.raises(ConfigError, match=f"process {process.pid} on") as caught:
        opened(tmp_path)
    assert caught.value.exit_code == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    opened(tmp_path).close()
    assert f"taking over {tmp_path}/run.lock from process {process.pid}" in capsys.readouterr().err


def test_same_process_is_refused_too(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(ConfigError, match="is writing"):
        opened(tmp_path)
    opened(tmp_path).close()


@pytest.mark.faults(row=20, fault="the lock of another machine", expected="refused while its heartbeat moves")
def test_lock_of_another_machine_counts_while_its_heartbeat_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(runlock, "BEAT", 0.1)
    monkeypatch.setattr(runlock, "WATCH", 0.6)
    elsewhere = runlock._me() | {"host": "elsewhere"}
    here = runlock._me()
    monkeypatch.setattr(runlock, "_me", lambda: elsewhere)
    lock = runlock.RunLock(tmp_path / "run.lock")
    lock.acquire()
    monkeypatch.setattr(runlock, "_me", lambda: here)
    with pytest.raises(ConfigError, match="on elsewhere is writing"):
        opened(tmp_path)
    lock._released.set()  # that machine goes away without a word
    lock._thread.join()
    opened(tmp_path).close()
    assert "from process" in capsys.readouterr().err


def test_lock_file_cut_short_or_of_a_reused_pid_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text('{"pid": 1')
    opened(tmp_path).close()
    (tmp_path / "run.lock").write_text(json.dumps(runlock._me() | {"started": "1"}))
    opened(tmp_path).close()


def test_of_many_starts_at_once_one_wins(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text(json.dumps(runlock._me() | {"pid": 2**22 + 1}))  # stale: all want to take over
    code = HOLD.replace("time.sleep(60)", "time.sleep(3)")
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run.lock")], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True) for _ in range(4)]
    outputs = [process.communicate(timeout=30)[0] for process in processes]
    assert sorted(outputs) == ["", "", "", "held\n"]


# Line files and the end.


def test_resume_cuts_later_steps_half_lines_and_repetitions(tmp_path: Path) -> None:
    lines = [{"step": 10, "kind": "train", "train/loss": 3.0}, {"step": 10, "kind": "val", "x": 1},
             {"step": 20, "kind": "train", "train/loss": 2.0}, {"step": 20, "kind": "train", "train/loss": 2.5},
             {"step": 30, "kind": "train", "train/loss": 1.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 20, "kind": "v'
    (tmp_path / "metrics.jsonl").write_text(text)
    with opened(tmp_path) as run:
        run.resume_at(20)
        assert files.read_lines(tmp_path / "metrics.jsonl") == [lines[0], lines[1], lines[3]]
        assert (tmp_path / "metrics.jsonl").read_text().endswith("}\n")
        run.resume_at(0)
        assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_quarantined_samples_are_listed_once_in_the_life_of_a_run(tmp_path: Path) -> None:
    bad = [{"shard": "0.tar", "key": "a", "kind": "decode"}, {"shard": "0.tar", "key": "b", "kind": "pixels"}]
    with opened(tmp_path) as run:
        run.quarantine(bad[:1] * 2)
        run.sync()
    with opened(tmp_path) as run:
        run.quarantine(bad)
        run.quarantine([])
    assert files.read_lines(tmp_path / "quarantine.jsonl") == bad


def test_a_quarantine_that_cannot_be_written_waits_and_is_told_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [{"shard": "0.tar", "key": str(n), "kind": "undecodable"} for n in range(3)]
    with opened(tmp_path) as run:
        (tmp_path / "quarantine.jsonl").mkdir()  # nobody can write there
        run.quarantine(bad[:1])
        run.quarantine(bad[:2])
        assert capsys.readouterr().err.count("quarantine.jsonl cannot be written") == 1
        (tmp_path / "quarantine.jsonl").rmdir()
        run.quarantine(bad)
    assert files.read_lines(tmp_path / "quarantine.jsonl") == bad


def test_finished_means_final_json_has_reached_total_steps(tmp_path: Path) -> None:
    with opened(tmp_path, config(total_steps=100)) as run:
        assert not run.finished
        run.write_eval(100, {"val/dev/top1": 0.5})
        run.write_final(100, "abc", {"val/dev/top1": 0.5})
        assert run.finished
    assert json.loads((tmp_path / "final.json").read_text()) == {
        "step": 100, "params_sha256": "abc", "eval": {"val/dev/top1": 0.5}}
    assert json.loads((tmp_path / "eval" / "100.json").read_text()) == {"step": 100, "val/dev/top1": 0.5}
    with opened(tmp_path, config(total_steps=150), extend=True) as run:
        assert not run.finished


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    code = """
import sys, os
from pathlib import Path
from lit_tune import files
i = 0
while True:
    files.write_atomically(Path(sys.argv[1]), str(i) * 100_000 + "end")
    i = (i + 1) % 10
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(target)])
    deadline = time.monotonic() + 20
    while not target.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    process.wait()
    text = target.read_text()
    assert len(text) == 100_003
    assert text.endswith("end")
    assert len(set(text[:-3])) == 1
