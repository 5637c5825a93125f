"""The errors a user can cause, each with the exit code that a script may rely on."""

from lit_tune.redaction import redact


class LitTuneError(Exception):
    """Anything that ends the program with one line instead of a traceback."""

    exit_code = 1


class ConfigError(LitTuneError):
    """A configuration, a command line or a file named on it is wrong: nothing was started."""

    exit_code = 2


class NumbersError(LitTuneError):
    """Loss or gradients were non-finite too often."""

    exit_code = 3


class DataError(LitTuneError):
    """Training or evaluation data is missing, unreadable or bad beyond the limit."""

    exit_code = 4


class CheckpointError(LitTuneError):
    """No checkpoint can be restored, or saving fails."""

    exit_code = 5


class HangError(LitTuneError):
    """A peer was lost or a deadline passed: restarting is the right answer."""

    exit_code = 75


def printable(line: str) -> str:
    """A line that no caption, key or file name can steer a terminal with: control characters become U+FFFD."""
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def explain(what: str, *, expected: object, found: object, do: str) -> str:
    """One line that names the thing, what was expected, what was found and what to do.

    Args:
        what: the config key, file or flag at fault.
        expected: what would have been accepted.
        found: what is there.
        do: the next thing for the user to type or change.
    """
    line = f"{what}: expected {expected}, found {found}; {do}"
    return redact(" ".join(line.split()))  # one line, whatever the parts held
