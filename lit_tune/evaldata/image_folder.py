"""Classification data in a tree of folders, one a class: CLASS/picture, in torchvision's order.

Source: DatasetFolder and IMG_EXTENSIONS in torchvision/datasets/folder.py (order, suffixes, numbering of classes).
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lit_tune.evaldata.dataset import EvalData
from lit_tune.evaldata.names import named_classes, named_templates
from lit_tune.evaldata.pieces import Pieces, damaged, sha256, wrong

READ = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
NOT_READ = (".ppm", ".pgm", ".tif", ".tiff")  # torchvision takes these too, our decoder does not
WORDNET_ID = re.compile(r"n\d{8}")
# over the 1,000 sorted ids of ILSVRC 2012, a line feed between them, as timm and clip_benchmark list them
IMAGENET_IDS = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
IMAGENET = "imagenet1k"


def is_image_folder(folder: Path) -> bool:
    """Whether a folder holds a folder that directly holds a picture."""
    if not folder.is_dir():
        return False
    return any(child.is_dir() and _holds_picture(child) for child in sorted(folder.iterdir()))


def is_numbered(folder: Path) -> bool:
    """Whether the class folders are called 0 to c - 1, so that only a list of names can tell what they hold."""
    found = {child.name for child in folder.iterdir() if child.is_dir()}
    return found == {str(number) for number in range(len(found))}


def read(
    folder: Path, classnames: tuple[str, ...] | None = None, templates: tuple[str, ...] | None = None
) -> EvalData:
    """The pictures of a tree, its folders being the classes; every picture is read once, to hash it.

    Args:
        folder: holds a folder for each class.
        classnames: the names of the classes, in the order of their sorted folder names; where those are the numbers
            0 to c - 1, in the order of the numbers.
        templates: prompts; ImageNet's own 80 for its 1,000 classes otherwise, and none for other trees.

    Raises:
        ConfigError: an empty class, class names that do not fit, a picture format that is not read.
        DataError: a picture cannot be read.
    """
    folders, notes = _class_folders(folder)
    wordnet = all(WORDNET_ID.fullmatch(name) for name in folders)
    imagenet = wordnet and hashlib.sha256("\n".join(folders).encode()).hexdigest() == IMAGENET_IDS
    if classnames is None:
        classnames, more = _names(folder, folders, wordnet, imagenet)
        notes += more
    if len(classnames) != len(folders):
        found = f"{len(classnames)} names"
        raise wrong(folder, f"{len(folders)} class names, one a folder", found, "name the class file of this data")
    if templates is None:
        templates = named_templates(IMAGENET) if imagenet else ()
    files, labels, left_out = _pictures(folder, folders)
    notes += [f"{left_out} files are no pictures by their names and were left out."] if left_out else []
    digests, sizes = _digests(files)
    rows = np.stack([np.arange(len(files)), np.zeros(len(files), int), sizes], 1).astype(np.int64)
    names = [file.relative_to(folder).as_posix() for file in files]
    found = sha256("classification", digests, labels=labels)
    return EvalData("classification", Pieces(files, rows, names), found, str(folder), classnames, templates, labels,
                    notes=tuple(notes))  # fmt: skip


def _class_folders(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the class folders, in the order of the classes, and what is to be said about it."""
    found = sorted(child.name for child in folder.iterdir() if child.is_dir())
    if not found:
        raise wrong(folder, "a folder for each class", "none", "name another folder")
    numbers = [str(number) for number in range(len(found))]
    if found == numbers or not is_numbered(folder):
        return found, []
    # sorted as texts "10" comes before "2": a class file is by number, and ImageNetV2's folders are meant so
    return numbers, ["The class folders are numbers: they are classes by number, not in the order of their names."]


def _names(folder: Path, folders: Sequence[str], wordnet: bool, imagenet: bool) -> tuple[tuple[str, ...], list[str]]:
    """Class names where no file gives them, and what is to be said about them."""
    if imagenet:
        return named_classes(IMAGENET), ["Class names: imagenet1k of clip-benchmark, in the order of WordNet ids."]
    if wordnet:
        found = f"{len(folders)} WordNet ids, which are not the 1,000 of ImageNet"
        raise wrong(folder, "folders named by their class", found, "give --classnames=FILE, a line for each folder")
    names = tuple(" ".join(name.replace("_", " ").replace("-", " ").split()) for name in folders)
    if "" in names or len(set(names)) < len(names):
        again = next(name for i, name in enumerate(names) if not name or name in names[:i])
        raise wrong(folder, "folders of distinct names", repr(again), "rename it, or give --classnames=FILE")
    return names, ["Class names: the names of the folders, with blanks for _ and -."]


def _pictures(folder: Path, folders: Sequence[str]) -> tuple[list[Path], np.ndarray, int]:
    """All picture files in order, the class of each, and how many other files there are."""
    files: list[Path] = []
    labels: list[int] = []
    others = 0
    for label, name in enumerate(folders):
        inside = list(_walk(folder / name))
        here = [file for file in inside if file.suffix.lower() in READ]
        refused = next((file for file in inside if file.suffix.lower() in NOT_READ), None)
        if refused is not None:
            do = "convert it, for it would change which pictures are counted"
            raise wrong(refused, f"pictures of the formats {', '.join(READ)}", refused.suffix, do)
        if not here:
            raise wrong(folder / name, "pictures of a class", "none", "add them, or remove the folder")
        files += here
        labels += [label] * len(here)
        others += len(inside) - len(here)
    return files, np.array(labels, np.int64), others


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder: folder by folder in sorted order, sorted inside each."""
    for place, _, names in sorted(os.walk(folder, followlinks=True)):
        yield from (Path(place) / name for name in sorted(names))


def _holds_picture(folder: Path) -> bool:
    """Whether a picture lies directly in a folder."""
    with os.scandir(folder) as entries:
        return any(os.path.splitext(entry.name)[1].lower() in (*READ, *NOT_READ) for entry in entries)


def _digests(files: Sequence[Path]) -> tuple[list[bytes], list[int]]:
    """sha256 and length of every file."""
    digests, sizes = [], []
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise damaged(file, "a readable picture", error.strerror or error) from error
        digests.append(hashlib.sha256(data).digest())
        sizes.append(len(data))
    return digests, sizes
