"""The fault matrix of docs/reliability.md: what the tests state, found in their source, as a table.

A test that is a row of it says so:

    @pytest.mark.faults(row=1, fault="kill -9 of all processes between two saves", expected="resumes bit for bit")

and tells how long the recovery took with the fixture `recovery` (seconds from the fault, or from the restart that
follows it, until the run was well again). `pytest -m faults` runs all rows; a row that takes more than a few seconds is
marked `slow` too and left out of the plain `pytest`. `python tests/fault_matrix.py [TIMES]` writes the table of the
page, with the times that `pytest -m faults --fault-times=TIMES` measured; without, the page keeps its times.
"""

import ast
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: written by tests/fault_matrix.py -->", "<!-- /faults -->"
HEAD = ("| row | fault | what happens | in plain `pytest` | recovery, s | test |", "| --- " * 6 + "|")


@dataclass(frozen=True, order=True)
class Fault:
    """A row of the matrix, as a test states it."""

    row: int  # of the matrix
    test: str  # file.py::name
    fault: str
    expected: str
    slow: bool  # not in the plain `pytest`


def stated(folder: Path = TESTS) -> list[Fault]:
    """All rows that the tests under a folder state, by number."""
    return sorted(one for path in folder.rglob("test_*.py") for one in _in_file(path, folder))


def _in_file(path: Path, folder: Path) -> Iterator[Fault]:
    """The rows of one file."""
    module = ast.parse(path.read_text())
    whole_file = any("mark.slow" in ast.unparse(node) for node in module.body
                     if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark")
    for node in module.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        marks = [mark for mark in node.decorator_list if ast.unparse(mark).startswith("pytest.mark.faults(")]
        slow = whole_file or any(ast.unparse(mark) == "pytest.mark.slow" for mark in node.decorator_list)
        for mark in marks:
            words = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}
            yield Fault(test=f"{path.relative_to(folder).as_posix()}::{node.name}", slow=slow, **words)


def table(faults: list[Fault], times: Mapping[str, float]) -> str:
    """The rows as Markdown.

    Args:
        faults: of `stated`.
        times: seconds of recovery by test; a test that has none shows a dash.
    """
    lines = []
    for one in faults:
        file, _, name = one.test.partition("::")
        quick = "" if one.slow else "yes"
        lines.append(f"| {one.row} | {one.fault} | {one.expected} | {quick} | {_seconds(times.get(one.test))} | "
                     f"[{name}](../tests/{file}) |")
    return "\n".join([*HEAD, *lines])


def _seconds(value: float | None) -> str:
    """A time as the table shows it."""
    return "-" if value is None else f"{value:.1f}"


def shown(page: str) -> str:
    """The table in the text of the page."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()


def times_of(shown_table: str) -> dict[str, float]:
    """The times in a table that `table` has made, by test."""
    found = {}
    for line in shown_table.splitlines()[len(HEAD):]:
        *_, seconds, link, _ = (cell.strip() for cell in line.split("|"))
        name, _, path = link.strip("[)").partition("](../tests/")
        found |= {} if seconds == "-" else {f"{path}::{name}": float(seconds)}
    return found


def main(times_file: str = "") -> None:
    """Write the table into the page."""
    text = PAGE.read_text()
    times = times_of(shown(text)) | (json.loads(Path(times_file).read_text()) if times_file else {})
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(stated(), times)}\n{END}{after}")


if __name__ == "__main__":
    main(*sys.argv[1:])
