"""Checkpoints of real runs under damage, without space, half written: no wrong weight, never from scratch unasked."""

import json
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from interrupted import Home

from lit_tune import cli

STEPS, EVERY, SAVED = 60, 3, 15  # `stopped` has this many checkpoints, one every three steps, and one where it stopped
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A run that nobody disturbed, and `stopped`, whose saves are all kept."""
    home = Home.make(tmp_path_factory.mktemp("checkpoints"), total_steps=STEPS, checkpoint__every=EVERY,
                     checkpoint__keep=99).straight()
    process = home.run("stopped")
    tiny.wait_for_step(home.folder / "stopped", SAVED * EVERY + 1, process)
    assert home.stop(process, "stopped", signal.SIGTERM) > SAVED * EVERY
    return home


@pytest.fixture
def name(home: Home, request: pytest.FixtureRequest) -> str:
    """The name of a copy of the stopped run."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    shutil.copytree(home.folder / "stopped", home.folder / name)
    return name


def newest_first(checkpoints: Path) -> list[Path]:
    """The folders of the steps."""
    return sorted((path for path in checkpoints.iterdir() if path.name.isdecimal()), key=lambda path: -int(path.name))


def kinds_of(step: Path) -> dict[str, Path]:
    """The largest file of each kind that makes up a checkpoint; files of arrays are named by hashes."""
    found = {}
    for path in sorted((p for p in step.rglob("*") if p.is_file()), key=lambda p: -p.stat().st_size):
        name = path.relative_to(step).as_posix()
        found.setdefault(name.rpartition("/")[0] if path.parent.name == "d" else name, path)
    return found


def flip(file: Path, share: float) -> None:
    """Turn a bit at a place of a file."""
    content = bytearray(file.read_bytes())
    content[int(len(content) * share)] ^= 4
    file.write_bytes(content)


def check_recovers(home: Home, name: str, damaged: dict[Path, str], recovery: Callable[[float], None],
                   capsys: pytest.CaptureFixture) -> None:
    """`verify` names every damaged file; a restart too, sets those steps aside and ends as if nothing had been.

    Args:
        damaged: the name of the damaged file by the folder of its step.
    """
    assert cli.main(["verify", str(home.folder / name)]) == 5
    told = capsys.readouterr().out
    best = newest_first(home.checkpoints("stopped"))[len(damaged)]
    process, seconds = home.go_on(name, at=int(best.name))
    recovery(seconds)
    output = home.check_end(name, process)
    for step, file in damaged.items():
        assert f"{step}/{file}: " in told
        assert f"checkpoint {step} is damaged ({file}: " in output, output
        assert step.with_name(f"{step.name}.damaged").is_dir()
    assert f"resumed   at step {best.name}\n" in output


@pytest.mark.faults(row=11, fault="a flipped bit in five places of the arrays, in the five newest checkpoints",
                    expected="each named and set aside; resumes from the sixth, bit for bit")
def test_flipped_bits_are_named_and_the_newest_whole_step_is_used(
    home: Home, name: str, recovery: Callable[[float], None], capsys: pytest.CaptureFixture
) -> None:
    damaged = {}
    for place, step in enumerate(newest_first(home.checkpoints(name))[:5]):
        file = kinds_of(step)["state/ocdbt.process_0/d"]
        flip(file, 0.05 + 0.2 * place)
        damaged[step] = file.relative_to(step).as_posix()
    check_recovers(home, name, damaged, recovery, capsys)


@pytest.mark.parametrize("harm", ["truncated", "deleted"])
@pytest.mark.faults(row=12, fault="one file of each kind of a checkpoint truncated, or deleted",
                    expected="named and set aside; resumes from the newest whole one, bit for bit")
def test_a_file_of_any_kind_that_is_cut_or_gone_is_named(
    home: Home, name: str, harm: str, recovery: Callable[[float], None], capsys: pytest.CaptureFixture
) -> None:
    steps, damaged = newest_first(home.checkpoints(name)), {}
    kinds = kinds_of(steps[0])
    assert {"digests.json", "meta/metadata", "state/_METADATA", "state/manifest.ocdbt"} <= kinds.keys()
    assert len(kinds) < len(steps), "not every kind has a checkpoint of its own"
    for kind, step in zip(kinds, steps, strict=False):
        file = kinds_of(step)[kind]
        damaged[step] = file.relative_to(step).as_posix()
        if harm == "deleted":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    check_recovers(home, name, damaged, recovery, capsys)


@pytest.mark.faults(row=13, fault="every checkpoint damaged", expected="exit 5 at every start, never from scratch")
def test_where_all_are_damaged_the_run_does_not_begin_anew(home: Home, name: str) -> None:
    steps = newest_first(home.checkpoints(name))
    for step in steps:
        flip(kinds_of(step)["state/ocdbt.process_0/d"], 0.5)
    before = (home.folder / name / "metrics.jsonl").read_bytes()
    for _ in range(2):
        code, output = tiny.finish(home.run(name))
        assert code == 5 and "no checkpoint is whole" in output and "Traceback" not in output, output
    assert {path.name for path in home.checkpoints(name).iterdir()} == {f"{step.name}.damaged" for step in steps}
    assert (home.folder / name / "metrics.jsonl").read_bytes() == before
    for step in steps[:1]:  # what the line offers: a copy is put back
        shutil.copytree(home.checkpoints("stopped") / step.name, step)
    assert f"resumed   at step {steps[0].name}\n" in home.check_end(name, home.run(name))


@pytest.mark.faults(row=14, fault="temporary folders of killed saves, one of the step that is saved next",
                    expected="cleared away; the step is saved")
def test_leftovers_of_killed_saves_are_cleared_away(home: Home, name: str) -> None:
    checkpoints = home.checkpoints(name)
    newest = newest_first(checkpoints)[0]
    following = EVERY * (int(newest.name) // EVERY + 1)
    for left in (f"{following}.orbax-checkpoint-tmp", f"{EVERY}.orbax-checkpoint-tmp-1"):
        (checkpoints / left / "state").mkdir(parents=True)
        (checkpoints / left / "state" / "half").write_bytes(b"x" * 100)
    (checkpoints / f"{following}.changing").touch()
    (checkpoints / str(following)).mkdir()  # committed by Orbax, killed before the digests
    assert f"resumed   at step {newest.name}\n" in home.check_end(name, home.run(name))
    assert not [path.name for path in checkpoints.iterdir() if not path.name.isdecimal()]
    assert cli.main(["verify", str(home.folder / name)]) == 0
    assert json.loads((checkpoints / str(following) / "digests.json").read_text())["step"] == following


@pytest.mark.faults(row=9, fault="the disk is full: checkpoints, log and event files cannot grow",
                    expected="one more try, exit 5, the step before is whole; with room again, bit for bit")
def test_a_full_disk_ends_the_run_after_one_more_try_and_with_room_it_goes_on(
    home: Home, recovery: Callable[[float], None]
) -> None:
    name = "full"
    process = home.run(name, checkpoint__every=15)
    tiny.wait_for_step(home.folder / name, 20, process, saved=15)
    # No file of the process may grow beyond this: writes fail part of the way, as on a full disk.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    code, output = tiny.finish(process)
    assert code == 5 and "Traceback" not in output, output
    assert output.count("one more try") == 1 and "the newest whole step is 15" in output
    assert "metrics.jsonl cannot be written" in output and "training goes on" in output
    assert [path.name for path in newest_first(home.checkpoints(name)) if (path / "digests.json").exists()] == ["15"]
    process, seconds = home.go_on(name, checkpoint__every=15)
    recovery(seconds)
    home.check_end(name, process)
