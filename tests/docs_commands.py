"""Command lines in the pages: found in fenced blocks and in `inline code`, cut into words as a shell would.

What is a placeholder: a word in capitals (FOLDER, DIR, X.npz, GLOB_OR_TAR), `...`, a shell variable. In a usage line
`[--flag=VALUE]` may be left out. Everything else has to be right.
"""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.[mi]*"))]
NOT_SHELL = ("python", "json", "yaml", "text", "svg")  # languages of fenced blocks
OURS = "lit-tune"
# Programs that a page may name beside ours. What can be said about their words is in test_docs_commands.py.
OTHERS = ("python", "python3", "pip", "pytest", "git", "cd", "export", "source", ".", "gcloud", "img2dataset", "docker",
          "kubectl", "xpk", "sky", "sudo", "tail", "hf", "jupyter")
# Scripts that are not ours: each in the clone of the repository that the page names.
PEERS_SCRIPTS = ("download_upstream.py",)
OPERATORS = ("&&", "||", ";", "|", "&", ">", ">>", "<")
SHELL_WORDS = ("do", "then", "else", "time")  # a command follows
PLACEHOLDER = re.compile(r"\.\.\.|[A-Z][A-Z0-9_]*(@[A-Z])?(\.\w+)?/?|[A-Z](,[A-Z])+|[A-Z]([/:][A-Z])+|.*\$.*")


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Attributes:
        page: where it stands, for messages.
        words: as a shell would cut them, variables set before it left out.
        whole: it is a line to be typed, in a fenced block; else it is named in the text and may lack flags.
    """

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def commands() -> list[Command]:
    """All of them, page by page."""
    return [command for page in PAGES for command in of_page(page.relative_to(ROOT).as_posix(), text_of(page))]


def text_of(page: Path) -> str:
    """A page as Markdown; of a notebook the cells that are."""
    if page.suffix != ".ipynb":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def of_page(name: str, text: str) -> Iterator[Command]:
    """The commands of a page: every line of a ```bash block, and elsewhere what starts with a known program."""
    for language, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.M | re.S):
        if language not in NOT_SHELL:
            for line in block.replace("\\\n", " ").splitlines():
                yield from _of_line(name, line, whole=True, shell=language in ("bash", "sh"))
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    for code in re.findall(r"`([^`]+)`", prose):
        yield from _of_line(name, " ".join(code.split()), whole=False, shell=False)


def _of_line(name: str, line: str, *, whole: bool, shell: bool) -> Iterator[Command]:
    """The commands of one line; of a block that is not said to be shell only those of a known program."""
    if not shell and not line.strip().startswith((OURS, "for ", *(f"{program} " for program in OTHERS))):
        return
    for words in _simple(_words(line)):
        while words and (words[0] in SHELL_WORDS or re.fullmatch(r"[A-Z_]+=.*", words[0])):
            words = words[1:]
        if words and words[0] not in ("for", "done", "fi", "if"):
            yield Command(name, tuple(words), whole and "..." not in words)


def _words(line: str) -> list[str]:
    """A line's words and operators, comments left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    return list(lexer)


def _simple(words: list[str]) -> Iterator[list[str]]:
    """The commands between the operators."""
    found: list[str] = []
    for word in [*words, ";"]:
        if word not in OPERATORS:
            found.append(word)
            continue
        yield found
        found = []


def without_brackets(words: tuple[str, ...]) -> list[str]:
    """The words of a usage line, what may be left out included: [--flag=VALUE ...] -> --flag=VALUE."""
    found, open_ = [], False
    for word in words:
        starts = word.startswith("[-") or re.fullmatch(r"\[[A-Z_]+\]", word) is not None
        open_ = open_ or starts
        word = word.removeprefix("[") if starts else word
        if open_ and word.endswith("]"):
            word, open_ = word.removesuffix("]"), False
        found.append(word)
    return [word for word in found if word != "..."]


def is_placeholder(text: str) -> bool:
    """Whether a word only stands for one."""
    return PLACEHOLDER.fullmatch(text) is not None
