"""A sample as one run of bytes: the record of an ArrayRecord file.

Layout, little-endian: HEADER (magic "LTPAIR", version, lengths of key, captions, meta and image), then these four: the
key as UTF-8, the captions as a JSON list of texts, the other fields as a JSON object, the picture as it was encoded.
Readers in other languages need a JSON parser and nothing else.
"""

import json
import struct

from lit_tune.data.sample import Sample

MAGIC = b"LTPAIR"
VERSION = 1
HEADER = struct.Struct("<6sHIIIQ")


def pack(sample: Sample) -> bytes:
    """The record of a sample.

    Args:
        sample: `meta` must hold only what JSON can (texts, numbers, lists, objects).

    Raises:
        TypeError: a field that JSON cannot hold.
    """
    key = sample.key.encode("utf-8", "replace")
    captions = json.dumps(list(sample.captions), ensure_ascii=False).encode("utf-8", "replace")
    meta = json.dumps(sample.meta, ensure_ascii=False).encode("utf-8", "replace")
    header = HEADER.pack(MAGIC, VERSION, len(key), len(captions), len(meta), len(sample.image))
    return b"".join((header, key, captions, meta, sample.image))


def unpack(data: bytes) -> Sample:
    """The sample of a record. The captions are those that were packed, usable or not.

    Raises:
        ValueError: the bytes are no record of this version, or lengths and content do not agree.
    """
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise ValueError(f"a record that starts with {data[:12]!r}")
    _, version, *lengths = HEADER.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"a record of version {version}")
    if HEADER.size + sum(lengths) != len(data):
        raise ValueError(f"a record of {len(data)} bytes where its header announces {HEADER.size + sum(lengths)}")
    parts, start = [], HEADER.size
    for length in lengths:
        parts.append(data[start : start + length])
        start += length
    key, captions, meta = parts[0].decode("utf-8"), json.loads(parts[1]), json.loads(parts[2])
    if not isinstance(captions, list) or not all(isinstance(one, str) for one in captions):
        raise ValueError("captions that are no list of texts")
    if not isinstance(meta, dict):
        raise ValueError("other fields that are no object")
    return Sample(key, parts[3], tuple(captions), meta)
