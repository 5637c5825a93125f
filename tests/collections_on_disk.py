"""A run with pictures beside it, in a folder and in a tar, and commands on them; for the tests of embed and search."""

import io
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from small_models import picture, small_config, write_run, write_text_tower

from lit_tune import cli


def write_collection(root: Path) -> SimpleNamespace:
    """A run, three pictures beside each other and in a tar, and an index of them."""
    write_run(root / "run", small_config(write_text_tower(root / "text")))
    pictures = root / "pictures"
    pictures.mkdir()
    for number in range(3):
        Image.fromarray(picture(number)).save(pictures / f"{number}.png")
    write_tar(root / "00000.tar", {f"{i:04}.png": (pictures / f"{i}.png").read_bytes() for i in range(3)})
    index = root / "index.npz"
    assert cli.main(["embed", f"--model={root / 'run'}", f"--images={pictures}/*.png", f"--out={index}"]) == 0
    return SimpleNamespace(root=root, run=root / "run", pictures=pictures, index=index, text=root / "text")


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """A tar of these members and a caption each."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            for member, content in ((name, data), (Path(name).with_suffix(".txt").name, b"a cat")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def refused(capsys: pytest.CaptureFixture[str], *argv: Any, code: int = 2) -> str:
    """The one line a command line is refused with."""
    capsys.readouterr()
    assert cli.main([str(word) for word in argv]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("lit-tune: "), lines
    return lines[0]
