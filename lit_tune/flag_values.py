"""What the text of a flag stands for: functions that return its value, or raise ValueError for a text they refuse."""

from lit_tune import debug_faults


def whole(text: str) -> int:
    """A whole number; underscores may group its digits."""
    return int(text, 10)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if whole(text) < 1:
        raise ValueError("less than 1")
    return whole(text)


def from_zero(text: str) -> int:
    """A whole number of at least 0."""
    if whole(text) < 0:
        raise ValueError("less than 0")
    return whole(text)


def here(text: str) -> str:
    """A path on this machine; an address would be taken for the name of a folder."""
    if "://" in text:
        raise ValueError("an address: this is written to a disk here, copy it there afterwards")
    return text


def share(text: str) -> float:
    """A number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise ValueError("not in [0, 1]")
    return float(text)


def one_of(text: str) -> tuple[int, int]:
    """(I, N) of "I/N" with 1 <= I <= N."""
    number, count = (whole(part) for part in text.split("/"))
    if not 1 <= number <= count:
        raise ValueError(f"{number} is not from 1 to {count}")
    return number, count


def words(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated list, empty ones left out."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def wholes(text: str) -> tuple[int, ...]:
    """A comma-separated list of whole numbers of at least 1."""
    return tuple(positive(word) for word in words(text))


def step_range(text: str) -> tuple[int, int]:
    """(A, B) of "A:B", a half-open range of steps with 0 <= A < B."""
    start, stop = (whole(part) for part in text.split(":"))
    if not 0 <= start < stop:
        raise ValueError(f"{text} is empty or negative")
    return start, stop


def fault(text: str) -> tuple[str, int, int | None]:
    """(kind, step, process or None for all) of "KIND@STEP[:PROCESS]"."""
    kind, _, place = text.partition("@")
    step, _, process = place.partition(":")
    if kind not in debug_faults.KINDS:
        raise ValueError(f"the kinds of fault are {', '.join(debug_faults.KINDS)}")
    if kind in debug_faults.FACTORS and process:
        raise ValueError(f"{kind} is always on all processes: the loss is one number of all")
    return kind, from_zero(step), from_zero(process) if process else None


def truth(text: str) -> bool:
    """True or False of "true" or "false"."""
    if text.lower() not in ("true", "false"):
        raise ValueError("neither")
    return text.lower() == "true"
