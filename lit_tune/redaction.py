"""Addresses without their secrets: what is recorded, printed and logged. No jax.

A signed address carries its signature in the query, some carry a user and a password. Both are asked with and nowhere
kept: not in config.json, checkpoints, cards, pages or messages.
"""

import re
from typing import Any

_USER = re.compile(r"(?<=://)[^/\s?#\"]*@")  # up to the last @: a password may hold one
# In keys of gs:// and s3:// (and of fsspec's memory) a ? is a sign like others; anywhere else a query follows it, also
# at kinds of addresses that are refused: the line that refuses them shows them.
_QUERY = re.compile(r"(\b(?!(?:gs|s3|memory):)[a-z][a-z0-9+.-]*://[^\s?\"<>]*)\?[^\s\"<>]*?(?=['(),:;]*(?:[\s\"<>]|$))",
                    re.IGNORECASE)  # fmt: skip


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
