"""Our weights as folders that other people's tools load; one module a format, none of which needs torch.

`export` writes a folder and proves it: every weight file is read back, by us and by those packages that happen to be
installed, and compared with the towers' own vectors. A folder that is not proved never stands under its name.
"""

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lit_tune.description import describe_text, save_vision
from lit_tune.errors import ConfigError, explain
from lit_tune.exports import card, check, proof
from lit_tune.exports.parts import Source, Written
from lit_tune.files import remove_tree

FORMATS = {  # format -> the module whose `write(source, out) -> list[Written]` fills a folder
    "hf": "lit_tune.exports.hf",
    "timm": "lit_tune.exports.timm",
    "nomic": "lit_tune.exports.nomic",
    "open_clip": "lit_tune.exports.open_clip",
    "sentence-transformers": "lit_tune.exports.sentence_transformers",
    "onnx": "lit_tune.exports.onnx_folder",
    "lit_tune": "lit_tune.exports.native",
}
BOTH = ("open_clip", "sentence-transformers")  # hold no image tower without a text tower


def export(source: Source, format: str, out: Path) -> dict[str, Any]:
    """The content of the new folder's proof.json.

    Args:
        source: the towers and what is known about them.
        format: a key of FORMATS.
        out: the folder; absent or empty.

    Raises:
        ConfigError: no such format, one that cannot hold this tower or needs a text tower too, or a folder that is in
            use or cannot be written.
        LitTuneError: a reader of the written files gives other vectors.
    """
    writer = importlib.import_module(FORMATS[known(format)])
    if source.text is None and known(format) in BOTH:
        raise ConfigError(explain(f"--format={known(format)}", expected="a text tower beside the image tower",
                                  found="an image tower alone",
                                  do=f"choose {' | '.join(name for name in FORMATS if name not in BOTH)}"))
    out = out.expanduser().resolve()
    refuse_used(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")  # a sibling: on the same disk, for the rename
    try:
        partial.mkdir(parents=True)
        page = _fill(source, format, writer.write(source, partial), partial)
        partial.rename(out)
    except (OSError, SafetensorError) as error:
        found = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(explain(f"--out {out}", expected="a folder that can be written", found=found,
                                  do="free space, or name another folder")) from error
    finally:
        if partial.exists():
            remove_tree(partial)
    return page


def known(format: str) -> str:
    """The key of FORMATS that is meant; `-` and `_` are the same.

    Raises:
        ConfigError: none is.
    """
    found = [name for name in FORMATS if name.replace("-", "_") == format.replace("-", "_")]
    if not found:
        raise ConfigError(explain("--format", expected=" | ".join(FORMATS), found=repr(format), do="choose one"))
    return found[0]


def refuse_used(out: Path) -> None:
    """Nothing, if a folder may be written there.

    Raises:
        ConfigError: something is there already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(explain("--out", expected="a new or empty folder", found=str(out), do="name another folder"))


def _fill(source: Source, format: str, written: Sequence[Written], folder: Path) -> dict[str, Any]:
    """Write descriptions, proof and card beside the weights; what proof.json holds."""
    describe(source, written, folder)
    wanted = check.expected(source)
    checks = [check.check(folder, one, source, wanted) for one in written]
    page = proof.page(source, known(format), checks, wanted.text_sha256)
    (folder / card.FILE).write_text(card.text(source, page, folder), encoding="utf-8")
    page["files"] = proof.files_of(folder)
    (folder / proof.PROOF).write_text(json.dumps(page, indent=2) + "\n")
    return page


def describe(source: Source, written: Sequence[Written], folder: Path) -> None:
    """Write a description of each tower for `lit_tune.load`: of several files the first that we read."""
    ours = {one.kind: one for one in reversed(sorted(written, key=lambda one: one.layout in check.NOT_OURS))}
    vision = ours["vision"]
    save_vision(folder, source.vision.description, folder / vision.file, vision.layout)
    if source.text is not None:
        text = ours["text"]
        describe_text(folder, source.text.description, folder / text.file, folder / text.tokenizer, text.layout)
