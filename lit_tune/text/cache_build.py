"""Making a text cache with a frozen text tower, in parts, by any number of machines; killed, it goes on. No jax.

The samples are cut into parts of equal length. Each part is encoded by itself, inside FOLDER.partial, and renamed when
it is whole; whoever finishes the last one joins them and renames the folder. So at any moment what is finished stays,
memory is that of one part, and machines that share storage need no lock between them: with share I of N each takes
every N-th part. A caption that repeats is encoded and stored once a part. A small cache is one part.
"""

import contextlib
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lit_tune import fetch
from lit_tune.text.cache import ARRAYS, VECTORS, TextCache
from lit_tune.text.cache_identity import CaptionSource, Encoder, default_folder, identity, refuse_other, usable
from lit_tune.text.cache_part import Progress, encode_part
from lit_tune.text.cache_writing import file_facts, write_info

PART = 1 << 20  # samples
PLAN, PART_FILE = "plan.json", "part.json"  # what is being made; size and digest of a part's vectors


def open_or_build(
    source: CaptionSource, encoder: Encoder, folder: Path | str | None = None, dtype: str = "float32", part: int = PART
) -> TextCache:
    """The cache of a source's captions, encoded now unless the folder has it already.

    Several processes of one machine may call this at once: one builds, the others wait and read.

    Args:
        source: whose captions.
        encoder: the frozen text tower.
        folder: where; None takes a folder of our cache named after tower and data.
        dtype: how vectors are stored, one of `cache_storage.DTYPES`.
        part: samples of a part.

    Raises:
        ConfigError: the folder holds a cache made with another tower or other data, or something else altogether.
    """
    made = build_share(source, encoder, folder, dtype, part)
    assert made is not None  # all parts are this process's own
    return made


def build_share(
    source: CaptionSource, encoder: Encoder, folder: Path | str | None, dtype: str, part: int = PART,
    share: tuple[int, int] = (1, 1),
) -> TextCache | None:  # fmt: skip
    """Encode one machine's share of the parts, and join all of them if they are there then.

    Args:
        source, encoder, folder, dtype, part: as for `open_or_build`; the same for all machines.
        share: (i, n): every n-th part from the i-th on, counted from 1.

    Returns:
        The cache, None while parts of other machines are missing.

    Raises:
        ConfigError: as `open_or_build`, and where another cache is half made at this place.
    """
    want = identity(source, encoder, dtype)
    target = Path(folder).expanduser() if folder else default_folder(want)
    if usable(target, want):
        return TextCache.open(target)
    whole = share == (1, 1) and len(source) <= part
    with fetch.lock(target if whole else target.with_name("{}.share-{}-of-{}".format(target.name, *share))):
        if not usable(target, want):  # nobody made it while this process waited for the lock
            try:
                done = _make(source, encoder, target, want, part, share, whole)
            except OSError as error:
                if not usable(target, want):  # else another machine was faster, and renamed the folder we worked in
                    raise fetch.cache_error(target.parent, error) from error
                done = True
            if not done:
                return None
    return TextCache.open(target)


def _make(
    source: CaptionSource, encoder: Encoder, target: Path, want: dict[str, Any], part: int, share: tuple[int, int],
    whole: bool,
) -> bool:  # fmt: skip
    """Encode what is this share's; whether the cache is there now."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if whole:
        _make_whole(source, encoder, target, want)
        return True
    starts = range(0, len(source), min(part, -(-len(source) // share[1])))
    work = target.with_name(target.name + ".partial")
    _plan(work, want, {"samples": len(source), "part": starts.step})
    _encode_parts(source, encoder, want["dtype"], work, starts, share)
    parts = [work / "parts" / f"{number:05d}" for number in range(len(starts))]
    if not all(part.is_dir() for part in parts):
        return False
    _join(work, parts, want, source.spec)
    if target.exists():  # a damaged one, or an empty folder
        shutil.rmtree(target)
    work.rename(target)
    _tidy(target)
    return True


def _make_whole(source: CaptionSource, encoder: Encoder, target: Path, want: dict[str, Any]) -> None:
    """A cache of one part: encoded into a neighbour of `target`, then renamed."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as scratch:
        work = Path(scratch) / "cache"
        work.mkdir()
        encode_part(source, range(len(source)), encoder, want["dtype"], work, Progress())
        write_info(work, want, source.spec, [VECTORS])
        fetch.place(work, target)


def _plan(work: Path, want: dict[str, Any], cut: dict[str, int]) -> None:
    """Say in the folder what is being made there, or check that it is the same.

    Raises:
        ConfigError: parts of another cache lie there.
    """
    (work / "parts").mkdir(parents=True, exist_ok=True)
    page = {**want, "cut": cut}
    if not (work / PLAN).is_file():
        temporary = work / f".{PLAN}-{_me()}"
        temporary.write_text(json.dumps(page, indent=2) + "\n")
        temporary.replace(work / PLAN)  # of machines that come at once the last one's stays, and all read it
    refuse_other(work, json.loads((work / PLAN).read_text()), page)


def _encode_parts(
    source: CaptionSource, encoder: Encoder, dtype: str, work: Path, starts: range, share: tuple[int, int]
) -> None:  # fmt: skip
    """Make the missing ones of a share's parts."""
    prefix = f".share-{share[0]}-of-{share[1]}-{socket.gethostname()}-"
    for killed in work.glob(f"{prefix}*"):  # this process has the lock of the share on this machine
        shutil.rmtree(killed)
    for number in range(share[0] - 1, len(starts), share[1]):
        place = work / "parts" / f"{number:05d}"
        if place.is_dir():
            continue
        samples = range(starts[number], min(starts[number] + starts.step, len(source)))
        with tempfile.TemporaryDirectory(dir=work, prefix=prefix) as scratch:
            made = Path(scratch) / "part"
            made.mkdir()
            encode_part(source, samples, encoder, dtype, made, Progress(f"part {number + 1} of {len(starts)}"))
            (made / PART_FILE).write_text(json.dumps(file_facts(made / VECTORS)))
            if not place.is_dir():  # else another machine was given the same share: its part is as good
                made.rename(place)


def _join(work: Path, parts: list[Path], want: dict[str, Any], made_from: str) -> None:
    """Make the arrays of all samples from those of the parts, and name the vectors where they lie.

    Several machines may do it at once: all write the same bytes.
    """
    vectors = {str((part / VECTORS).relative_to(work)): json.loads((part / PART_FILE).read_text()) for part in parts}
    row, caption = 0, 0
    with contextlib.ExitStack() as stack:
        joined = {name: stack.enter_context(_Joined(work / f"{name}.npy", parts, name)) for name in ARRAYS}
        joined["offsets"].add(np.zeros(1, "<i8"))
        for part in parts:
            found = {name: np.load(part / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
            joined["rows"].add(found["rows"] + row)
            joined["offsets"].add(found["offsets"][1:] + caption)
            joined["caption_ids"].add(found["caption_ids"])
            row += np.load(part / VECTORS, mmap_mode="r").shape[0]
            caption += len(found["rows"])
    write_info(work, want, made_from, list(vectors), known=vectors)


class _Joined(contextlib.AbstractContextManager):
    """An array of a cache that the same arrays of its parts are written to, one after the other; renamed when whole."""

    def __init__(self, path: Path, parts: list[Path], name: str) -> None:
        shapes = [np.load(part / f"{name}.npy", mmap_mode="r").shape for part in parts]
        # the offsets of a part begin with 0: those of all parts have one such number
        length = sum(shape[0] for shape in shapes) - (len(parts) - 1) * (name == "offsets")
        self._path, self._temporary, self._done = path, path.with_name(f".{name}-{_me()}"), 0
        self._array = np.lib.format.open_memmap(self._temporary, mode="w+", dtype=ARRAYS[name][0],
                                                shape=(length, *shapes[0][1:]))  # fmt: skip

    def add(self, values: np.ndarray) -> None:
        """Put further values behind those that are there."""
        self._array[self._done : self._done + len(values)] = values
        self._done += len(values)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._array.flush()
            self._temporary.replace(self._path)


def _tidy(folder: Path) -> None:
    """Remove what only the making of a cache needed; killed here, it stays and harms nothing."""
    for path in [folder / PLAN, *folder.glob(".*"), *folder.glob("parts/*/*")]:
        if path.name == VECTORS:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _me() -> str:
    """A name of this process among those of all machines."""
    return f"{socket.gethostname()}-{os.getpid()}"
