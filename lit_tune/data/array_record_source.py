"""Pairs by number from ArrayRecord files whose records `lit_tune.data.records.pack` made.

Source: google/array_record, whose reader gives record i in one read where files were written with group_size 1 (its
default); reads by number may run in several threads at once.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_tune.data.file_digest import file_sha256
from lit_tune.data.pair_files import PairFile, PairFiles, finished, look_at
from lit_tune.data.records import unpack
from lit_tune.data.sample import BadSample, Sample
from lit_tune.data.tar_source import captions_of, keep_usable
from lit_tune.errors import DataError, explain

SUFFIX = ".array_record"
RANDOM_READS = "readahead_buffer_size:0,max_parallelism:0"  # what the package's documentation says for random access


class ArrayRecordSource(PairFiles[Any]):
    """The pairs of ArrayRecord files; `caption_field` "txt" takes the record's captions, else a field of its meta."""

    def __getitem__(self, i: int) -> Sample:
        sample = self._sample(i)
        return Sample(sample.key, sample.image, self._captions_of(sample), sample.meta)

    def pair(self, i: int, max_image_bytes: int) -> tuple[bytes, tuple[str, ...]]:
        """Encoded picture and captions of pair `i`. Raises BadSample."""
        sample = self._sample(i)
        if len(sample.image) > max_image_bytes:
            raise BadSample("too_many_bytes")
        return sample.image, self._captions_of(sample)

    def captions(self, i: int) -> tuple[str, ...]:
        """The usable captions of pair `i`. Raises BadSample."""
        return self._captions_of(self._sample(i))

    def describe(self, i: int) -> tuple[str, str]:
        """(file name, key) of pair `i`; where the record is damaged its number in the file stands for the key."""
        number, place = self._place(i)
        try:
            key = self._sample(i).key
        except BadSample:
            key = str(place)
        return self.files[number].path.name, key

    def _open(self, file: PairFile) -> Any:
        return _reader(file.path)

    def _sample(self, i: int) -> Sample:
        """The record of pair `i`."""
        reader, place = self._find(i)
        try:
            return unpack(reader.read([place])[0])
        except (OSError, RuntimeError, ValueError) as error:
            raise BadSample("unreadable") from error

    def _captions_of(self, sample: Sample) -> tuple[str, ...]:
        """The usable captions of a record."""
        if self.caption_field == "txt":
            return keep_usable(captions_of(list(sample.captions)))
        return keep_usable(captions_of(sample.meta.get(self.caption_field)))


def open_array_records(
    paths: Sequence[Path], spec: str, caption_field: str, allow_missing: float = 0.0, max_samples: int | None = None
) -> ArrayRecordSource:
    """The source over ArrayRecord files; each is read once to hash it where the cache does not know it yet.

    Args:
        paths: the files, in order.
        spec: what the user wrote.
        caption_field: see ArrayRecordSource.
        allow_missing: share of the files that may be missing or damaged.
        max_samples: use only the first so many pairs.

    Raises:
        DataError: too many bad files (the first is named), or no pair at all.
    """
    files, problems = look_at(paths, _look, allow_missing)
    source = ArrayRecordSource(files, caption_field, spec, max_samples)
    finished(source, problems)
    if (group := _group_size(files[0].path)) > 1:
        print(f"lit_tune: {files[0].path} has groups of {group} records, each read decodes one whole; write such "
              "files with group_size:1", file=sys.stderr, flush=True)  # fmt: skip
    return source


def _group_size(path: Path) -> int:
    """Records that are compressed together, as the file's writer noted it; 1 where it noted nothing."""
    noted = re.search(r"group_size:(\d+)", _reader(path).writer_options_string())
    return int(noted[1]) if noted else 1


def _look(path: Path) -> PairFile:
    """What is known of a file; its first and last records must be ours."""
    sha256 = file_sha256(path)
    reader = _reader(path)
    pairs = reader.num_records()
    try:
        for place in {0, pairs - 1} if pairs else ():
            unpack(reader.read([place])[0])
    except (RuntimeError, ValueError) as error:
        raise _wrong(path, error, "write it with lit_tune.data.records.pack, or fetch it again") from error
    return PairFile(path, pairs, sha256)


def _reader(path: Path) -> Any:
    """The package's reader of a file."""
    from array_record.python.array_record_module import ArrayRecordReader  # only here: native code that few runs need

    reader = ArrayRecordReader(str(path), RANDOM_READS)
    if reader.ok():
        return reader
    try:
        reader.read([0])  # a reader that is not ok says why only when it is asked for something
        found: object = "a reader that is not ok"
    except (RuntimeError, IndexError, ValueError) as error:
        found = error
    raise _wrong(path, found, "fetch the file again")


def _wrong(path: Path, found: object, do: str) -> DataError:
    """The error for a damaged or foreign file."""
    return DataError(explain(str(path), expected="a whole ArrayRecord file of pairs", found=found, do=do))
