"""`lit-tune embed`: pictures or texts into a file of ids and unit vectors."""

import itertools
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lit_tune import cli

if __name__ == "__main__":
    cli.answer_help("embed")  # before anything below imports jax

from lit_tune import config as config_lib, console, tower  # noqa: E402
from lit_tune.data.sample import BadSample  # noqa: E402
from lit_tune.data.sources import expand  # noqa: E402
from lit_tune.errors import ConfigError, DataError, explain  # noqa: E402
from lit_tune.flags import EmbedFlags  # noqa: E402
from lit_tune.model import Model  # noqa: E402

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
CHUNK = 256  # decoded pictures held at a time
Named = tuple[str, Callable[[], bytes]]  # id, and what reads the encoded picture


def main(argv: Sequence[str]) -> int:
    """Runs `lit-tune embed`; returns the exit code, 4 where pictures had to be left out."""
    flags: EmbedFlags = config_lib.parse(argv, "embed")
    if (flags.images is None) == (flags.texts is None):
        raise ConfigError(explain("embed", expected="--images=GLOB_OR_TAR or --texts=FILE",
                                  found="both" if flags.images else "neither", do="name one of them"))
    out = check_out(Path(flags.out).expanduser())
    pictures = find_pictures(flags.images) if flags.images is not None else iter(())
    texts = read_texts(Path(flags.texts).expanduser()) if flags.texts is not None else []
    console.quiet_dependencies()
    model = tower.load(flags.model)
    if texts:
        ids, vectors, left_out = texts, model.embed_texts(texts), 0
    else:
        ids, vectors, left_out = embed_pictures(model, pictures)
    if not ids:
        raise DataError(explain("--images", expected="pictures that decode", found="none", do="see the lines above"))
    write(out, ids, vectors)
    print(f"{len(ids):,} vectors of {vectors.shape[1]} numbers in {out}")
    if left_out:
        print(f"lit-tune: {left_out:,} pictures were left out, named above", file=sys.stderr)
    return DataError.exit_code if left_out else 0


def check_out(out: Path) -> Path:
    """The file to write, refused before anything is computed if it cannot be written.

    Raises:
        ConfigError: another suffix, no such folder, or pyarrow is needed and not installed.
    """
    if out.suffix not in (".npz", ".parquet"):
        raise ConfigError(explain("--out", expected="X.npz or X.parquet", found=str(out), do="change the suffix"))
    if not out.parent.is_dir():
        raise ConfigError(explain("--out", expected="an existing folder", found=str(out.parent), do="make it first"))
    if out.suffix == ".parquet":
        _pyarrow()
    return out


def find_pictures(spec: str) -> Iterator[Named]:
    """Every picture that `--images` names, in order; ids are paths, with the member's name behind a tar's.

    Args:
        spec: files, folders or tars, with {a,b}, {00..99}, *, ? and [].

    Raises:
        ConfigError: nothing there.
    """
    try:
        paths = [Path(path) for path in expand(spec)]
    except DataError as error:
        raise ConfigError(str(error).replace(spec, f"--images {spec}", 1)) from error
    files = [file for path in paths for file in _files_of(path)]
    if not files:
        raise ConfigError(explain(f"--images {spec}", expected=f"*.tar or *{', *'.join(SUFFIXES)}", found="none",
                                  do="check the path"))
    return itertools.chain.from_iterable(_members(file) if file.suffix == ".tar" else _single(file) for file in files)


def _files_of(path: Path) -> list[Path]:
    """The path itself, or the tars and pictures below a folder, sorted."""
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.suffix.lower() in (*SUFFIXES, ".tar") and p.is_file())
    if not path.is_file():
        raise ConfigError(explain("--images", expected="a file or folder", found=f"no {path}", do="check the path"))
    return [path]


def _single(file: Path) -> Iterator[Named]:
    """One picture on disk."""
    yield str(file), file.read_bytes


def _members(file: Path) -> Iterator[Named]:
    """The pictures in a tar, read in its own order.

    Raises:
        DataError: it is no tar, or damaged.
    """
    try:
        with tarfile.open(file, "r|*") as tar:  # a stream: each byte is read once
            for member in tar:
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                    data = tar.extractfile(member).read()
                    yield f"{file}/{member.name}", lambda data=data: data
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(explain(str(file), expected="a whole tar", found=error, do="fetch it again")) from error


def embed_pictures(
    model: Model, pictures: Iterator[Named]
) -> tuple[list[str], Float[np.ndarray, "n d"], int]:
    """(ids, unit vectors, number left out). A picture that cannot be used is named on stderr and left out."""
    ids, parts, left_out = [], [np.empty((0, model.dim), np.float32)], 0
    start = shown = time.monotonic()
    with ThreadPoolExecutor() as pool:
        while chunk := list(itertools.islice(pictures, CHUNK)):
            good = []
            for (name, _), pixels in zip(chunk, pool.map(lambda one: _pixels(model, one), chunk), strict=True):
                if isinstance(pixels, str):
                    print(f"lit-tune: {name}: {pixels}, left out", file=sys.stderr, flush=True)
                    left_out += 1
                    continue
                ids.append(name)
                good.append(pixels)
            if good:
                parts.append(model.vision.embed_pixels(np.stack(good)))
            if time.monotonic() - shown > 5:
                shown = time.monotonic()
                rate = len(ids) / (shown - start)
                print(f"embedded {len(ids):,} pictures, {rate:.0f} a second", file=sys.stderr, flush=True)
    return ids, np.concatenate(parts), left_out


def _pixels(model: Model, picture: Named) -> np.ndarray | str:
    """The picture as the tower sees it, or why it cannot be used."""
    try:
        return model.vision.pixels(picture[1]())
    except BadSample as bad:
        return bad.kind
    except OSError as error:
        return f"unreadable ({error.strerror})"


def read_texts(path: Path) -> list[str]:
    """The lines of a UTF-8 file, stripped, empty ones left out; each is its own id.

    Raises:
        ConfigError: no such file, not UTF-8, or no text in it.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "other bytes"
        raise ConfigError(explain(f"--texts {path}", expected="a UTF-8 file with one text on each line", found=found,
                                  do="check the file")) from error
    texts = [line for line in lines if line]
    if not texts:
        raise ConfigError(explain(f"--texts {path}", expected="one text on each line", found="an empty file",
                                  do="write some"))
    return texts


def write(out: Path, ids: list[str], vectors: Float[np.ndarray, "n d"]) -> None:
    """Write ids and vectors by rename: .npz with `ids` and `embeddings`, .parquet with columns of these names."""
    temporary = out.with_name(out.name + ".partial")
    try:
        if out.suffix == ".parquet":
            pyarrow = _pyarrow()
            rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1])
            pyarrow.parquet.write_table(pyarrow.table({"ids": ids, "embeddings": rows}), temporary)
        else:
            with temporary.open("wb") as file:
                np.savez(file, ids=np.asarray(ids), embeddings=vectors)
        temporary.replace(out)
    except OSError as error:
        do = "free space or name another file"
        raise ConfigError(explain(f"--out {out}", expected="room to write", found=error.strerror, do=do)) from error


def _pyarrow() -> object:
    """pyarrow with its parquet part.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(explain("--out X.parquet", expected="the package pyarrow", found="none",
                                  do="pip install pyarrow, or write X.npz")) from error
    return pyarrow


if __name__ == "__main__":
    sys.exit(cli.run(main))
