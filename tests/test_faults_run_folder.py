"""The run directory and what lies in it: read-only, deleted, half written, another config or data set."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import interrupted
import pytest
import shards_on_disk
import tiny
from interrupted import Home

STEPS = 40
# Root without the right to write where others may not.
AS_OTHERS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
root = os.geteuid() == 0
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A run that nobody disturbed."""
    return Home.make(tmp_path_factory.mktemp("folder"), total_steps=STEPS, data__caption_field="txt").straight()


@pytest.mark.faults(row=46, fault="metrics.jsonl half a last line, deleted while running, then not writable",
                    expected="a warning each, training goes on; the resume repairs; later lines as ever")
def test_training_goes_on_without_its_log_and_a_resume_repairs_it(
    home: Home, recovery: Callable[[float], None]
) -> None:
    name, log = "log", home.folder / "log" / "metrics.jsonl"
    process = home.run(name)
    tiny.wait_for_step(home.folder / name, 12, process)
    log.unlink()
    tiny.wait_for_step(home.folder / name, 15, process)
    log.unlink()
    log.mkdir()  # nobody, root included, can write this
    interrupted.wait_until(lambda: (home.checkpoints(name) / "20" / "digests.json").exists(), process, "save")
    log.rmdir()
    tiny.wait_for_step(home.folder / name, 22, process)  # the lines that had to wait come first
    first = home.lines(name)[0]["step"]
    process.send_signal(signal.SIGTERM)
    code, output = tiny.finish(process)
    assert code == 0 and "preempted" in output, output
    assert "metrics.jsonl has gone and is made anew; training goes on" in output
    assert "metrics.jsonl cannot be written" in output
    steps = [line["step"] for line in home.lines(name)]
    assert steps == list(range(first, steps[-1] + 1)) and 12 < first < 22

    with log.open("a") as file:
        file.write('{"step": 23, "kind": "tr')
    process, seconds = home.go_on(name)
    recovery(seconds)
    code, output = tiny.finish(process)
    assert code == 0, output
    assert [line["step"] for line in home.lines(name)] == list(range(first, STEPS + 1))
    assert log.read_text().count("\n") == len(tiny.lines(home.folder / name))
    assert home.final(name)["params_sha256"] == home.final("straight")["params_sha256"]


@pytest.mark.faults(row=16, fault="0, 2, then 3 worker processes; kill -9 while they work",
                    expected="the same batches and weights bit for bit; no worker outlives its run")
def test_any_number_of_workers_goes_on_bitwise(home: Home, recovery: Callable[[float], None]) -> None:
    name = "workers"
    process = home.run(name)
    tiny.wait_for_step(home.folder / name, 12, process)
    home.stop(process, name, signal.SIGINT)
    process, seconds = home.go_on(name, data__workers=2)
    recovery(seconds)
    interrupted.kill(process)
    process, seconds = home.go_on(name, data__workers=3)
    recovery(seconds)
    home.check_end(name, process)


@pytest.mark.faults(row=20, fault="a second run in the same directory", expected="exit 2, naming the first; it goes on")
def test_a_second_run_in_the_same_directory_is_refused(home: Home) -> None:
    first = home.run("twice")
    tiny.wait_for_step(home.folder / "twice", 5, first)
    first.send_signal(signal.SIGSTOP)  # it must not end before the second has come so far
    code, output = tiny.finish(home.run("twice"))
    first.send_signal(signal.SIGCONT)
    assert code == 2 and f"process {first.pid} on" in output and output.count("\n") == 1, output
    home.check_end("twice", first)


@pytest.fixture
def shards(home: Home) -> Iterator[Path]:
    """Four shards of six pairs, with a fifth beside them, and a run over them that was stopped."""
    folder = home.folder / "shards"
    (folder / "more").mkdir(parents=True)
    for number in range(5):
        own = [(f"{color}-{shape}", f"a {color} {shape}") for color in tiny.COLORS for shape in tiny.SHAPES][
            6 * number % 24:][:6]
        members = []
        for key, caption in own:
            members += [(f"{number}{key}.png", (home.folder / "pictures" / f"{key}.png").read_bytes()),
                        (f"{number}{key}.txt", caption.encode())]
        shards_on_disk.write(folder / ("more" if number == 4 else "") / f"{number}.tar", members)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.faults(row=18, fault="a shard added, removed, renamed, replaced between two starts",
                    expected="exit 2 naming the shard, nothing written; with the old shards bit for bit")
def test_another_data_set_at_the_same_path_is_refused_by_name(home: Home, shards: Path) -> None:
    name, data = "sharded", {"data__train": f"{shards}/*.tar"}
    assert tiny.finish(home.run("sharded-straight", **data))[0] == 0
    process = home.run(name, **data)
    tiny.wait_for_step(home.folder / name, 12, process)
    home.stop(process, name, signal.SIGTERM)
    before = {path: path.read_bytes() for path in (home.folder / name).glob("*.json*")}

    def refused(*words: str) -> None:
        code, output = tiny.finish(home.run(name, **data))
        assert code == 2 and output.count("\n") == 1, output
        assert all(word in output for word in words), output
        assert {path: path.read_bytes() for path in (home.folder / name).glob("*.json*")} == before

    shutil.copy(shards / "more" / "4.tar", shards / "4.tar")
    refused("4.tar is new")
    (shards / "4.tar").unlink()
    (shards / "1.tar").rename(shards / "9.tar")  # the same shards in another order
    refused("9.tar is new, with the content of 1.tar", "1.tar is gone")
    shutil.copy(shards / "more" / "4.tar", shards / "1.tar")
    (shards / "9.tar").rename(shards / "more" / "1.tar")
    refused("1.tar is of another content")
    (shards / "1.tar").unlink()
    refused("1.tar is gone")
    (shards / "more" / "1.tar").rename(shards / "1.tar")
    process, _ = home.go_on(name, **data)
    home.check_end(name, process, like="sharded-straight")


@pytest.mark.skipif(root and shutil.which("setpriv") is None, reason="root may write anywhere, and no setpriv here")
@pytest.mark.faults(row=10, fault="a run directory that the user may not write, new or begun",
                    expected="exit 2 before training, naming it")
def test_a_folder_that_may_not_be_written_is_named_before_training(home: Home) -> None:
    place = home.folder / "closed"
    (place / "begun").mkdir(parents=True)
    (place / "begun" / "metrics.jsonl").touch()
    (place / "begun").chmod(0o500)
    place.chmod(0o500)
    try:
        for workdir in (place / "new", place / "begun"):
            line = tiny.arguments(home.folder / "text", home.folder / "pictures", workdir, **home.settings)
            code, output = tiny.finish(tiny.start(line, home.folder / "cache", inside=AS_OTHERS if root else ()))
            assert code == 2 and f"--workdir={workdir}: expected a folder that can be written" in output, output
            assert output.count("\n") == 1, output
    finally:
        place.chmod(0o700)
