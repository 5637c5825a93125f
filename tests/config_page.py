"""docs/reference-config.md: every key of configs/common.py with its default, what it accepts and its meaning.

Section, key, default and comment are read from the source, so that the page says what the file says; what a key accepts
is what `lit_tune.config_check` refuses. `python tests/config_page.py` writes the page; a test holds it to the file.
"""

import ast
import io
import tokenize
from dataclasses import dataclass
from pathlib import Path

from lit_tune import config_check

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "configs" / "common.py"
PAGE = TESTS.parent / "docs" / "reference-config.md"
INTRO = """# Every setting

Written by `python tests/config_page.py` from [configs/common.py](../configs/common.py); how configs work and how values
are written on a command line: [configs.md](configs.md). `--config.SECTION.KEY=VALUE` changes one, for example
`--config.optim.lr=3e-4`. A value outside "accepts" is refused before anything starts; `[` and `]` belong to a range,
`(` and `)` do not. Tuples of two are (height, width) where they are sizes.
"""
HEAD = ("| key | default | accepts | meaning |", "| --- | --- | --- | --- |")


@dataclass(frozen=True)
class Key:
    """A line of configs/common.py."""

    name: str  # dotted
    default: str  # as it is written there
    meaning: str  # its comment


@dataclass(frozen=True)
class Section:
    """A function of configs/common.py."""

    name: str  # "" for the keys that belong to none
    about: str  # its docstring
    keys: tuple[Key, ...]


def sections(source: str) -> list[Section]:
    """The sections in the order of `get_config`, the keys outside of any first."""
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    comments = _comments(source)
    top, found = [], []
    for name, value in _assigned(functions["get_config"]):
        if isinstance(value, ast.Call):  # c.optim = optim()
            function = functions[value.func.id]
            keys = tuple(_key(f"{name}.{key}", value, source, comments) for key, value in _assigned(function))
            found.append(Section(name, " ".join(ast.get_docstring(function).split()), keys))
        else:
            top.append(_key(name, value, source, comments))
    return [Section("", "Of the run as a whole.", tuple(top)), *found]


def _assigned(function: ast.FunctionDef) -> list[tuple[str, ast.expr]]:
    """(name, value) of each `c.name = value`."""
    return [(node.targets[0].attr, node.value) for node in function.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)]


def _key(name: str, value: ast.expr, source: str, comments: dict[int, tuple[int, str]]) -> Key:
    """A key with the comment behind it, and those that stand alone on the lines below."""
    line, words = value.end_lineno, []
    while line in comments and (line == value.end_lineno or comments[line][0] == 4):
        words.append(comments[line][1])
        line += 1
    return Key(name, ast.get_source_segment(source, value), " ".join(words))


def _comments(source: str) -> dict[int, tuple[int, str]]:
    """{line: (column, text)} of every comment; one that stands alone has the column of the code, 4."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: (token.start[1], token.string.removeprefix("#").strip())
            for token in tokens if token.type == tokenize.COMMENT}


def accepts(name: str) -> str:
    """What `config_check` lets through, "" where it knows no rule for the value alone."""
    if name in config_check.CHOICES:
        return ", ".join(config_check.CHOICES[name])
    return config_check.RANGES.get(name, "")


def page(source: str) -> str:
    """The whole page."""
    lines = [INTRO]
    for section in sections(source):
        lines += [f"## {section.name or 'The run'}", "", section.about, "", *HEAD]
        lines += [f"| `{key.name}` | {_code(key.default)} | {_text(accepts(key.name))} | {_text(key.meaning)} |"
                  for key in section.keys]
        lines.append("")
    return "\n".join(lines)


def _code(text: str) -> str:
    """A default as code in a table."""
    return f"`{text}`".replace("|", "\\|")


def _text(text: str) -> str:
    """Words in a table, none of them taken for Markdown."""
    for sign in "|*<":
        text = text.replace(sign, f"\\{sign}")
    return text


if __name__ == "__main__":
    PAGE.write_text(page(SOURCE.read_text()))
