"""The command line as a user meets it: fast help, one line for every mistake, exit codes that a script may rely on."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_tune import __version__, cli, errors, flag_reading, flags
from lit_tune.config import parse

ROOT = Path(__file__).parents[1]


def lit_tune(*argv: str) -> subprocess.CompletedProcess:
    """A finished `python -m lit_tune ARGV`."""
    return subprocess.run([sys.executable, "-m", "lit_tune", *argv], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("name", ["", *flags.COMMANDS])
def test_help_comes_within_a_second_and_loads_no_jax(name: str) -> None:
    argv = [name, "--help"] if name else ["--help"]
    code = f"import sys; from lit_tune import cli; cli.main({argv}); sys.exit('jax' in sys.modules)"
    start = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and "lit-tune" in result.stdout, result.stderr
    assert time.monotonic() - start < 5  # a second on an idle core; the machine that tests has others to do


@pytest.mark.parametrize("name", [*flags.COMMANDS])
def test_every_listed_subcommand_exists_as_a_module(name: str) -> None:
    assert importlib.util.find_spec(cli.module_of(name)) is not None


@pytest.mark.parametrize("name", [*flags.COMMANDS])
def test_help_of_a_module_is_that_of_the_subcommand_and_loads_no_jax(name: str) -> None:
    argv = [sys.executable, "-X", "importtime", "-m", f"lit_tune.{name}", "--help"]
    result = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and result.stdout == flag_reading.help_text(name) + "\n"
    loaded = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "jax" not in loaded, f"call cli.answer_help({name!r}) under __main__ before jax is imported"


def test_help_overview_lists_every_subcommand_once() -> None:
    listed = [line.split()[0] for line in cli.overview().splitlines() if line.startswith("  ")]
    assert listed == [name.replace("_", "-") for name in flags.COMMANDS]


def test_version_is_printed() -> None:
    assert lit_tune("--version").stdout == f"{__version__}\n"


@pytest.mark.parametrize("argv, says", [
    (["trian"], "did you mean train?"),
    (["train", "--config=quickstart", "--wrkdir=x"], "did you mean --workdir?"),
    (["train", "--config=quickstart", "--workdir"], "expected a value"),
    (["train", "--config=quickstart"], "--workdir=DIR"),
    (["train", "--workdir=x"], "--config=NAME"),
    (["train", "--config=quickstrat", "--workdir=x"], "did you mean quickstart?"),
    (["train", "--config=nowhere/x.py", "--workdir=x"], "no file nowhere/x.py"),
    (["train", "--config=quickstart:prod", "--workdir=x"], "not 'prod'"),
    (["train", "--config=finetune:dev", "--workdir=x"], "get_config()"),
    (["train", "--config=quickstart", "--workdir=x", "--config.optim.lrr=1"], "did you mean config.optim.lr?"),
    (["train", "--config=quickstart", "--workdir=x", "--config.lr=1"], "did you mean config.optim.lr?"),
    (["train", "--config=quickstart", "--workdir=x", "--config.optim=1"], "a whole section"),
    (["train", "--config=quickstart", "--workdir=x", "--config.optim.lr=fast"], "expected a number, found 'fast'"),
    (["train", "--config=quickstart", "--workdir=x", "--config.total_steps=2.5"], "expected a whole number, found 2.5"),
    (["train", "--config=quickstart", "--workdir=x", "--config.vision.rope=maybe"], "expected true or false"),
    (["train", "--config=quickstart", "--workdir=x", "--config.vision.image_size=48"], "expected 2 numbers"),
    (["train", "--config=quickstart", "--workdir=x", "--config.data.mean=__import__('os')"], "expected 3 numbers"),
    (["train", "--config=quickstart", "--workdir=x", "--skip_batches=9:3"], "expected A:B"),
    (["train", "--config=quickstart", "--workdir=x", "--debug_fault=fire@3"], "KIND@STEP"),
    (["train", "--config=quickstart", "--workdir=x", "--debug_fault=fire@3"], "nan, spike, stuck, slow_save"),
    (["data", "convert", "shards", "--to=tar", "--out=gs://bucket/small"], "an address: this is written to a disk"),
    (["export", "--workdir=x", "--out=s3://bucket/x"], "an address"),
    (["train", "--config=quickstart", "--workdir=x", "--debug_fault=nan@3:1"], "always on all processes"),
    (["train", "--config=quickstart", "--workdir=x", "--debug_fault=raise@-3"], "less than 0"),
    (["train", "--config=quickstart", "--workdir=x", "--restarts=-1"], "less than 0"),
    (["train", "--config=quickstart", "--workdir=x", "more"], "expected flags only"),
    (["train", "--config=quickstart", "--workdir=x", "--extend=perhaps"], "--noextend"),
])
def test_a_mistyped_command_line_is_refused_in_one_line(argv: list[str], says: str) -> None:
    with pytest.raises(errors.ConfigError, match=".") as caught:
        parse(argv[1:], argv[0]) if argv[0] in flags.COMMANDS else cli.dispatch(argv)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_mistyped_command_line_exits_with_2_in_seconds_and_without_jax() -> None:
    start = time.monotonic()
    result = lit_tune("trian", "--config=quickstart")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert time.monotonic() - start < 5


def test_dashes_and_underscores_are_the_same(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["cache-text", "--help"]) == cli.main(["cache_text", "--help"]) == 0
    one, other = (parse(["--config=quickstart", "--workdir=x", flag], "train")
                  for flag in ("--max-samples=3", "--max_samples=3"))
    assert one == other and one.max_samples == 3
    keyed = parse(["--config=nomic-embed-vision-v1-5", "--workdir=x", "--config.optim.warmup-steps=7"], "train")
    assert keyed.config.optim.warmup_steps == 7


def test_a_closed_pipe_ends_without_a_traceback() -> None:
    command = f"{sys.executable} -u -m lit_tune --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode in (0, 141) and done.stderr == ""


def test_flags_are_read_by_type_with_or_without_an_equals_sign() -> None:
    found = parse(["--config", "quickstart", "--workdir", "x", "--extend", "--skip_batches=3:9",
                   "--debug_fault=nan@7", "--process_id", "2"], "train")
    assert (found.workdir, found.extend, found.skip_batches, found.debug_fault, found.process_id) == (
        "x", True, (3, 9), ("nan", 7, None), 2)
    assert parse(["--config=quickstart", "--workdir=x", "--extend", "--noextend"], "train").extend is False
    assert parse(["--model=m", "--index=i", "red", "--top=3", "cat"], "search").args == ("red", "cat")
    assert parse(["--workdir=w", "--tasks=a,b"], "eval").tasks == ("a", "b")


@pytest.mark.parametrize("error", [errors.LitTuneError, errors.ConfigError, errors.NumbersError, errors.DataError,
                                   errors.CheckpointError, errors.HangError])
def test_user_errors_become_one_line_and_their_exit_code(error: type, capsys: pytest.CaptureFixture) -> None:
    def command(argv: list[str]) -> int:
        raise error("first\n  second")

    assert cli.run(command, []) == error.exit_code
    assert capsys.readouterr() == ("", "lit-tune: first second\n")


def test_an_interrupt_is_no_traceback_and_a_bug_keeps_its_own(capsys: pytest.CaptureFixture) -> None:
    def interrupted(argv: list[str]) -> int:
        raise KeyboardInterrupt

    def broken(argv: list[str]) -> int:
        raise ZeroDivisionError("a bug")

    assert cli.run(interrupted, []) == 130
    assert capsys.readouterr().err == "lit-tune: interrupted\n"
    with pytest.raises(ZeroDivisionError):
        cli.run(broken, [])
