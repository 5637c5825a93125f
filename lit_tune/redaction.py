"""Addresses without their secrets: what is recorded, printed and logged. No jax.

A signed address carries its signature in the query, some carry a user and a password. Both are asked with and nowhere
kept: not in config.json, checkpoints, cards, pages or messages.
"""

import re
from typing import Any

_USER = re.compile(r"(?<=://)[^/\s@'\"]*@")
_QUERY = re.compile(r"(\bhttps?://[^\s?'\"<>()]*)\?[^\s'\"<>()]*")  # in gs:// and s3:// keys a ? is a sign like others


def redact(text: str) -> str:
    """`text`, every address in it without user, password and query."""
    return _QUERY.sub(r"\1", _USER.sub("", text)) if "://" in text else text


def redact_values(value: Any) -> Any:
    """The same of all texts among JSON values."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: redact_values(one) for name, one in value.items()}
    return [redact_values(one) for one in value] if isinstance(value, list) else value
