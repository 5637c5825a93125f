"""What a check has found: one line that names the thing, what was expected, what is there and what to do."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from lit_tune.errors import LitTuneError, explain


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        check: which check has found it, one word.
        line: in the words of `errors.explain`.
        blocks: it stands in the way of a run; else it is a warning.
    """

    check: str
    line: str
    blocks: bool = True

    @property
    def level(self) -> str:
        """problem | warning."""
        return "problem" if self.blocks else "warning"

    def as_json(self) -> dict[str, str]:
        """level, check, line."""
        words = asdict(self)
        return {"level": self.level, "check": words["check"], "line": words["line"]}


def problem(check: str, what: str, *, expected: object, found: object, do: str) -> Finding:
    """A fault that stands in the way; the words are those of `errors.explain`."""
    return Finding(check, explain(what, expected=expected, found=found, do=do))


def warning(check: str, what: str, *, expected: object, found: object, do: str) -> Finding:
    """A fault that a run can live with."""
    return Finding(check, explain(what, expected=expected, found=found, do=do), blocks=False)


def refused(check: str, call: Callable[[], object]) -> list[Finding]:
    """What the program itself refuses: the error of `call` as a problem, nothing where it returns."""
    try:
        call()
    except LitTuneError as error:
        return [Finding(check, " ".join(str(error).split()))]
    return []
