"""Every written weight file read back and tried on fixed inputs: how far its vectors are from the towers' own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lit_tune import convert, tree
from lit_tune.convert import described, mapping, peer_files, timm, weights
from lit_tune.description import vision_description, weights_of
from lit_tune.errors import ConfigError, LitTuneError
from lit_tune.exports import peers
from lit_tune.exports.parts import Source, Written
from lit_tune.exports.peers import Inputs
from lit_tune.model import VisionEncoder
from lit_tune.text import encode
from lit_tune.text.encode import TextEncoder

PICTURES = 4  # random ones, of the tower's own size
TEXTS = ("a red apple", "two dogs on the mat, seen from above", "Foto de un gato; 猫の写真", "a photo of a cat, " * 60)
TOLERANCES = {"onnx": 1e-4}  # largest difference of a number of the unit vectors, by layout
TOLERANCE = 1e-5  # of all other layouts
NOT_OURS = ("onnx",)  # layouts that only a peer can run
OWN = "own_reader"


@dataclass(frozen=True)
class Expected:
    """The towers' own vectors of the inputs."""

    inputs: Inputs
    vision: Float[np.ndarray, "n d"]
    text: Float[np.ndarray, "m d"] | None  # None without a text tower
    text_sha256: str  # of the frozen parameters; "" without


def expected(source: Source) -> Expected:
    """Fixed inputs and what the towers themselves make of them: texts with the tower's prefix, then without one."""
    vision, text = source.vision, source.text
    shape = (PICTURES, *vision.image_size, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    vectors = vision.embed_pixels(pictures)
    if text is None:
        return Expected(Inputs(pictures, ()), vectors, None, "")
    texts = (*(text.tokenizer.prefix + one for one in TEXTS), *TEXTS)
    return Expected(Inputs(pictures, texts), vectors, text.encode(texts, ""), tree.digest(text.params))


def check(folder: Path, written: Written, source: Source, wanted: Expected) -> dict[str, Any]:
    """One written file's part of the proof: who read it, how far off, and who could not be asked.

    Raises:
        LitTuneError: a reader fails or gives other vectors, the text weights have changed, or nobody here can read it.
    """
    tolerance = TOLERANCES[written.layout] if written.layout in TOLERANCES else TOLERANCE
    ours = wanted.vision if written.kind == "vision" else wanted.text
    found, asked, not_asked = {}, [], {}
    if written.layout not in NOT_OURS:
        vectors, found = _own(folder, written, source, wanted)
        asked.append((OWN, vectors))
    for peer in peers.PEERS:
        if peer.reads(folder, written):
            reason = peers.absent(peer)
            if reason:
                not_asked[peer.package] = reason
            else:
                asked.append((peers.who(peer), _ask(peer, folder, written, wanted.inputs)))
    if not asked:
        raise LitTuneError(f"{written.file}: nothing here can read it back ({not_asked}): not proved, do not use it")
    checks = [{"who": who, "max_difference": _difference(vectors, ours)} for who, vectors in asked]
    for one in checks:
        if not one["max_difference"] <= tolerance:
            raise LitTuneError(f"{written.file}, read by {one['who']}, gives vectors {one['max_difference']:.2e} away "
                               f"from the tower's own (tolerance {tolerance:.0e}): do not use it")
    if written.kind == "vision" and written.layout != mapping.NATIVE:  # no peer's config lies beside that one
        check_preparation(folder, written, source)
    tried = f"{PICTURES} random pictures" if written.kind == "vision" else f"{len(TEXTS)} texts with and without prefix"
    return {"what": written.what, "kind": written.kind, "file": written.file, "layout": written.layout,
            "inputs": tried, "tolerance": tolerance, "checked_by": checks, "not_asked": not_asked, **found}


def check_preparation(folder: Path, written: Written, source: Source) -> None:
    """Nothing, if the peer's own config beside an image tower brings pictures to it as the tower wants them.

    Raises:
        LitTuneError: it says otherwise.
    """
    wanted = _steps(source.vision.preprocess)
    try:
        said = _steps(_preparation(folder, written, source.vision.image_size))
    except ConfigError as error:
        raise LitTuneError(f"{written.file}: what it says about pictures cannot be read back: {error}") from error
    for name, value in wanted.items():
        if said[name] != value:
            raise LitTuneError(f"{written.file}: its config prepares pictures with {name} {said[name]}, the tower "
                               f"wants {value}: do not use it")


def _preparation(folder: Path, written: Written, image_size: tuple[int, int]) -> dict[str, Any]:
    """What a peer is told about pictures, in our words."""
    beside = (folder / written.file).parent
    if written.layout == "open_clip":
        config = weights.read_config(folder / peer_files.OPEN_CLIP)
        height, width = config["model_cfg"]["vision_cfg"]["image_size"]
        return peer_files.preprocess(folder, config, "open_clip", (height, width))
    if written.layout == "onnx":
        return peer_files.preprocess(folder, {}, "hf", image_size)
    return peer_files.preprocess(beside, weights.read_config(beside / "config.json"), written.layout, image_size)


def _steps(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a preparation that every peer has words for; how files are decoded is not among it."""
    crop_pct = preprocess["crop_pct"] if "crop_pct" in preprocess else 1.0
    same = {name: preprocess[name] for name in ("image_size", "resize", "interpolation", "mean", "std")}
    return same | {"size before the crop": [math.floor(side / crop_pct + 1e-9) for side in preprocess["image_size"]]}


def _own(folder: Path, written: Written, source: Source, wanted: Expected) -> tuple[np.ndarray, dict[str, Any]]:
    """The vectors of a file read by ourselves, and what else is known from that."""
    if written.kind == "vision":
        return read_vision(folder, written, source).embed_pixels(wanted.inputs.pictures), {}
    encoder = read_text(folder, written, source)
    digest = tree.digest(encoder.params)
    if digest != wanted.text_sha256:
        raise LitTuneError(f"{written.file}: the frozen text weights have changed: do not use it")
    return np.concatenate([encoder.encode(TEXTS), encoder.encode(TEXTS, "")]), {"params_sha256": digest}


def read_vision(folder: Path, written: Written, source: Source) -> VisionEncoder:
    """The image tower in a written file; by the peer's own config beside it, where that is one that we read."""
    file, own = folder / written.file, source.vision.description
    if written.layout == "timm":
        params, spec, preprocess = timm.load(file.parent)
        return VisionEncoder(vision_description(spec, preprocess), params)
    if written.layout == "nomic":
        there = convert.vision(file, weights.read_config(file.parent / "config.json"), "nomic")
        return VisionEncoder(vision_description(there.spec, source.vision.preprocess), there.params)
    facts = weights_of(file, written.layout, folder)
    return VisionEncoder(own, described.read_params(folder, facts, source.vision.tower.spec))


def read_text(folder: Path, written: Written, source: Source) -> TextEncoder:
    """The text tower in a written file, with the tokenizer that was written for it."""
    own = source.text.description
    page = {**own, "text": {**own["text"], "tokenizer": written.tokenizer},
            "weights": weights_of(folder / written.file, written.layout, folder)}
    return encode.read_folder(folder, page)


def _ask(peer: peers.Peer, folder: Path, written: Written, inputs: Inputs) -> np.ndarray:
    """A peer's vectors at length 1."""
    try:
        vectors = np.asarray(peer.vectors(folder, written, inputs), np.float64)
    except Exception as error:  # whatever another package raises, the file is not what it should be
        reason = " ".join(str(error).split())[:300]
        raise LitTuneError(f"{written.file}: {peers.who(peer)} cannot read it ({type(error).__name__}: {reason}): "
                           "do not use it") from error
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Largest difference of a number; infinite where the shapes differ."""
    return float(np.abs(theirs - ours).max()) if theirs.shape == ours.shape else float("inf")
