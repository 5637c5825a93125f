"""Real runs over shards at a server that fails: tried again with the same result, or exit 4 with the address."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import shards_on_disk
import tiny
from PIL import Image
from range_server import Server

pytestmark = pytest.mark.slow
SECRET = "s3cr3t0000"
FLAKY = ("503", "short", "cut")  # how requests for parts fail, by turns
TRIES, MOST_S = 3, 120  # requests for one part; from the first failure of a server to the end of the run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """24 drawings in four shards at http://127.0.0.1:PORT/{0..3}.tar, and a text tower beside them."""
    pytest.importorskip("aiohttp", reason="fsspec[http] is not installed")
    (tmp_path / "served").mkdir()
    tiny.text_folder(tmp_path / "text")
    for shard, (color, fill) in enumerate(tiny.COLORS.items()):
        image = shards_on_disk.encoded(Image.new("RGB", (20, 20), fill))
        shards_on_disk.write(tmp_path / "served" / f"{shard}.tar", [
            member for number, shape in enumerate(tiny.SHAPES)
            for member in ((f"{number}.jpg", image), (f"{number}.txt", f"a {color} {shape}".encode()))])
    running = Server(tmp_path / "served")
    yield running
    running.close()


def run(home: Path, name: str, server: Server, steps: int) -> tuple[int, str]:
    """Exit code and output of a run over the served shards, each run with an index of its own."""
    spec = server.url.replace("://", f"://user:{SECRET}@") + f"/{{0..3}}.tar?sig={SECRET}"
    words = tiny.arguments(home / "text", Path("unused"), home / name, total_steps=steps, eval__sets=(),
                           optim__warmup_steps=1, checkpoint__every=steps)  # fmt: skip
    words = [word for word in words if not word.startswith("--config.data.train=")]
    return tiny.finish(tiny.start([*words, f"--config.data.train={spec}"], home / f"{name}-cache"))


def flaky(asked: tuple[str, str, str], count: int) -> str:
    """The fault at the first two requests for any part of a shard."""
    return FLAKY[(len(asked[2]) + count) % len(FLAKY)] if asked[2] and count < TRIES else ""


@pytest.mark.faults(row=49, fault="a server that answers every part with 503, a short or a cut body twice",
                    expected="tried again; the weights are those of a run that nothing failed in")
def test_a_flaky_server_changes_nothing(server: Server, tmp_path: Path, recovery: Callable[[float], None]) -> None:
    finals = []
    for name, fault in (("well", lambda asked, count: ""), ("flaky", flaky)):
        server.asked.clear()
        server.fault, started = fault, time.monotonic()
        code, output = run(tmp_path, name, server, 3)
        assert code == 0 and SECRET not in output, output
        finals.append(json.loads((tmp_path / name / "final.json").read_text())["params_sha256"])
        assert not any(line["data/bad_samples"] for line in tiny.lines(tmp_path / name) if line["kind"] == "train")
    assert finals[0] == finals[1]
    assert sum(count >= TRIES for asked, count in server.asked.items() if asked[2]) > 4, "parts were asked for again"
    recovery(time.monotonic() - started)


@pytest.mark.faults(row=49, fault="a server that fails for ever, from the start or in the middle of a run",
                    expected="exit 4 with the address and without its secrets")
@pytest.mark.parametrize("begun", [False, True])
def test_a_server_that_stays_away_ends_the_run(
    begun: bool, server: Server, tmp_path: Path, recovery: Callable[[float], None]
) -> None:
    failed: list[float] = []

    def fault(asked: tuple[str, str, str], count: int) -> str:
        """503 for everything from the start, or once some pairs have been read."""
        if begun and server.asked.total() < 150:
            return ""
        failed.append(time.monotonic())
        return "503"

    server.fault = fault
    code, output = run(tmp_path, "run", server, 2_000)
    assert code == 4 and server.url + "/" in output and SECRET not in output, output
    assert (tmp_path / "run" / "metrics.jsonl").exists() == begun
    assert output.splitlines()[-1].startswith("lit-tune:"), output
    assert time.monotonic() - failed[0] < MOST_S
    recovery(time.monotonic() - failed[0])
