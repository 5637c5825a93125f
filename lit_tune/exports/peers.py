"""Other people's packages, where they are installed, read what we wrote: one row of PEERS a package.

torch is imported here only inside the functions that ask a package which is there: an export needs none of them, and
its proof says who was asked and who was not.
"""

import importlib
import importlib.metadata
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from lit_tune.convert import onnx_session
from lit_tune.exports import preprocessing
from lit_tune.exports.parts import Written
from lit_tune.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Inputs:
    """What every file is tried on.

    Attributes:
        pictures: prepared ones, before mean and std.
        texts: as the tower reads them: what prefix they have is written out.
    """

    pictures: UInt8[np.ndarray, "n h w 3"]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Peer:
    """One package.

    Attributes:
        package: its name on the index.
        module: its name in Python.
        since: the lowest version that can be asked.
        reads: whether a written file, below a folder, is for it.
        vectors: (folder, written, inputs) -> (n, d) of the pictures or the texts, of any length.
    """

    package: str
    module: str
    since: tuple[int, ...]
    reads: Callable[[Path, Written], bool]
    vectors: Callable[[Path, Written, Inputs], Float[np.ndarray, "n d"]]


def absent(peer: Peer) -> str:
    """Why a package cannot be asked, "" if it can."""
    try:
        version = importlib.metadata.version(peer.package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    if tuple(map(int, re.findall(r"\d+", version)[: len(peer.since)])) < peer.since:
        return f"version {version} is older than {'.'.join(map(str, peer.since))}"
    try:
        importlib.import_module(peer.module)
    except Exception as error:  # a broken install of a package that we do not need is no fault of the export
        return f"cannot be imported ({type(error).__name__})"
    return ""


def who(peer: Peer) -> str:
    """Name and version, as the proof has it."""
    return f"{peer.package} {importlib.metadata.version(peer.package)}"


def _timm(folder: Path, written: Written, inputs: Inputs) -> Float[np.ndarray, "n d"]:
    """timm's model of a `local-dir:` folder, with the mean and std of that folder's config."""
    import timm
    import torch

    model = timm.create_model(f"local-dir:{(folder / written.file).parent}", pretrained=True).eval()
    mean, std = (np.asarray(model.pretrained_cfg[name], np.float32) for name in ("mean", "std"))
    pixels = (inputs.pictures.astype(np.float32) / 255 - mean) / std
    with torch.no_grad():
        return model(torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))).numpy()


def _sentence_transformers(folder: Path, written: Written, inputs: Inputs) -> Float[np.ndarray, "n d"]:
    """The whole model of the folder, texts without its prompt; pictures that have the tower's size are not resized."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    if written.kind == "text":
        return model.encode(list(inputs.texts), prompt="", show_progress_bar=False)
    return model.encode([Image.fromarray(picture) for picture in inputs.pictures], show_progress_bar=False)


def _open_clip(folder: Path, written: Written, inputs: Inputs) -> Float[np.ndarray, "n d"]:
    """open_clip's model, fed with our tokens, since the prefix is in its own tokenizer."""
    import torch

    from lit_tune.integrations import open_clip

    model, transform, own = open_clip.load(folder)
    with torch.no_grad():
        if written.kind == "vision":
            pictures = [transform(Image.fromarray(picture)) for picture in inputs.pictures]
            return model.encode_image(torch.stack(pictures)).numpy()
        tokenizer = Tokenizer((folder / written.tokenizer).parent, "", own.context_length)
        ids = [torch.from_numpy(tokenizer.pad([one])[0]).long() for one in tokenizer(inputs.texts)]
        return model.encode_text(torch.cat(ids)).numpy()


def _onnxruntime(folder: Path, written: Written, inputs: Inputs) -> Float[np.ndarray, "n d"]:
    """An ONNX file in onnxruntime, fed with the tokens of the tokenizer beside it."""
    if written.kind == "vision":
        page = json.loads((folder / preprocessing.FILE).read_text())
        run = onnx_session.vision_session(folder / written.file, page["image_mean"], page["image_std"])
        return run(None, inputs.pictures)
    run = onnx_session.text_session(folder / written.file)
    longest = json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"]
    tokenizer = Tokenizer((folder / written.tokenizer).parent, "", longest)
    return np.concatenate([run(None, *tokenizer.pad([ids], len(ids))) for ids in tokenizer(inputs.texts)])


PEERS: tuple[Peer, ...] = (
    # `local-dir:` came with 1.0.16 (timm's release notes)
    Peer("timm", "timm", (1, 0, 16), lambda folder, written: written.layout == "timm", _timm),
    Peer("sentence-transformers", "sentence_transformers", (6, 0), lambda folder, written:
         (folder / "modules.json").is_file() and written.file.endswith("Transformer/model.safetensors"),
         _sentence_transformers),
    Peer("open_clip_torch", "open_clip", (3, 3), lambda folder, written: written.layout == "open_clip", _open_clip),
    Peer("onnxruntime", "onnxruntime", (1, 12), lambda folder, written: written.layout == "onnx", _onnxruntime),
)
