"""The frozen text tower in an export: its own files, byte for byte."""

from pathlib import Path

from lit_tune.convert import weights
from lit_tune.description import TEXT_FOLDER
from lit_tune.exports.parts import Written
from lit_tune.text.encode import TextEncoder

TOKENIZER = "tokenizer.json"


def copy_text(encoder: TextEncoder | None, out: Path) -> list[Written]:
    """What was written: the tower's weights, config, tokenizer, licence and card in out/text; nothing without one."""
    if encoder is None:
        return []
    folder = out / TEXT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    encoder.copy_files(folder)
    file, tokenizer = (f"{TEXT_FOLDER}/{name}" for name in (weights.FILE, TOKENIZER))
    return [Written("text tower, its own files", "text", file, encoder.layout, tokenizer)]
