"""`lit-tune embed`: pictures or texts into a file of ids and unit vectors; killed, the same command line goes on."""

import hashlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lit_tune import cli

if __name__ == "__main__":
    cli.answer_help("embed")  # before anything below imports jax

import jax  # noqa: E402

from lit_tune import __version__, config as config_lib, console, tower, tree, vector_files  # noqa: E402
from lit_tune.data.sample import BadSample  # noqa: E402
from lit_tune.errors import ConfigError, DataError, explain  # noqa: E402
from lit_tune.flags import EmbedFlags  # noqa: E402
from lit_tune.inputs import Input, Pictures, Texts  # noqa: E402
from lit_tune.model import Model  # noqa: E402
from lit_tune.unfinished import Unfinished, cannot_write  # noqa: E402

CHUNKS = {"pictures": 256, "texts": 1024}  # inputs in memory at a time, and lost at most when the process is killed
SAY_EVERY = 5.0  # seconds between lines of progress
Embedded = tuple[list[str], Float[np.ndarray, "n d"]]  # ids and vectors of the inputs that could be used


def main(argv: Sequence[str]) -> int:
    """Runs `lit-tune embed`; returns the exit code, 4 where pictures had to be left out."""
    flags: EmbedFlags = config_lib.parse(argv, "embed")
    out = check_flags(flags)
    inputs = Pictures(flags.images) if flags.images is not None else Texts(Path(flags.texts).expanduser())
    console.quiet_dependencies()
    model = tower.load(flags.model)
    work = Unfinished(out, manifest(model, inputs, flags.prompt), flags.restart)
    try:
        run(inputs, embedder(model, inputs, flags.prompt), work)
        finish(out, work)
    except OSError as error:
        raise cannot_write(out, error) from error
    except KeyboardInterrupt:
        print(f"lit-tune: {work.inputs:,} {inputs.kind} are done: the same command line goes on", file=sys.stderr)
        raise
    finally:
        work.close()
    print(f"{work.rows:,} vectors of {model.dim} numbers in {out}")
    if work.left_out:
        print(f"lit-tune: {work.left_out:,} pictures were left out, named above", file=sys.stderr)
    return DataError.exit_code if work.left_out else 0


def check_flags(flags: EmbedFlags) -> Path:
    """The file to write; whatever can be refused is refused before anything is computed.

    Raises:
        ConfigError: flags that do not go together, another suffix, no such folder, or pyarrow is needed and not there.
    """
    if (flags.images is None) == (flags.texts is None):
        raise ConfigError(explain("embed", expected="--images=GLOB_OR_TAR or --texts=FILE",
                                  found="both" if flags.images else "neither", do="name one of them"))
    if flags.prompt is not None and flags.texts is None:
        raise ConfigError(explain("--prompt", expected="--texts=FILE beside it", found="--images", do="leave it out"))
    out = Path(flags.out).expanduser()
    if out.suffix not in vector_files.SUFFIXES:
        raise ConfigError(explain("--out", expected="X.npz or X.parquet", found=str(out), do="change the suffix"))
    if not out.parent.is_dir():
        raise ConfigError(explain("--out", expected="an existing folder", found=str(out.parent), do="make it first"))
    if out.suffix == ".parquet":
        vector_files.require_pyarrow()
    return out


def manifest(model: Model, inputs: Pictures | Texts, prompt: str | None) -> dict[str, object]:
    """What decides the vectors: where any of it differs, what is half done cannot be gone on with."""
    if isinstance(inputs, Pictures):
        page, facts = model.vision.description, [tree.digest(model.vision.params), model.vision.preprocess]
    else:
        page, facts = model.text.description, [model.text.fingerprint]
    facts += [page["spec"], page["weights"] if "weights" in page else None]  # an ONNX file is all in its digest
    return {
        "kind": inputs.kind,
        "inputs_sha256": inputs.digest,
        "model_sha256": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest(),
        "prompt": prompt,
        "dim": model.dim,
        "chunk": CHUNKS[inputs.kind],
        # other versions and devices give other last digits
        "lit_tune": __version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def embedder(model: Model, inputs: Pictures | Texts, prompt: str | None) -> Callable[[list[Input]], Embedded]:
    """A function from a chunk of inputs to ids and vectors."""
    if isinstance(inputs, Pictures):
        return lambda chunk: embed_pictures(model, chunk)
    return lambda chunk: (names := [one.name for one in chunk], model.embed_texts(names, prompt))


def run(inputs: Pictures | Texts, embed: Callable[[list[Input]], Embedded], work: Unfinished) -> None:
    """Embed what is not yet done, chunk by chunk."""
    if work.inputs:
        print(f"going on after {work.inputs:,} {inputs.kind}", file=sys.stderr, flush=True)
    clock, stream = Progress(inputs, work), inputs.stream(work.inputs)
    while chunk := list(itertools.islice(stream, CHUNKS[inputs.kind])):
        ids, vectors = embed(chunk)
        work.add(ids, vectors, len(chunk), chunk[-1].place)
        clock.show()


class Progress:
    """Lines of progress on stderr: how many, how fast, how long to go."""

    def __init__(self, inputs: Pictures | Texts, work: Unfinished) -> None:
        self._inputs, self._work = inputs, work
        self._start = self._shown = time.monotonic()
        self._inputs_before, self._place_before = work.inputs, work.place

    def show(self) -> None:
        """Say it, if some seconds have passed since the last time."""
        now = time.monotonic()
        if now - self._shown >= SAY_EVERY:
            self._shown = now
            print(self.line(now - self._start), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """The line, `seconds` after the start of this process's work."""
        inputs, work = self._inputs, self._work
        rate = (work.inputs - self._inputs_before) / seconds
        done = work.place - self._place_before
        left = f", {seconds * (inputs.size - work.place) / done:,.0f} s to go" if done else ""
        of = f"of {inputs.count:,} {inputs.kind}" if inputs.count else f"{inputs.kind}, {work.place / inputs.size:.0%}"
        return f"embedded {work.inputs:,} {of}, {rate:,.1f} a second{left}"


def embed_pictures(model: Model, chunk: list[Input]) -> Embedded:
    """Ids and vectors of the pictures that can be used; each other one is named on stderr."""
    ids, good = [], []
    with ThreadPoolExecutor() as pool:
        for one, pixels in zip(chunk, pool.map(lambda one: _pixels(model, one), chunk), strict=True):
            if isinstance(pixels, str):
                print(f"lit-tune: {one.name}: {pixels}, left out", file=sys.stderr, flush=True)
            else:
                ids.append(one.name)
                good.append(pixels)
    return ids, model.vision.embed_pixels(np.stack(good)) if good else np.empty((0, model.dim), np.float32)


def _pixels(model: Model, picture: Input) -> np.ndarray | str:
    """The picture as the tower sees it, or why it cannot be used."""
    try:
        return model.vision.pixels(picture.read())
    except BadSample as bad:
        return bad.kind
    except OSError as error:
        return f"unreadable ({error.strerror})"


def finish(out: Path, work: Unfinished) -> None:
    """Write the file by rename and remove what was half done.

    Raises:
        DataError: not one picture could be used.
    """
    if not work.rows:
        work.remove()
        raise DataError(explain("--images", expected="pictures that decode", found="none", do="see the lines above"))
    if out.suffix == ".npz" and (size := vector_files.npz_ids_bytes(work.ids())) > vector_files.LARGE_IDS:
        print(f"lit-tune: note: the ids will take {size / 2**30:.0f} GiB of memory when the .npz is read, each as long "
              "as the longest; a .parquet holds them as they are", file=sys.stderr)  # fmt: skip
    temporary = work.folder / "result"
    vector_files.write(temporary, out.suffix, work.ids, work.vectors())
    temporary.replace(out)
    work.remove()


if __name__ == "__main__":
    sys.exit(cli.run(main))
