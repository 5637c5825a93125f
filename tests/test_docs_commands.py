"""Every command line in the pages is one that the program takes: flags, values, config names, keys, tasks, slices."""

import ast
import dataclasses
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import docs_commands
import pytest
from docs_commands import OURS, ROOT, Command, is_placeholder
from fake_cloud import Cloud

from lit_tune import bench, config as config_lib, console, errors, exports, flag_reading, flags as flags_lib, plan
from lit_tune.data import __main__ as data_command
from lit_tune.evals import catalog, published
from lit_tune.planning import chips

COMMANDS = docs_commands.commands()
LAUNCHED = [command for command in COMMANDS if command.whole and command.words[0] == "python"
            and command.words[1].startswith("launch/")]  # those of launch/README.md: test_launch_readme.py
PLACES = (("gs://BUCKET", "gs://my-bucket"), ("=PROJECT", "=my-project"), ("=ZONE", "=us-east5-b"))
STANDS_FOR = ("x", "1", "1/2", "0:1", "nan@1", "true", "0.5")  # tried for a placeholder until the flag takes one
PLAIN_CONFIG = "quickstart"  # in the place of one that is only a placeholder
LIKES = config_lib.flat(config_lib.load(PLAIN_CONFIG))  # a value of the type of each key


def check(command: Command) -> None:
    """Raise what is wrong with a command of a page, an AssertionError or the program's own error."""
    program, *words = docs_commands.without_brackets(command.words)
    if program == OURS:
        ours(words, whole=command.whole)
    elif program.startswith("launch/"):
        assert (ROOT / program).is_file(), f"no {program}"
    else:
        assert program in docs_commands.OTHERS, f"{program} is no known program"
        {"python": python, "python3": python, "pip": pip, "pytest": pytest_line}.get(program, on_machines)(
            words, command.whole)


def ours(words: list[str], *, whole: bool) -> None:
    """A line of `lit-tune`."""
    if not words or words == ["--help"] or is_placeholder(words[0]):
        return
    name, rest = words[0].replace("-", "_"), words[1:]
    assert name in flags_lib.COMMANDS, f"no subcommand {words[0]}"
    if "--help" in rest:
        return
    values, changes, known = parsed(name, rest, whole)
    if "config" in values:
        values["config"] = configured(values["config"], changes, known and whole and name == "train")
    elif changes:
        configured(PLAIN_CONFIG, changes, False)
    read = flags_lib.COMMANDS[name](**values)
    CLOSER.get(name, lambda *_: None)(read, whole)


def parsed(name: str, words: list[str], whole: bool) -> tuple[dict, list[tuple[str, str]], bool]:
    """(values, changes, whether the config is a real one) as the program reads them, placeholders filled in."""
    fields = {flag_reading.spelled(field): field for field in dataclasses.fields(flags_lib.COMMANDS[name])}
    filled, known = [], True
    for word in words:
        flag, equals, value = word.partition("=")
        key = flag.removeprefix("--").replace("-", "_")
        if key == "config" and equals and (is_placeholder(value) or value.endswith(".py")):
            known, word = False, f"--config={PLAIN_CONFIG}"
        elif key.startswith("config.") and key.removeprefix("config.").isupper():
            continue  # --config.SECTION.KEY=VALUE
        elif flag.startswith("--") and equals and is_placeholder(value) and key in fields:
            word = f"{flag}={stand_in(fields[key])}"
        filled.append(word)
    if not whole:  # named in the text: what is required may be missing there, a flag's value too
        filled = [f"{word}=true" if word.startswith("--") and "=" not in word and not switch(word, fields)
                  and not word.startswith("--no") else word for word in filled]
        given = {word.partition("=")[0].removeprefix("--") for word in filled}
        filled += [f"--{flag}={PLAIN_CONFIG if flag == 'config' else stand_in(field)}"
                   for flag, field in fields.items() if field.metadata["required"] and flag not in given]
    values, changes = flag_reading.read(filled, name)
    return values, changes, known


def switch(word: str, fields: dict[str, dataclasses.Field]) -> bool:
    """Whether a flag needs no value."""
    key = word.removeprefix("--").replace("-", "_")
    return key in fields and isinstance(fields[key].default, bool)


def stand_in(field: dataclasses.Field) -> str:
    """A value that a flag takes."""
    form = field.metadata["form"]
    if "|" in form:
        return form.split("|")[0]
    if flag_reading.spelled(field) == "topology":
        return "v5e-8"
    for text in STANDS_FOR:
        try:
            field.metadata["read"](text)
        except ValueError:
            continue
        return text
    raise AssertionError(f"no value for {field.name}")


def configured(spec: str, changes: list[tuple[str, str]], closer: bool) -> object:
    """The config with the changes of the command line; with `closer` also as `train` checks it before it starts."""
    def filled(key: str, text: str) -> tuple[str, str]:
        number = isinstance(LIKES.get(key), int | float) and not isinstance(LIKES.get(key), bool)
        return key, "1" if number and is_placeholder(text) else text

    # a folder that a line only names has no description to read
    config = config_lib.load(spec, [*(filled(*change) for change in changes), ("vision.init_spec", "false")])
    if closer:
        config_lib.check(config, files=False)
    return config


def data(read: flags_lib.DataFlags, whole: bool) -> None:
    """`lit-tune data`: the verb, its data, and flags that the verb takes."""
    assert read.args and read.args[0] in data_command.ACTIONS, read.args
    if whole:
        spec_count = 0 if read.args == ("bench",) else 1
        assert len(read.args) == 1 + spec_count, f"{read.args[1:]}: one word for the data; comments begin with #"
        data_command._refuse_others(read, data_command.ACTIONS[read.args[0]][1])


def planned(read: flags_lib.PlanFlags, whole: bool) -> None:
    """`lit-tune plan`: slices that exist, flags that go together, a config that fits them."""
    if whole:
        plan._check(read, tuple(chips.parse(name, read.slices) for name in read.topology))


def evaluated(read: flags_lib.EvalFlags, whole: bool) -> None:
    """`lit-tune eval`: tasks that exist, published systems that are recorded."""
    for task in read.tasks:
        if "=" not in task and not task.startswith("mteb:") and not is_placeholder(task) and whole:
            catalog.expand(task)
    for system in read.args:
        if system.startswith("published:") and not is_placeholder(system.removeprefix("published:")):
            assert system.removeprefix("published:") in published.names(), system


def benched(read: flags_lib.BenchFlags, whole: bool) -> None:
    """`lit-tune bench`: a part that exists."""
    if read.args or whole:
        bench._part(read)


def exported(read: flags_lib.ExportFlags, whole: bool) -> None:
    """`lit-tune export`: a format that exists."""
    exports.known(read.format)


def imported(read: flags_lib.ImportFlags, whole: bool) -> None:
    """`lit-tune import`: names that exist."""
    form = next(field for field in dataclasses.fields(read) if field.name == "from_").metadata["form"]
    assert read.from_ in form.split("|")


CLOSER: dict[str, Callable] = {"data": data, "plan": planned, "eval": evaluated, "bench": benched, "export": exported,
                               "import": imported}


def python(words: list[str], whole: bool) -> None:
    """`python -m MODULE ...` or `python FILE`: they are there, and flags of ours are right."""
    if words[:1] == ["-m"]:
        name = words[1].removeprefix("lit_tune.").replace("-", "_")
        if words[1].startswith("lit_tune.") and name in flags_lib.COMMANDS:
            return ours([name, *words[2:]], whole=whole)
        known = {"pytest": pytest_line, "pip": pip}
        if words[1] in known:
            return known[words[1]](words[2:], whole)
        assert is_placeholder(words[1]) or importlib.util.find_spec(words[1]) is not None, f"no module {words[1]}"
    elif words and words[0].endswith(".py"):
        assert words[0] in docs_commands.PEERS_SCRIPTS or (ROOT / words[0]).is_file(), f"no {words[0]}"
        if words[0].startswith("launch/") and "--" in words:
            launched(words[1], words[words.index("--") + 1:])
    return None


def launched(verb: str, words: list[str]) -> None:
    """What a launcher lets `lit-tune` do: it says itself where a run saves; `plan` and `up` need the config alone."""
    if words[0] == "copy":  # worker.sh does that itself
        return
    words = ["train", *words] if words[0].startswith("-") else words
    ours([*words, "--workdir=DIR"] if words[0] == "train" else words, whole=verb in ("run", "resume"))


def on_machines(words: list[str], whole: bool) -> None:
    """A line of another program; what it lets `lit-tune` do elsewhere (gcloud ... --command 'lit-tune ...') is ours."""
    for word in words:
        if f"{OURS} " in word:
            inner = word.partition("=")[2] if word.startswith("--command=") else word
            for command in docs_commands.of_page("inside", f"```bash\n{inner}\n```\n"):
                check(command)


def pip(words: list[str], whole: bool) -> None:
    """`pip install`: extras of ours are in setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    extras = next(ast.unparse(node.value) for node in tree.body
                  if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXTRAS")
    for word in words:
        named = re.fullmatch(r"(?:\.|lit_tune)\[([\w,]+)\]", word)
        for extra in named[1].split(",") if named else ():
            assert f"'{extra}':" in extras, f"no extra {extra}"


def pytest_line(words: list[str], whole: bool) -> None:
    """`pytest`: files that are there, marks that pyproject.toml knows."""
    settings = (ROOT / "pyproject.toml").read_text()
    for position, word in enumerate(words):
        if word == "-m":
            for mark in re.findall(r"\w+", words[position + 1]):
                assert mark in ("not", "and", "or") or re.search(rf'^    "{mark}\b', settings, re.M), f"no mark {mark}"
        elif ".py" in word and "*" not in word:
            assert (ROOT / word.partition("::")[0]).is_file(), f"no {word}"


def test_there_are_commands_in_the_pages() -> None:
    assert len(COMMANDS) > 100 and sum(command.words[0] == OURS for command in COMMANDS) > 70
    assert {"README.md", "docs/plan.md", "docs/import.md"} <= {command.page for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_of_the_pages_is_one_that_the_program_takes(command: Command, capsys: pytest.CaptureFixture) -> None:
    check(command)


def dry_run(folder: Path, command: Command) -> str:
    """What a launcher's line prints with --dry-run and something for its placeholders; it calls nothing."""
    cloud = Cloud(folder, "gcloud", "kubectl", "xpk", "docker", "lit-tune")
    program, verb, *rest = command.words[1:]
    for placeholder, value in PLACES:
        rest = [word.replace(placeholder, value) for word in rest]
    code, output = cloud.launch(Path(program).name, verb, "--dry-run", *rest)
    assert code == 0 and not cloud.calls(), output
    return output


def test_the_launchers_lines_of_the_papers_run_are_taken_and_delete_what_they_made(tmp_path: Path) -> None:
    assert {command.words[2] for command in LAUNCHED} == {"plan", "up", "run", "down"}
    printed = {command.words[2]: dry_run(tmp_path / str(number), command) for number, command in enumerate(LAUNCHED)}
    made, gone = (re.search(rf"queued-resources {word} (\S+)", printed[verb])[1]
                  for verb, word in (("up", "create"), ("down", "delete")))
    assert made == gone == "paper"


@pytest.mark.parametrize("line, says", [
    ("lit-tune trian --config=quickstart --workdir=DIR", "no subcommand trian"),
    ("lit-tune train --config=quickstart", "--workdir=DIR"),
    ("lit-tune train --config=quickstart --workdr=DIR", "did you mean --workdir?"),
    ("lit-tune train --config=quikstart --workdir=DIR", "did you mean quickstart?"),
    ("lit-tune train --config=CONFIG --workdir=DIR --config.optim.rate=1", "unknown"),
    ("lit-tune train --config=quickstart --workdir=DIR --config.optim.lr=fast", "a number"),
    ("lit-tune train --config=quickstart --workdir=DIR --config.optim.lr=-1", "(0, inf)"),
    ("lit-tune data index SHARDS figures of it", "comments begin with #"),
    ("lit-tune data index SHARDS --html=x", "--html"),
    ("lit-tune plan --config=finetune --topology=v9:2x2", "v9:2x2"),
    ("lit-tune eval --model=MODEL --tasks=imagnet", "--tasks"),
    ("lit-tune eval --compare RUN published:nobody", "nobody"),
    ("lit-tune export --workdir=RUN --format=hff --out=X", "--format"),
    ("lit-tune bench stepp", "bench"),
    ("cd x && lit-tune verfy RUN", "no subcommand verfy"),
    ("for i in 1 2; do lit-tune verfy run-$i; done", "no subcommand verfy"),
    ("python -m lit_tune.train --config=quickstart", "--workdir=DIR"),
    ("python -m lit_tune.nothing", "no module"),
    ("python tests/nothing.py", "no tests/nothing.py"),
    ("pip install -e '.[everything]'", "no extra everything"),
    ("pytest -m nothing", "no mark nothing"),
    ("pytest tests/test_nothing.py", "no tests/test_nothing.py"),
    ("launch/nothing up", "no launch/nothing"),
    ("frobnicate now", "no known program"),
    ("python launch/tpu_vm.py run --name=x -- --config=quickstart --config.optim.rate=1", "unknown"),
    ("python launch/tpu_vm.py run --name=x -- trian --config=quickstart", "no subcommand trian"),
    ("gcloud compute tpus tpu-vm ssh N --command 'cd x && lit-tune verfy RUN'", "no subcommand verfy"),
])
def test_a_wrong_line_would_be_found(line: str, says: str) -> None:
    found = list(docs_commands.of_page("page", f"```bash\n{line}  # as it is\n```\n"))
    with pytest.raises((AssertionError, errors.LitTuneError), match=".") as caught:
        for command in found:
            check(command)
    assert says in str(caught.value)


def test_how_lines_are_cut() -> None:
    page = "\n".join(["```bash", "A=1 lit-tune eval --compare RUN \\", "    MODEL | tail -n 1  # two systems", "```",
                      "Type `lit-tune", "plan` or `lit-tune data index [DATA]`, never `this_name`.", "```python",
                      "lit-tune = 3", "```", "```", "lit-tune search DIR", "12 of 20 pictures", "```"])
    found = [(command.words, command.whole) for command in docs_commands.of_page("p", page)]
    assert found == [
        (("lit-tune", "eval", "--compare", "RUN", "MODEL"), True), (("tail", "-n", "1"), True),
        (("lit-tune", "search", "DIR"), True), (("lit-tune", "plan"), False),
        (("lit-tune", "data", "index", "[DATA]"), False)]
    assert docs_commands.without_brackets(("a", "[--b=C", "--d]", "[*].tar", "[E]", "...")) == [
        "a", "--b=C", "--d", "[*].tar", "E"]
    assert [word for word in ("FOLDER", "X.npz", "DIR/", "I/N", "A,B", "...", "run-$i", "quickstart", "v5e-8", "3e-4")
            if is_placeholder(word)] == ["FOLDER", "X.npz", "DIR/", "I/N", "A,B", "...", "run-$i"]


def test_what_the_program_prints_as_the_next_thing_to_type_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_end("runs/mine", {}, has_sets=False)
    lines = re.findall(r"(lit-tune .*)", capsys.readouterr().out)
    assert len(lines) == 4 and "--workdir=runs/next" in lines[-1], "another run than this one"
    for line in lines:
        ours(docs_commands._words(line)[1:], whole=True)
