"""`lit-tune search`: the nearest of an embedded collection to words or to a picture."""

import base64
import html
import io
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lit_tune import cli

if __name__ == "__main__":
    cli.answer_help("search")  # before anything below imports jax

from lit_tune import config as config_lib, console, tower, vector_files  # noqa: E402
from lit_tune.data.decoding import load_image  # noqa: E402
from lit_tune.data.sample import BadSample  # noqa: E402
from lit_tune.errors import ConfigError, explain  # noqa: E402
from lit_tune.flags import SearchFlags  # noqa: E402
from lit_tune.inputs import SUFFIXES  # noqa: E402
from lit_tune.vector_files import Index  # noqa: E402

THUMBNAIL = 192  # pixels, the longer side, on the page


def main(argv: Sequence[str]) -> int:
    """Runs `lit-tune search`: prints rank, cosine and id of the nearest; returns the exit code."""
    flags: SearchFlags = config_lib.parse(argv, "search")
    query = " ".join(flags.args).strip()
    if not query or flags.top < 1:
        raise ConfigError(explain("search", expected='"words" or a picture, and --top of at least 1',
                                  found=f"{query!r} and {flags.top}", do="write what to look for"))
    index = Index(Path(flags.index).expanduser())
    console.quiet_dependencies()
    model = tower.load(flags.model)
    if index.dim != model.dim:
        raise ConfigError(explain(f"--index {flags.index}", expected=f"vectors of {model.dim} numbers",
                                  found=index.dim, do="embed the collection with this model"))
    is_picture = len(flags.args) == 1 and _is_picture(query)
    wanted = model.embed_images([Path(query).expanduser()]) if is_picture else model.embed_texts([query])
    rows = nearest(wanted[0], index, flags.top)
    ids = vector_files.names(index, [row for row, _ in rows])
    found = [(name, score) for name, (_, score) in zip(ids, rows, strict=True)]
    for rank, (name, score) in enumerate(found, 1):
        print(f"{rank:>3}  {score:+.4f}  {name}")
    if flags.html:
        write_page(Path(flags.html).expanduser(), query, found)
    return 0


def _is_picture(query: str) -> bool:
    """Whether the query is the path of a picture; words may be longer than any path.

    Raises:
        ConfigError: it looks like one and there is none: its letters would be searched for as words.
    """
    path = Path(query).expanduser()
    try:
        found = path.is_file()
    except OSError:
        found = False
    if not found and path.suffix.lower() in SUFFIXES:
        raise ConfigError(explain("search", expected="words, or the path of a picture", found=f"no file {query}",
                                  do="check the path"))
    return found


def nearest(wanted: Float[np.ndarray, " d"], index: Index, top: int) -> list[tuple[int, float]]:
    """(row, cosine) of the `top` nearest rows, best first; equal ones in their order in the file."""
    rows, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    for start, vectors in index.blocks():
        scores = np.concatenate([scores, vectors @ wanted])
        rows = np.concatenate([rows, np.arange(start, start + len(vectors))])
        best = np.argsort(-scores, kind="stable")[:top]  # rows of earlier blocks stand first
        rows, scores = rows[best], scores[best]
    return list(zip(rows.tolist(), scores.tolist(), strict=True))


def write_page(path: Path, query: str, found: list[tuple[str, float]]) -> None:
    """Write the result as one self-contained page, with the pictures that can still be read from their ids."""
    cells = []
    for name, score in found:
        data = _thumbnail(name)
        picture = f'<img src="data:image/jpeg;base64,{data}" alt="">' if data else ""
        cells.append(f"<figure>{picture}<figcaption>{score:+.3f}<br>{html.escape(name)}</figcaption></figure>")
    style = "body{font:14px sans-serif}figure{display:inline-block;width:200px;margin:8px;vertical-align:top}"
    style += "figcaption{overflow-wrap:anywhere}"
    title = html.escape(query)
    page = f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{style}</style><h1>{title}</h1>'
    try:
        path.write_text(page + "\n".join(cells) + "\n", encoding="utf-8")
    except OSError as error:
        do = "name another file"
        raise ConfigError(explain(f"--html {path}", expected="room to write", found=error.strerror, do=do)) from error
    print(f"page: {path}")


def _thumbnail(name: str) -> str:
    """A small JPEG of the picture with this id, base64; "" where it cannot be read any more."""
    data = _picture_bytes(name)
    if data is None:
        return ""
    try:
        small = load_image(data, "clean")  # within the limits of any other picture, transparency on white
    except BadSample:
        return ""
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def _picture_bytes(name: str) -> bytes | None:
    """The encoded picture that an id of `embed` names: a file, or TAR/MEMBER; None where there is none."""
    archive, in_tar, member = name.partition(".tar/")
    try:
        if not in_tar:
            return Path(name).read_bytes() if Path(name).is_file() else None
        with tarfile.open(f"{archive}.tar") as tar:
            return tar.extractfile(member).read()
    except (OSError, KeyError, AttributeError, tarfile.TarError):
        return None


if __name__ == "__main__":
    sys.exit(cli.run(main))
