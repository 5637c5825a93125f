"""Find a config, apply the command line to it, lock it; and say exactly which settings a run was made with.

`configs/common.py` holds every key. A config file or a command line may change a value, never add a key or change a
type: both are refused here, before anything is read or compiled.
"""

import ast
import hashlib
import importlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lit_tune import config_start, errors, flag_reading, flags, shipped
from lit_tune.config_check import check, check_devices, flat
from lit_tune.redaction import redact_values

__all__ = ["check", "check_devices", "config_hash", "diff", "facts", "flat", "from_json", "load", "names", "override",
           "parse", "resolved", "to_json"]


def parse(argv: Sequence[str], command: str) -> Any:
    """The flags of a subcommand as its frozen dataclass of `lit_tune.flags`; `config`, where it has one, is loaded.

    Args:
        argv: the words after the subcommand.
        command: its name, with `_`.

    Raises:
        ConfigError: whatever is wrong with the command line or the config it names.
    """
    values, changes = flag_reading.read(argv, command)
    if "config" in values:
        values["config"] = load(values["config"], changes)
    return flags.COMMANDS[command](**values)


def load(spec: str, changes: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """The locked config that a spec names, with changes applied; not checked (see `check`).

    With `vision.init_spec` the starting model's architecture and preprocessing are in it, and a line on stderr says so.

    Args:
        spec: NAME[:arg] of a shipped config, or FILE.py[:arg]. Only a path that is written out is ever executed.
        changes: (dotted key, text) pairs, in the order of the command line.

    Raises:
        ConfigError: no such config, a file that fails, an unknown key, a wrong type.
    """
    path, arg = _find(spec)
    config = conform(_get_config(path, arg), where=path.name)
    for key, text in changes:
        override(config, key, text)
    if config.vision.init_spec and config.vision.init_from:
        _take(config, given={key for key, _ in changes})
    return config.lock()


def _take(config: ConfigDict, given: set[str]) -> None:
    """Set what the starting model says of itself, keys that are given on the command line apart."""
    start, vision, taken = config.vision.init_from, config.vision, {}
    for key, value in config_start.settings(start, shipped.common().vision.to_dict(), vision.embed_dim).items():
        present = _at(config, key)
        value = typed(value, present, f"vision.init_spec: {start}: {key}")
        if key not in given and value != present:
            _set(config, key, value)
            taken[key] = value
    listed = ", ".join(f"{key}={value}" for key, value in taken.items()) or "what this config has already"
    print(f"lit_tune: taken over from {start}: {listed} (embed_dim is this config's: {vision.embed_dim})",
          file=sys.stderr)  # fmt: skip


def names() -> list[str]:
    """Names of the shipped configs, the page of defaults left out."""
    return sorted(path.stem for path in shipped.folder().glob("*.py") if path.stem not in ("__init__", "common"))


def override(config: ConfigDict, key: str, text: str) -> None:
    """Set one key from its text on a command line, by the type of its present value.

    Text is read as a Python literal (never evaluated). A tuple of names takes a bare word as its only entry.
    """
    present = _at(config, key)
    _set(config, key, typed(_literal(text, present), present, f"config.{key}"))


def conform(config: ConfigDict, where: str) -> ConfigDict:
    """A config with exactly the keys and types of configs/common.py.

    Raises:
        ConfigError: a key that common does not have, or lacks, or a value of another type.
    """
    result = shipped.common()
    defaults, found = flat(result), flat(config)
    for key, value in found.items():
        _set(result, key, typed(value, _at(result, key), f"{where}: config.{key}"))
    missing = sorted(set(defaults) - set(found))
    if missing:
        raise errors.ConfigError(errors.explain(
            where, expected=f"the key {missing[0]}", found="none", do="start from common.get_config()"))
    return result


def typed(value: Any, like: Any, key: str) -> Any:
    """`value` in the type of `like`: ints become floats, lists tuples; everything else has to fit.

    A tuple of numbers keeps its length, a tuple of names may have any; an empty one takes names or whole numbers.
    """
    if isinstance(like, tuple) and isinstance(value, list | tuple):
        if not like or isinstance(like[0], str):
            numbers = not like and all(type(entry) is int for entry in value)
            return tuple(value) if numbers else tuple(typed(entry, "", key) for entry in value)
        if len(value) == len(like):
            return tuple(typed(entry, of, key) for entry, of in zip(value, like, strict=True))
    elif isinstance(like, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) is type(like):
        return value
    raise errors.ConfigError(errors.explain(
        key, expected=_kind(like), found=repr(value), do=f"give a value like {like!r}"))


def resolved(config: ConfigDict) -> dict[str, Any]:
    """The config as plain nested dicts of JSON values, references followed, tuples as lists, addresses without secrets.

    So a run may go on with another signature of the same shards.
    """
    return _plain(config.copy_and_resolve_references().to_dict())


def facts(config: ConfigDict) -> dict[str, Any]:
    """{dotted key: JSON value} of every key, addresses without secrets: what the processes of a run compare."""
    return _plain(flat(config))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """JSON values, tuples as lists, addresses without secrets."""
    return redact_values(json.loads(json.dumps(values)))


def to_json(config: ConfigDict) -> str:
    """The resolved config as JSON text: what goes into a run's config.json and into every checkpoint."""
    return json.dumps(resolved(config), indent=1) + "\n"


def from_json(text: str) -> ConfigDict:
    """The locked config in a text of `to_json`, or in a run's config.json; no Python of the user's is run.

    A key that was added since takes its default: new keys are made so that the default changes nothing.

    Raises:
        ConfigError: not such a text, or a key that this version does not know.
    """
    try:
        page = json.loads(text)
        stored = flat(ConfigDict(page["config"] if "config" in page else page))
    except (ValueError, TypeError, AttributeError) as error:
        raise errors.ConfigError(errors.explain(
            "config.json", expected="what lit-tune wrote", found=f"{type(error).__name__}: {error}",
            do="restore the file or start a new workdir")) from error
    config = shipped.common()
    for key, value in stored.items():
        _set(config, key, typed(value, _at(config, key), f"config.json: config.{key}"))
    return config.lock()


def config_hash(config: ConfigDict) -> str:
    """sha256 (hex) of the resolved config, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(resolved(config), sort_keys=True).encode()).hexdigest()


def diff(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """{dotted key: (old value, new value)} of the keys that differ."""
    before, after = flat(old), flat(new)
    return {key: (before[key], after[key]) for key in sorted(before) if before[key] != after[key]}


def _find(spec: str) -> tuple[Path, str | None]:
    """The config file that a spec names and its argument."""
    head, separator, tail = spec.partition(".py:")
    if separator or spec.endswith(".py"):
        path = Path(head + ".py" if separator else spec).expanduser()
        if not path.is_file():
            raise errors.ConfigError(errors.explain(
                "--config", expected="a config file", found=f"no file {path}", do="check the path"))
        return path, tail if separator else None
    name, separator, arg = spec.partition(":")
    if name.replace("-", "_") not in names():
        raise errors.ConfigError(errors.explain(
            "--config", expected="a shipped config or FILE.py", found=repr(name),
            do=flag_reading.closest(name, names())))
    return shipped.folder() / f"{name.replace('-', '_')}.py", arg if separator else None


def _get_config(path: Path, arg: str | None) -> ConfigDict:
    """What the file's `get_config` returns."""
    shipped.folder()  # so that `from lit_tune.configs import common` works inside it
    spec = importlib.util.spec_from_file_location("lit_tune_config_file", path)
    module = importlib.util.module_from_spec(spec)
    _in_file(path, lambda: spec.loader.exec_module(module))
    if not hasattr(module, "get_config"):
        raise errors.ConfigError(errors.explain(
            path.name, expected="a function get_config", found="none", do="see configs/finetune.py"))
    return _in_file(path, lambda: module.get_config() if arg is None else module.get_config(arg))


def _in_file(path: Path, call: Callable[[], Any]) -> Any:
    """What `call` returns; whatever it raises is about the config file and told with its line."""
    try:
        return call()
    except Exception as error:  # any: it is the user's code
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 1
        raise errors.ConfigError(f"{path}, line {line}: {type(error).__name__}: {error}") from error


def _at(config: ConfigDict, key: str) -> Any:
    """The value at a dotted key, which has to be one."""
    value, known = config, list(flat(config))
    for name in key.split("."):
        if not isinstance(value, ConfigDict) or name not in value:
            raise errors.ConfigError(errors.explain(
                f"config.{key}", expected="a key of configs/common.py", found="an unknown one",
                do=_nearest(key, known)))
        value = value[name]
    if isinstance(value, ConfigDict):
        raise errors.ConfigError(errors.explain(
            f"config.{key}", expected="one key", found="a whole section",
            do=f"set its keys: {', '.join(value)}"))
    return value


def _set(config: ConfigDict, key: str, value: Any) -> None:
    """Put a value at a dotted key."""
    *sections, last = key.split(".")
    for name in sections:
        config = config[name]
    config[last] = value


def _nearest(key: str, known: list[str]) -> str:
    """A suggestion for a mistyped key: the nearest full name, or a key of that last name in another section."""
    same_name = [other for other in known if other.split(".")[-1] == key.split(".")[-1]]
    if same_name:
        return f"did you mean config.{same_name[0]}?"
    section = [other for other in known if other.split(".")[:-1] == key.split(".")[:-1]]
    near = flag_reading.closest(key, known)
    if near.startswith("did"):
        return near.replace("mean ", "mean config.")
    return flag_reading.closest(key, section or known)


def _literal(text: str, like: Any) -> Any:
    """The Python value that a text on the command line stands for, given what it replaces."""
    if isinstance(like, str):
        return text
    if isinstance(like, bool):
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if isinstance(like, float):
        return _or_text(float, text)
    value = _or_text(ast.literal_eval, text)
    names_only = isinstance(like, tuple) and (not like or isinstance(like[0], str))
    return (text,) if names_only and not isinstance(value, list | tuple) else value


def _or_text(read: Callable[[str], Any], text: str) -> Any:
    """What `read` makes of a text, or the text itself, whose type then says what is wrong."""
    try:
        return read(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _kind(like: Any) -> str:
    """A type in the words of an error message."""
    if isinstance(like, tuple):
        return f"{len(like)} numbers" if like and not isinstance(like[0], str) else "names"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[type(like)]
