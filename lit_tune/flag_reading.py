"""Read a command line by the flags that a subcommand has (lit_tune.flags), and print its help.

Plain values come out, without global state: `--name=value` or `--name value`, `--name` / `--noname` for switches, `-`
and `_` alike.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from lit_tune import errors
from lit_tune.flags import COMMANDS


def read(argv: Sequence[str], command: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The values of a command line by field name, and its (dotted key, text) changes of the config.

    Raises:
        ConfigError: an unknown flag, a value that does not read, a required flag that is absent.
        SystemExit: help was asked for, and printed.
    """
    if asks_for_help(argv):
        print(help_text(command))
        raise SystemExit(0)
    fields = {spelled(field): field for field in dataclasses.fields(COMMANDS[command])}
    values: dict[str, Any] = {}
    changes: list[tuple[str, str]] = []
    positional: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            positional += rest if word == "--" else [word]
            rest = [] if word == "--" else rest
            continue
        name, equals, text = word[2:].partition("=")
        name = name.replace("-", "_")
        if name.startswith("config.") and "config" in fields:
            changes.append((name.removeprefix("config."), text if equals else _next(rest, name)))
            continue
        field, negated = _find(name, fields, command)
        if isinstance(field.default, bool):
            values[field.name] = _switch(name, text if equals else "true") != negated
        else:
            values[field.name] = _value(field, text if equals else _next(rest, name))
    _place(positional, fields, values, command)
    _complete(fields, values, command)
    return values, changes


def spelled(field: dataclasses.Field) -> str:
    """A field's name as a flag: `from` is a word of Python's, so its field is `from_`."""
    return field.name.rstrip("_")


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether a command line asks for help."""
    return any(word in ("--help", "-h", "--helpshort", "--helpfull") for word in argv)


def help_text(command: str) -> str:
    """What `lit-tune COMMAND --help` prints."""
    flags = COMMANDS[command]
    lines = [f"lit-tune {command.replace('_', '-')}: {flags.__doc__}", ""]
    for field in dataclasses.fields(flags):
        switch = isinstance(field.default, bool)
        form = field.metadata["form"] if field.name == "args" else f"--{spelled(field)}" + (
            "" if switch else f"={field.metadata['form']}")
        default = "" if switch or field.default in (None, (), "", -1) else f" (default {field.default})"
        required = " (required)" if field.metadata["required"] else ""
        lines.append(f"  {form:<38} {field.metadata['meaning']}{default}{required}")
    if "config" in {field.name for field in dataclasses.fields(flags)}:
        lines.append(f"  {'--config.SECTION.KEY=VALUE':<38} change any key of configs/common.py")
    return "\n".join(lines)


def closest(word: str, known: Sequence[str]) -> str:
    """`did you mean X?` for a near miss, else the list of what there is."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"


def _find(name: str, fields: dict[str, dataclasses.Field], command: str) -> tuple[dataclasses.Field, bool]:
    """The field of a flag, and whether `no` stood before a switch's name."""
    known = {key: field for key, field in fields.items() if key != "args"}
    if name in known:
        return known[name], False
    positive = known.get(name.removeprefix("no"))
    if positive is not None and isinstance(positive.default, bool):
        return positive, True
    raise errors.ConfigError(errors.explain(
        f"--{name}", expected=f"a flag of {command}", found="an unknown one",
        do=closest(f"--{name}", [f"--{key}" for key in known])))


def _next(rest: list[str], name: str) -> str:
    """The word after a flag that was written without `=`."""
    if not rest or rest[0].startswith("--"):
        raise errors.ConfigError(errors.explain(f"--{name}", expected="a value", found="none",
                                                do=f"write --{name}=VALUE"))
    return rest.pop(0)


def _switch(name: str, text: str) -> bool:
    """The truth of a switch's value."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise errors.ConfigError(errors.explain(f"--{name}", expected="true or false", found=repr(text),
                                                do=f"write --{name} or --no{name}"))
    return text.lower() in ("true", "1")


def _value(field: dataclasses.Field, text: str) -> Any:
    """The value that a flag's text stands for."""
    try:
        return field.metadata["read"](text)
    except ValueError as error:
        name, form = spelled(field), field.metadata["form"]
        raise errors.ConfigError(errors.explain(
            f"--{name}", expected=form, found=f"{text!r} ({error})", do=f"write --{name}={form}")) from error


def _place(positional: list[str], fields: dict[str, dataclasses.Field], values: dict[str, Any], command: str) -> None:
    """Put words that belong to no flag into `args`, where a command has it."""
    if positional and "args" not in fields:
        raise errors.ConfigError(errors.explain(
            command, expected="flags only", found=repr(positional[0]), do=f"see lit-tune {command} --help"))
    if positional:
        values["args"] = tuple(positional)


def _complete(fields: dict[str, dataclasses.Field], values: dict[str, Any], command: str) -> None:
    """Refuse a command line that lacks a required flag."""
    for name, field in fields.items():
        if field.metadata["required"] and field.name not in values:
            raise errors.ConfigError(errors.explain(
                command, expected=f"--{name}={field.metadata['form']}", found="no such flag",
                do=f"add it ({field.metadata['meaning']})"))
