"""`lit-tune SUB ...`: find the module lit_tune.SUB, run its `main(argv)`, turn user errors into one line.

`python -m lit_tune.SUB ...` is the same program: each such module ends in `sys.exit(cli.run(main))`. Nothing here
imports jax, so that help and a mistyped command line answer at once.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from lit_tune import __version__, errors, flag_reading, flags, supervisor
from lit_tune.redaction import redact

CLOSED_PIPE = 141  # what a shell shows for a program ended by SIGPIPE
INTERRUPTED = 130  # what a shell expects of a program ended by Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of `lit-tune ARGV`; `argv` without the program's own name, by default this process's."""
    return run(dispatch, argv)


def run(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """The exit code of a subcommand's `main`, with every LitTuneError told in one line on stderr.

    Anything else that is raised is a bug of ours and passes through with its traceback (exit code 1).
    """
    try:
        return command(sys.argv[1:] if argv is None else argv) or 0
    except errors.LitTuneError as error:
        return report(error)
    except BrokenPipeError:  # the reader of our output, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains while it exits
        return CLOSED_PIPE
    except KeyboardInterrupt:
        print("lit-tune: interrupted", file=sys.stderr)
        return INTERRUPTED


def report(error: errors.LitTuneError) -> int:
    """Tell a user error in one line on stderr; its exit code."""
    print("lit-tune:", errors.printable(redact(" ".join(str(error).split()))), file=sys.stderr)
    return error.exit_code


def dispatch(argv: Sequence[str]) -> int:
    """Run the subcommand that `argv` starts with."""
    name = argv[0].replace("-", "_") if argv and not argv[0].startswith("-") else ""
    if name in flags.COMMANDS:
        if flag_reading.asks_for_help(argv[1:]):
            print(flag_reading.help_text(name))
            return 0
        if name == "train" and supervisor.asked(argv[1:]):
            return supervisor.main(argv[1:])
        return importlib.import_module(module_of(name)).main(argv[1:])
    if name:
        raise errors.ConfigError(errors.explain(
            name, expected="a subcommand", found="an unknown one",
            do=flag_reading.closest(name, [command.replace("_", "-") for command in flags.COMMANDS])))
    if "--version" in argv:
        print(__version__)
        return 0
    print(overview(), file=sys.stdout if flag_reading.asks_for_help(argv) else sys.stderr)
    return 0 if flag_reading.asks_for_help(argv) else errors.ConfigError.exit_code


def module_of(command: str) -> str:
    """The module that holds a subcommand's `main`; `data` is the one that is a package."""
    return "lit_tune.data.__main__" if command == "data" else f"lit_tune.{command}"


def overview() -> str:
    """What `lit-tune --help` prints."""
    lines = ["lit-tune SUB [--flag=value ...]   (`lit-tune SUB --help` lists its flags)", ""]
    lines += [f"  {name.replace('_', '-'):<12} {command.__doc__}" for name, command in flags.COMMANDS.items()]
    return "\n".join(lines)


def answer_help(command: str) -> None:
    """End the process with a subcommand's help, if it was asked for.

    A module that imports jax calls this under `if __name__ == "__main__"` before those imports.
    """
    if flag_reading.asks_for_help(sys.argv[1:]):
        print(flag_reading.help_text(command))
        sys.exit(0)


def supervise() -> None:
    """End the process as `train` ended under --restarts, if that was asked for; before jax is imported."""
    try:
        asked = supervisor.asked(sys.argv[1:])
    except errors.LitTuneError as error:
        sys.exit(report(error))
    if asked:
        sys.exit(run(supervisor.main))
