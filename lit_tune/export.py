"""`lit-tune export`: a run's weights as a folder that other packages load, with the frozen text tower beside them."""

from lit_tune import cli

if __name__ == "__main__":
    cli.answer_help("export")  # before jax is imported

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lit_tune import __version__, config as config_lib, console, description, errors, tower
from lit_tune.convert import weights
from lit_tune.exports import timm
from lit_tune.flags import ExportFlags

LATER = ("hf", "nomic", "open_clip", "sentence-transformers", "onnx")  # formats that a later version writes
TOLERANCE = 1e-5  # of unit vectors, largest difference
PICTURES = 4  # random ones that the written folder is tried on


def main(argv: Sequence[str]) -> int:
    """Writes the export and proves it on random pictures; returns the exit code."""
    flags = config_lib.parse(argv, "export")
    if flags.format != "timm":
        found = f"{flags.format} (not in version {__version__} yet)" if flags.format in LATER else repr(flags.format)
        raise errors.ConfigError(errors.explain("--format", expected="timm", found=found, do="write --format=timm"))
    console.quiet_dependencies()
    proof = export_timm(flags)
    console.say(f"export    {flags.out}: timm folder, weights sha256 {proof['weights_sha256'][:16]}..., "
                f"read back with largest difference {proof['max_difference']:.1e}")
    console.say(f"next      python -c \"import timm; timm.create_model('local-dir:{flags.out}', pretrained=True)\"")
    console.say(f"          lit-tune embed --model={flags.out} --images='PICTURES/*.png' --out=pictures.npz")
    return 0


def export_timm(flags: ExportFlags) -> dict[str, Any]:
    """The content of proof.json: who read the written folder back, and how far its vectors were from the run's.

    Raises:
        ConfigError: the folder is in use, or timm's layout cannot hold this tower.
        LitTuneError: the written folder gives other vectors (a bug of ours).
    """
    out = Path(flags.out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise errors.ConfigError(errors.explain("--out", expected="a new or empty folder", found=str(out),
                                                do="name another folder"))
    model = tower.load(flags.workdir, flags.step)
    spec, preprocess = model.vision.tower.spec, model.vision.preprocess
    digest = timm.export(jax.device_get(model.vision.params), spec, preprocess, out)
    page = description.vision_description(spec, preprocess)
    description.save_vision(out, page, out / weights.FILE, "timm")
    description.save_text(out, model.text)
    height, width = model.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, height, width, 3), np.uint8)
    read_back = tower.load(out).vision.embed_pixels(pictures)
    difference = float(np.abs(read_back - model.vision.embed_pixels(pictures)).max())
    if not difference <= TOLERANCE:
        raise errors.LitTuneError(f"{out} gives vectors {difference:.2e} away from the run's: do not use it")
    proof = {"checked_by": ["own_reader"], "max_difference": difference, "pictures": PICTURES,
             "tolerance": TOLERANCE, "weights_sha256": digest, "version": __version__}
    (out / "proof.json").write_text(json.dumps(proof, indent=2) + "\n")
    return proof


if __name__ == "__main__":
    sys.exit(cli.run(main))
