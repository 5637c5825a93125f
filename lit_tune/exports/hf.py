"""The default export: one folder for sentence-transformers, transformers, timm and open_clip, with no remote code.

    DIR                           SentenceTransformer(DIR); timm and open_clip "local-dir:DIR"
    DIR/image_0_Transformer       transformers AutoModel, AutoImageProcessor (before the projection); timm
    DIR/text_0_Transformer        transformers AutoModel, AutoTokenizer; the frozen tower's own bytes

Each tower is stored twice: alone, as transformers needs it, and in open_clip_model.safetensors, which open_clip reads
whole and timm in part; a third time in onnx/ where the package onnx is installed (fastembed, onnxruntime). Hard links
would not survive an upload. An image tower alone is DIR/image_0_Transformer and onnx/: sentence-transformers and
open_clip want both towers.
"""

import sys
from pathlib import Path

import jax

from lit_tune.convert import weights
from lit_tune.errors import ConfigError
from lit_tune.exports import onnx, onnx_folder, open_clip, sentence_transformers, timm
from lit_tune.exports.parts import Source, Written


def write(source: Source, out: Path) -> list[Written]:
    """Fill `out` for all of them; what was written.

    Raises:
        ConfigError: one of the formats cannot hold these towers; the line says why.
    """
    if source.text is None:
        written = _image_alone(source, out)
    else:
        written = sentence_transformers.write(source, out) + open_clip.write(source, out)
    left_out = onnx.available()
    if not left_out:
        try:
            return written + onnx_folder.write_towers(source, out, f"{sentence_transformers.TEXT}/tokenizer.json")
        except ConfigError as error:  # what these files cannot hold is no reason to refuse all others
            left_out = str(error)
    print(f"lit_tune: the ONNX files are left out: {left_out}", file=sys.stderr, flush=True)
    return written


def _image_alone(source: Source, out: Path) -> list[Written]:
    """The image tower where it stands beside a text tower too, for transformers and timm."""
    vision, folder = source.vision, sentence_transformers.IMAGE
    timm.export(jax.device_get(vision.params), vision.tower.spec, vision.preprocess, out / folder)
    return [Written("timm image tower", "vision", f"{folder}/{weights.FILE}", "timm")]
