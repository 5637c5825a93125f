"""Texts as the reference evaluation cleans them before it puts the prefix in front and tokenises."""

import html
import re

import ftfy

WHITE_SPACE = re.compile(r"\s+")


def clean(text: str) -> str:
    """The text with mojibake mended, HTML entities resolved (twice: "&amp;lt;" is "<") and white space made single.

    Args:
        text: a caption, or a prompt with its class name.

    Source: basic_clean and whitespace_clean in src/contrastors/eval/zero_shot.py of github.com/nomic-ai/contrastors,
        as in OpenAI's CLIP.
    """
    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return WHITE_SPACE.sub(" ", mended.strip()).strip()
