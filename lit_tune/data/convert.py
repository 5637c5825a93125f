"""`lit-tune data convert`: a data set as ArrayRecord, or as tar shards with smaller pictures, a shard at a time.

A pair that training would refuse (no usable caption, an undecodable or oversized picture) is not written; it is counted
by kind and named in quarantine.jsonl. ArrayRecord files hold the pictures as they are.
"""

import io
import json
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from lit_tune.data import indexing, parallel, sources, storage
from lit_tune.data.address import Address
from lit_tune.data.decoding import LIMITS, Limits, load_image, load_pixels, rgb
from lit_tune.data.sample import BadSample, Sample, Source
from lit_tune.data.shard_folder import Loss, ShardFolder
from lit_tune.data.tar_source import TarSource, caption_member, open_shards
from lit_tune.data.tar_write import TarShard
from lit_tune.errors import DataError, explain
from lit_tune.redaction import redact

FORMS = ("tar", "array_record")
JPEG_SIDE = 65_500  # pixels that a JPEG may have in one direction (libjpeg's JPEG_MAX_DIMENSION)


@dataclass(frozen=True)
class Encoding:
    """How pictures are written into tars.

    Attributes:
        size: of the shorter side, pixels; smaller pictures are never enlarged.
        quality: of the JPEG, 1 to 100.
        policy: how odd pictures become RGB, see `decoding`.
        limits: what is refused before decoding.
    """

    size: int = 256
    quality: int = 90
    policy: str = "clean"
    limits: Limits = LIMITS


@dataclass(frozen=True)
class Unit:
    """What one new shard is made from: pairs `start` to `stop` - 1 of what `spec` names.

    `weight` is for the progress: bytes of a shard, pairs of anything else.
    """

    number: int
    spec: str
    start: int
    stop: int
    weight: int


@dataclass(frozen=True)
class _Job:
    """What every worker is told, beside its own unit; `encoding` None for ArrayRecord."""

    out: ShardFolder
    caption_field: str
    encoding: Encoding | None


def convert(
    spec: str, out: Path, *, encoding: Encoding | None, per_shard: int, caption_field: str, workers: int,
    allow_missing: float,
) -> dict[str, Any]:
    """Write a data set in another form; a second call goes on where a first one was ended.

    Args:
        spec: shards, a folder of pictures, or what else `sources.open_source` knows.
        out: the folder to write.
        encoding: of the pictures in tars; None writes ArrayRecord.
        per_shard: pairs a new shard, where the old ones are not tars: these give one each.
        caption_field: as config.data.caption_field.
        workers: processes at most.
        allow_missing: share of the shards that may be missing or damaged.

    Returns:
        Counts: `spec`, `groups_in`, `left_out` {no_image, no_caption}, `samples_in`, `lost` by kind, `samples_out`,
        `shards_out`, `bad_shards`; `samples_in` = `samples_out` + the sum of `lost`.

    Raises:
        ConfigError: a wrong spec, or `out` holds something else.
        DataError: too many bad shards.
    """  # fmt: skip
    paths = sources.shard_paths(spec)
    left_out, groups = {}, 0
    if paths is not None:
        found = indexing.index(paths, caption_member(caption_field), workers)
        source: Source = open_shards(paths, spec, caption_field, allow_missing)
        groups, left_out = found.groups, {name: found.counts[name] for name in ("no_image", "no_caption")}
    else:
        source = sources.open_source(spec, SimpleNamespace(caption_field=caption_field))
        groups = len(source)
    units = _units(source, per_shard)
    form = "array_record" if encoding is None else "tar"
    plan = {"pairs": source.fingerprint, "form": form, "units": len(units)}
    if encoding is not None:
        plan |= {"size": encoding.size, "quality": encoding.quality, "policy": encoding.policy}
    folder = ShardFolder(out, "convert", form)
    with folder.opened(plan):
        todo = [unit for unit in units if not folder.is_done(unit.number)]
        progress = parallel.Progress("convert", len(todo), sum(unit.weight for unit in todo))
        job = _Job(folder, caption_field, encoding)
        try:
            for unit, _ in parallel.each(partial(_write, job=job), todo, workers):
                progress.add(unit.stop - unit.start, unit.weight)
        except KeyboardInterrupt:
            progress.interrupted()
            raise
        problems = source.problems if isinstance(source, TarSource) else []
        counts = {"spec": redact(spec), "groups_in": groups, "left_out": left_out, "samples_in": len(source),
                  "bad_shards": problems}  # fmt: skip
        return folder.finish(plan, len(units), counts)


def lines(result: dict[str, Any]) -> list[str]:
    """The counts for people."""
    left_out, lost = (", ".join(f"{name} {count:,}" for name, count in result[part].items() if count) or "none"
                      for part in ("left_out", "lost"))
    return [
        f"{result['spec']}: {result['groups_in']:,} samples in, {result['samples_out']:,} out in "
        f"{result['shards_out']:,} shards",
        f"  left out        {left_out}",
        f"  lost            {lost}",
        *(f"  bad: {problem}" for problem in result["bad_shards"]),
    ]


def smaller(data: bytes, encoding: Encoding) -> tuple[bytes, tuple[int, int]]:
    """A picture as RGB JPEG with the shorter side at `encoding.size`, and its (width, height).

    A plain RGB JPEG that is small enough already is kept byte for byte: encoding it again would only lose.

    Raises:
        BadSample: see `decoding.load_image`; too_many_pixels also where a JPEG cannot be as long.
    """
    image = load_image(data, encoding.policy, encoding.limits)
    small = min(image.size) <= encoding.size
    if small and data.startswith(b"\xff\xd8\xff") and _is_plain(data):
        return data, image.size
    if not small:
        shorter = min(image.size)
        # The longer side rounds down, as torchvision's Resize does, and never below the shorter one.
        width, height = (encoding.size * side // shorter for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)  # antialiased in Pillow
    if max(image.size) > JPEG_SIDE:
        raise BadSample("too_many_pixels")
    out = io.BytesIO()
    rgb(image).save(out, "JPEG", quality=encoding.quality)
    return out.getvalue(), image.size


def _is_plain(data: bytes) -> bool:
    """Whether a JPEG is RGB without EXIF, which may turn it."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return image.mode == "RGB" and "exif" not in image.info


def _units(source: Source, per_shard: int) -> list[Unit]:
    """The new shards: one for each tar that holds a pair, or for each `per_shard` pairs of anything else."""
    if isinstance(source, TarSource):
        shards = [(path, pairs) for path, pairs in source.shard_pairs() if pairs]
        return [Unit(number, path.url if isinstance(path, Address) else str(path), 0, pairs, storage.state(path).size)
                for number, (path, pairs) in enumerate(shards)]  # fmt: skip
    starts = range(0, len(source), per_shard)
    stops = [min(start + per_shard, len(source)) for start in starts]
    return [Unit(number, source.spec, start, stop, stop - start)
            for number, (start, stop) in enumerate(zip(starts, stops, strict=True))]  # fmt: skip


def _write(unit: Unit, job: _Job) -> None:
    """Write one new shard."""
    source = _opened(unit.spec, job.caption_field)
    if len(source) < unit.stop:
        raise DataError(explain(str(storage.location(unit.spec)), expected=f"{unit.stop} pairs, as at the start",
                                found=len(source), do="never change data while it is read"))  # fmt: skip
    fill = _fill_array_record if job.encoding is None else partial(_fill_tar, encoding=job.encoding)
    job.out.put(unit.number, partial(fill, source=source, unit=unit))


@lru_cache(maxsize=1)  # several units may be parts of one folder
def _opened(spec: str, caption_field: str) -> Source:
    """A source; of a damaged shard what lies before the damage: the parent allowed it."""
    return sources.open_source(spec, SimpleNamespace(caption_field=caption_field), allow_missing=1.0)


def _fill_tar(path: Path, source: Source, unit: Unit, encoding: Encoding) -> tuple[int, list[Loss]]:
    """Write a unit's pairs with smaller pictures; (how many, those that were lost)."""
    written, lost = 0, []
    with TarShard(path) as shard:
        for i in range(unit.start, unit.stop):
            try:
                image, captions = source.pair(i, encoding.limits.max_bytes)
                key = source.describe(i)[1]
                members = source.members(i) if isinstance(source, TarSource) else _members(source[i], captions)
                picture, (width, height) = smaller(image, encoding)
            except BadSample as bad:
                lost.append(_loss(source, i, bad))
                continue
            others = {name: members[name] for name in ("txt", "json") if name in members}
            if "json" in others:
                others["json"] = _resized(others["json"], width, height)
            shard.add(key if isinstance(source, TarSource) else f"{i:09d}", {"jpg": picture} | others)
            written += 1
    return written, lost


def _fill_array_record(path: Path, source: Source, unit: Unit) -> tuple[int, list[Loss]]:
    """Write a unit's pairs as records; (how many, those that were lost)."""
    from array_record.python.array_record_module import ArrayRecordWriter  # only here, and grain brings it

    from lit_tune.data import records

    written, lost = 0, []
    # One record a group: they are read one by one at random places. JPEGs do not get smaller.
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    try:
        for i in range(unit.start, unit.stop):
            try:
                sample = source[i]
                load_pixels(sample.image, "clean")  # only whether training could: the record keeps the bytes
            except BadSample as bad:
                lost.append(_loss(source, i, bad))
                continue
            writer.write(records.pack(sample))
            written += 1
        writer.close()
    except RuntimeError as error:  # what the package makes of a full disk
        raise OSError(f"{path.name} could not be written: {str(error).splitlines()[0]}") from error
    return written, lost


def _members(sample: Sample, captions: tuple[str, ...]) -> dict[str, bytes]:
    """Caption and json members of a sample that comes from no tar; all its captions are in the json."""
    fields = {**sample.meta, "key": sample.key, "caption": captions[0], "captions": list(captions)}
    return {"txt": captions[0].encode("utf-8", "replace"), "json": json.dumps(fields).encode()}


def _resized(raw: bytes, width: int, height: int) -> bytes:
    """A json member with the new width and height; one that is no object stays as it is."""
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    return json.dumps(fields | {"width": width, "height": height}).encode() if isinstance(fields, dict) else raw


def _loss(source: Source, i: int, bad: BadSample) -> Loss:
    """The line of quarantine.jsonl for a pair."""
    shard, key = source.describe(i)
    return {"shard": shard, "key": key, "kind": bad.kind}
