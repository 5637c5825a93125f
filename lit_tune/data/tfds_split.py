"""Splits that tensorflow-datasets prepared, opened without TensorFlow: "tfds:NAME[/CONFIG][:VERSION]:SPLIT".

Instead of a name the folder of a data set may stand: "tfds:/data/coco_captions:train". Only data that was prepared as
array_record can be read at random places without TensorFlow; the default format (tfrecord) cannot.
"""

import functools
import operator
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_tune.errors import ConfigError, explain

PREFIX = "tfds:"
CAPTIONS = ("captions", "caption", "text", "captions/text", "captions/caption")
FORM = "tfds:NAME[/CONFIG][:VERSION]:SPLIT or tfds:FOLDER:SPLIT"
SPEC = re.compile(r"tfds:(?P<builder>[\w/.~-]+(?::\d+\.\d+\.\d+)?)(?::(?P<split>\w+(?:\[[\d:%-]*\])?))?")
PREPARE = "prepare it where TensorFlow is installed: builder(..., file_format='array_record').download_and_prepare()"


def builder_of(spec: str, name: str, data_root: Path | None = None) -> Any:
    """The builder of a data set; the import takes a second or more, so it waits until someone asks.

    Args:
        spec: what the user wrote, for messages.
        name: the part between "tfds:" and the split.
        data_root: looked in first for a name; then `TFDS_DATA_DIR`, or ~/tensorflow_datasets where that is not set.

    Raises:
        ConfigError: no such data, or data that needs TensorFlow.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        do = "pip install tensorflow-datasets importlib_resources"
        raise _wrong(spec, "tensorflow-datasets", error, do) from error
    is_folder = name.startswith(("/", "~", "."))
    place = Path(name).expanduser() if is_folder else _place(name, data_root)
    try:
        if is_folder:
            return tfds.builder_from_directory(_version_folder(spec, place))
        return tfds.builder(name, data_dir=str(place))
    except ModuleNotFoundError as error:
        raise _needs(spec, error) from error
    except (tfds.core.DatasetNotFoundError, ValueError, OSError, AssertionError) as error:
        found = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        do = "correct the folder" if is_folder else "correct the name, or set TFDS_DATA_DIR"
        raise _wrong(spec, f"a data set prepared in {place}", found, do) from error


def rows_of(spec: str, builder: Any, split: str, picture: str) -> Any:
    """Random access to a split as dicts, the feature `picture` left encoded.

    Raises:
        ConfigError: no such split, or data that needs TensorFlow.
    """
    import tensorflow_datasets as tfds

    splits = list(builder.info.splits)
    if not splits:
        found = f"nothing in {builder.data_dir}"
        raise _wrong(spec, "prepared data", found, f"set TFDS_DATA_DIR, or {PREPARE}")
    if split.partition("[")[0] not in splits:
        raise _wrong(spec, f"one of the splits {', '.join(splits)}", repr(split), "name one of these")
    try:
        return builder.as_data_source(split=split, decoders={picture: tfds.decode.SkipDecoding()})
    except (NotImplementedError, ModuleNotFoundError) as error:
        raise _needs(spec, error) from error
    except (ValueError, AssertionError, OSError) as error:
        raise _wrong(spec, f"the split {split} in {builder.data_dir}", error, "correct the split") from error


def by_path(features: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every feature under its name; those inside another, as COCO's captions/text, as OUTER/INNER."""
    for name, kind in features.items() if hasattr(features, "items") else ():
        inner = getattr(kind, "feature", kind)  # of a sequence, what it is a sequence of
        if hasattr(inner, "items"):
            yield from by_path(inner, f"{above}{name}/")
        else:
            yield above + name, kind


def at_path(row: dict[str, Any], path: str) -> Any:
    """The value of the feature that `by_path` calls so in a row; of a sequence of features all values."""
    return functools.reduce(operator.getitem, path.split("/"), row)


def _place(name: str, data_root: Path | None) -> Path:
    """The folder that data sets lie in; tensorflow-datasets itself looks at the variable only when it is imported."""
    if data_root is not None and (data_root / re.split("[/:]", name)[0]).is_dir():
        return data_root
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _version_folder(spec: str, folder: Path) -> Path:
    """The folder of the one prepared version: the folder itself, or its only child that is one."""
    if (folder / "features.json").is_file():
        return folder
    found = sorted(path.parent for path in folder.glob("*/features.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise _wrong(spec, f"one version with a features.json in {folder}", names, "name the version's own folder")
    return found[0]


def _needs(spec: str, error: Exception) -> ConfigError:
    """The error for data that only TensorFlow can read."""
    found = f"what needs TensorFlow ({str(error).splitlines()[0]})"
    return _wrong(spec, "data prepared as array_record", found, PREPARE)


def _wrong(spec: str, expected: str, found: object, do: str) -> ConfigError:
    return ConfigError(explain(spec, expected=expected, found=found, do=do))
