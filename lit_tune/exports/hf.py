"""The default export: one folder for sentence-transformers, transformers, timm and open_clip, with no remote code.

    DIR                           SentenceTransformer(DIR); timm and open_clip "local-dir:DIR"
    DIR/image_0_Transformer       transformers AutoModel, AutoImageProcessor (before the projection); timm
    DIR/text_0_Transformer        transformers AutoModel, AutoTokenizer; the frozen tower's own bytes

Each tower is stored twice: alone, as transformers needs it, and in open_clip_model.safetensors, which open_clip reads
whole and timm in part. Hard links would not survive an upload. The ONNX files are `lit_tune.exports.onnx`'s.
"""

from pathlib import Path

from lit_tune.exports import open_clip, sentence_transformers
from lit_tune.exports.parts import Source, Written


def write(source: Source, out: Path) -> list[Written]:
    """Fill `out` for all of them; what was written.

    Raises:
        ConfigError: one of the formats cannot hold these towers; the line says why.
    """
    return sentence_transformers.write(source, out) + open_clip.write(source, out)
