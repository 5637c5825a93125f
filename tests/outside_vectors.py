"""Text vectors of a model that is nowhere: a file of them, the cache made from it, and runs that have only these."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tiny
from small_models import small_config, write_run

from lit_tune import cli

DIM = 24  # of no tower here


def picture_folder(folder: Path) -> Path:
    """24 drawings whose table has uids."""
    tiny.picture_folder(folder)
    lines = (folder / "captions.csv").read_text().splitlines()
    uids = [f",{i:x}" for i in range(1, 25)]
    (folder / "captions.csv").write_text("\n".join(a + b for a, b in zip(lines, [",uid", *uids], strict=True)) + "\n")
    return folder


def vectors(n: int = 24, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """Rows that are no unit vectors."""
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32) * 3


def parquet(path: Path, name: str, keys: list[str], rows: np.ndarray) -> Path:
    """A table of two columns, rows in small groups."""
    table = pa.table({name: keys, "vector": pa.array(rows.tolist(), pa.list_(pa.float32()))})
    pq.write_table(table, path, row_group_size=5)
    return path


def command(pictures: Path, file: Path, out: Path, *more: str) -> list[str]:
    """`cache-text --from` of these pictures."""
    return ["cache-text", "--config=quickstart", f"--config.data.train={pictures}", "--config.data.caption_field=txt",
            "--config.eval.sets=()", f"--from={file}", f"--out={out}", *more]  # fmt: skip


def names_of(pictures: Path, match: str) -> list[str]:
    """What the samples are called, in their order, written by the test's own reading of the table."""
    rows = [line.split(",") for line in (pictures / "captions.csv").read_text().splitlines()[1:]]
    return [{"uid": uid.zfill(32).upper(), "key": image, "caption": caption}[match] for image, caption, uid in rows]


def make_cache(pictures: Path, out: Path, seed: int = 0, dim: int = DIM) -> Path:
    """The cache of vectors that a seed gives, by caption; their file lies beside it."""
    file = parquet(out.with_suffix(".parquet"), "caption", names_of(pictures, "caption"), vectors(24, seed, dim))
    assert cli.main(command(pictures, file, out)) == 0
    return out


def train(pictures: Path, cache: Path, workdir: Path, **changes: Any) -> tuple[int, str]:
    """(exit code, output) of four steps with vectors only; no text weights exist anywhere."""
    settings = {"text__source": "vectors", "text__vectors": cache, "text__model": "nobody/has-this", "eval__sets": (),
                "vision__embed_dim": DIM, "total_steps": 4, "optim__warmup_steps": 1, **changes}
    words = tiny.arguments(Path("unused"), pictures, workdir, **settings)
    home = workdir.parent / "home"
    return tiny.finish(tiny.start(words, home / "cache", HF_HUB_OFFLINE="1", HOME=str(home), HF_HOME=str(home / "hf"),
                                  PIP_NO_INDEX="1"))  # fmt: skip


def stored_run(folder: Path, cache: Path, **changes: Any) -> Path:
    """A run directory as such a training leaves it, its weights random."""
    settings = {"text__source": "vectors", "text__vectors": cache, "eval__sets": "()", "vision__embed_dim": DIM}
    write_run(folder, small_config(Path("nobody/has-this"), **(settings | changes)), steps=(2, 3))
    return folder
