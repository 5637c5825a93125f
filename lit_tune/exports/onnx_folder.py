"""The towers as ONNX files in a folder of their own, with what onnxruntime, fastembed and transformers.js need beside.

    onnx/model.onnx, preprocessor_config.json              pictures
    onnx/text_model.onnx, tokenizer.json, tokenizer_config.json    texts; the tokenizer puts the prefix before them
    text/tokenizer.json                                    the tower's own, without prefix, for `lit_tune.load`

An image tower alone has the first line only.
"""

from pathlib import Path

from lit_tune.description import TEXT_FOLDER
from lit_tune.errors import ConfigError, explain
from lit_tune.exports import onnx, preprocessing, text_folder
from lit_tune.exports.parts import Source, Written


def write(source: Source, out: Path) -> list[Written]:
    """What was written.

    Raises:
        ConfigError: no package `onnx`, or a tower that these files cannot hold; the line says why.
    """
    if onnx.available():
        raise ConfigError(explain("--format=onnx", expected="the package onnx", found="none", do=onnx.HOW))
    if source.text is not None:
        plain = out / TEXT_FOLDER
        plain.mkdir(parents=True)
        text_folder.write_tokenizer(source.text.tokenizer, plain)
        text_folder.write_tokenizer(source.text.tokenizer, out, source.text.tokenizer.prefix)
    return write_towers(source, out, f"{TEXT_FOLDER}/tokenizer.json")


def write_towers(source: Source, out: Path, tokenizer: str) -> list[Written]:
    """The files of the towers and how pictures are prepared, into a folder that has its tokenizers.

    Args:
        tokenizer: path of the one without prefix, below `out`; of no meaning without a text tower.
    """
    vision, text = source.vision, source.text
    page = preprocessing.preprocessor_config(vision.preprocess)
    onnx.export_vision(vision.params, vision.tower, out / onnx.VISION_FILE, vision.preprocess)
    text_folder.write_json(out / preprocessing.FILE, page)
    written = [Written("ONNX image tower", "vision", onnx.VISION_FILE, "onnx")]
    if text is not None:
        onnx.export_text(text.params, text.tower, out / onnx.TEXT_FILE, text.tokenizer.max_length)
        written.append(Written("ONNX text tower", "text", onnx.TEXT_FILE, "onnx", tokenizer))
    return written
