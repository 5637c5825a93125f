"""Every command line of launch/README.md is one that its program takes, and so are the words that reach lit-tune."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docs_commands
import pytest
from fake_cloud import LAUNCH, Cloud

from lit_tune import config as config_lib, flag_reading, flags
from lit_tune.data import __main__ as data_command
from lit_tune.errors import LitTuneError
from lit_tune.planning import chips

README = (LAUNCH / "README.md").read_text()
COMMANDS = [list(command.words) for command in docs_commands.of_page("launch/README.md", README) if command.whole]
LAUNCHERS = ("launch/tpu_vm.py", "launch/gke.py", "launch/cpu_vm.py", "launch/slurm.py", "launch/skypilot.py",
             "launch/local.py")
OTHERS = (["gcloud", "auth", "login"], ["ssh-add"], ["gcloud", "storage", "cp"])  # of somebody else


def taken(words: list[str]) -> None:
    """Raise what lit-tune says against the words of a call, `{i}` and `{n}` being numbers by then; files may be absent.

    `copy FROM TO` is worker.sh's own.
    """
    words = [word.replace("{i}", "1").replace("{n}", "4") for word in words]
    if words[0] == "copy":
        assert len(words) == 3 and words[2].startswith("gs://"), words
        return
    name = words[0].replace("-", "_")
    assert name in flags.COMMANDS, f"no subcommand {words[0]}"
    values, changes = flag_reading.read(words[1:], name)
    if "config" in values:
        # a folder that a line only names has no description to read
        config = config_lib.load(values["config"], [*changes, ("vision.init_spec", "false")])
        if name == "train":
            config_lib.check(config, files=False)
        values["config"] = config
    read = flags.COMMANDS[name](**values)
    if name == "plan":
        assert all(chips.parse(topology, read.slices) for topology in read.topology)
    if name == "data":
        assert len(read.args) == 2 and read.args[0] in data_command.ACTIONS, read.args


def inside(output: str) -> Iterator[list[str]]:
    """The words for lit-tune in what a launcher's dry run printed: here, on machines, in pods."""
    for line in output.splitlines():
        words = [] if line.startswith("#") else shlex.split(line)
        if "lit-tune" in words and all("=" in word for word in words[: words.index("lit-tune")]):
            yield words[words.index("lit-tune") + 1:]
        if words[:1] == ["sbatch"]:
            yield ["train", *words[words.index("job") + 2:]]
        for word in words:
            if word.startswith("--env=ARGS="):
                yield shlex.split(word.removeprefix("--env=ARGS="))
            started = re.match(r"--command=(?:bash lit_tune/launch/worker\.sh start|exec lit-tune) (.*)", word)
            if started:
                yield shlex.split(started[1])


def launched(cloud: Cloud, words: list[str]) -> list[list[str]]:
    """The words for lit-tune in a launcher's line, which is taken in a dry run that calls nothing."""
    program, verb, *rest = (f"@{cloud.home / 'lit.flags'}" if word == "@lit.flags" else word for word in words)
    code, output = cloud.launch(Path(program).name, verb, "--dry-run", *(word for word in rest if word != "--dry-run"))
    assert code == 0 and not cloud.calls(), (words, output)
    found = list(inside(output))
    planned = verb == "up" and "launch/cpu_vm.py" not in words
    assert bool(found) == (planned or verb in ("plan", "run", "resume")), (words, output)
    return found


def scripted(cloud: Cloud, words: list[str]) -> list[list[str]]:
    """The words for lit-tune in a line of local.sh, by what the script calls."""
    done = subprocess.run(["bash", str(LAUNCH / Path(words[0]).name), *words[1:]], cwd=cloud.home, text=True,
                          env={"PATH": f"{cloud.home / 'bin'}:/usr/bin:/bin", "HOME": str(cloud.home)},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    assert done.returncode == 0, (words, done.stdout)
    found = [call[1:] for call in cloud.calls("lit-tune")]
    cloud.play({})
    assert found, words
    return found


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    """Stand-ins for every program, and the file of flags of the page."""
    cloud = Cloud(tmp_path / "cloud", "gcloud", "kubectl", "xpk", "docker", "lit-tune", "sky", "sbatch", "squeue",
                  "scontrol", "scancel", "sinfo", "tail")
    (cloud.home / "lit.flags").write_text(re.search(r"```\n(# lit\.flags\n.*?)```", README, re.S)[1])
    return cloud


def test_every_command_line_of_the_readme_is_taken(cloud: Cloud) -> None:
    held = {program: 0 for program in (*LAUNCHERS, "launch/local.sh")}
    for words in COMMANDS:
        if any(words[: len(other)] == other for other in OTHERS):
            continue
        words = words[1:] if words[0] == "python" else words
        assert words[0] in held, f"no program of this folder: {words}"
        held[words[0]] += 1
        for inner in (launched if words[0] in LAUNCHERS else scripted)(cloud, words):
            taken(inner)
    assert all(held.values()), held
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.S)).replace("\\\n", " ")
    assert sum(held.values()) == len(re.findall(r"^(?:python )?launch/", blocks, re.M))  # no line was overlooked


def test_launchers_lines_of_the_other_pages_are_taken(cloud: Cloud) -> None:
    stand_ins = {"PROJECT": "my-project", "ZONE": "us-east5-b", "BUCKET": "my-lit"}
    lines = [list(command.words) for command in docs_commands.commands() if command.whole]
    lines = [words[words[0] == "python":] for words in lines]
    lines = [words for words in lines if words[0].startswith("launch/")]
    assert lines
    for words in lines:
        words = [re.sub(r"\b(PROJECT|ZONE|BUCKET)\b", lambda found: stand_ins[found[1]], word) for word in words]
        for inner in (launched if words[0] in LAUNCHERS else scripted)(cloud, words):
            taken(inner)


def test_skypilots_words_are_taken() -> None:
    sky = re.search(r"^  ARGS: (.*\n(?:    .*\n)*)", (LAUNCH / "skypilot.yaml").read_text(), re.M)[1].split()
    assert sky[0] == "train" and "--preempted_exit_code=76" in sky
    taken(sky)


@pytest.mark.parametrize("line, says", [
    ("launch/tpu_vm.py run @lit.flags -- --config=quickstart --config.optim.rate=1", "optim.rate"),
    ("launch/tpu_vm.py run @lit.flags -- trian --config=quickstart", "no subcommand trian"),
    ("launch/tpu_vm.py run @lit.flags --spott -- --config=quickstart", "did you mean --spot?"),
    ("launch/gke.py run @lit.flags -- --config=quikstart", "did you mean quickstart?"),
    ("launch/cpu_vm.py run @lit.flags -- data convert x.tar --to=tar --out=gs://b/{i}", "an address"),
    ("launch/cpu_vm.py run @lit.flags -- copy small", "small"),
    ("launch/tpu_vm.py plan --tpu=v9-256 -- --config=quickstart", "v9-256"),
    ("launch/skypilot.py run @lit.flags --tpu=v6e-8 -- --config=quikstart", "did you mean quickstart?"),
    ("launch/local.sh 2 --config=quickstart --workdir=r --restart=5", "--restarts"),
    ("launch/slurm.py run --name=lit -- --config=quickstart --workdir=/r --restart=5", "--restarts"),
    ("launch/slurm.py plan --name=lit --topology=h900x8 -- --config=quickstart", "h900x8"),
])
def test_a_wrong_line_would_be_found(cloud: Cloud, line: str, says: str) -> None:
    words = shlex.split(line)
    with pytest.raises((AssertionError, LitTuneError)) as caught:
        for inner in (launched if words[0] in LAUNCHERS else scripted)(cloud, words):
            taken(inner)
    assert says in str(caught.value)
