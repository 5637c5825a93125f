"""docs/security.md: each line of its table has tests, and here are those that belong to no module alone."""

import ast
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import shards_on_disk
import tiny
from PIL import Image
from range_server import Server
from small_models import small_config, write_run, write_text_tower

import lit_tune
from lit_tune import cli, config as config_lib
from lit_tune.errors import ConfigError, DataError
from lit_tune.models import two_towers
from lit_tune.warm_start import load_vision_params

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "security.md"
SHIPPED = [*(ROOT / "lit_tune").rglob("*.py"), *(ROOT / "configs").glob("*.py"), *(ROOT / "launch").rglob("*.py"),
           ROOT / "setup.py"]  # fmt: skip
FORBIDDEN = {  # calls that turn data into code, or a text into a command line
    "eval", "exec", "compile", "pickle.load", "pickle.loads", "marshal.loads", "yaml.load", "os.system", "os.popen",
    "asyncio.create_subprocess_shell",
}  # fmt: skip
UNPICKLERS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
SECRET = "s3cr3t0000"


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"\[(test_\w+)\]\(\.\./tests/([\w/]+\.py)\)", PAGE.read_text())
    assert len(named) > 30
    for test, file in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file} has no {test}"


def imported(path: Path) -> Iterator[str]:
    """Top-level names of the modules that a file imports, under whatever name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name, call) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_runs_code_that_comes_as_data() -> None:
    helpers = [path for path in (ROOT / "tests").rglob("*.py") if not path.name.startswith("test_")]
    assert len(SHIPPED) > 100 and helpers
    for path in [*SHIPPED, *helpers]:
        modules = set(imported(path))
        assert not UNPICKLERS & modules, f"{path.relative_to(ROOT)} imports a reader of pickles"
        for name, call in calls(path):
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            words = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert name not in FORBIDDEN, f"{where} calls {name}"
            assert not name.endswith((".extractall", ".extract")), f"{where} unpacks an archive"
            shell = words.get("shell") if "subprocess" in modules else None  # elsewhere it is a word of our own
            assert shell in (None, "False"), f"{where} starts a shell"
            assert words.get("allow_pickle") in (None, "False"), f"{where} reads pickled arrays"
            assert "trust_remote_code" not in words or words["trust_remote_code"] == "False", where
            assert name != "torch.load" or words.get("weights_only") == "True", f"{where} unpickles"


def test_no_key_steers_the_terminal_from_an_error_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(argv: list[str]) -> int:
        raise DataError("0.tar/\x1b]0;owned\x07\u202e\udcff key: expected a pair")

    assert cli.run(fail, []) == 4
    assert capsys.readouterr().err == "lit-tune: 0.tar/\ufffd]0;owned\ufffd\ufffd\ufffd key: expected a pair\n"


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


def hostile(path: Path, canary: Path) -> Path:
    """A pickle that touches the canary: plain, or in the zip that torch.save writes."""
    data = pickle.dumps({"blocks.0.weight": Canary(canary)})
    if path.suffix == ".bin":
        path.write_bytes(data)
        return path
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/version", "3\n")
    return path


@pytest.mark.faults(row=42, fault="weights that are a pickle with code in it, alone or as text tower or start",
                    expected="refused with exit 2; nothing in it is run")
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_a_pickle_is_refused_and_what_it_holds_is_not_run(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary, folder = tmp_path / "canary", write_text_tower(tmp_path / "text")
    (folder / "model.safetensors").unlink()
    file = hostile(folder / name, canary)
    starts = [["import", "--from=hf", f"--weights={place}", f"--out={tmp_path / 'out'}"] for place in (folder, file)]
    starts += [["train", "--config=quickstart", f"--workdir={tmp_path / 'run'}", f"--config.text.model={folder}"]]
    wanted = ["pickle" if name == "pytorch_model.bin" else "", "pickle", "safetensors"]  # what each line is about
    for words, word in zip(starts, wanted, strict=True):
        assert cli.main(words) == 2, words
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and word in line, line
    with pytest.raises(ConfigError, match="safetensors"):
        load_vision_params(str(file), two_towers.vision_tower(config_lib.load("quickstart")))
    assert not canary.exists() and not (tmp_path / "out").exists()
    data = file.read_bytes() if file.suffix == ".bin" else zipfile.ZipFile(file).read("archive/data.pkl")
    pickle.loads(data)
    assert canary.exists(), "the canary sings where the pickle is loaded"


@pytest.mark.faults(row=44, fault="code in a config override or in a stored config.json",
                    expected="a text or refused with exit 2; never run")
def test_code_in_a_config_is_a_text_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canary = tmp_path / "canary"
    code = f"__import__('os').system('touch {canary}')"
    for key in ("seed", "data.mean", "optim.lr", "vision.image_size", "eval.sets", "data.mix"):
        words = ["train", "--config=quickstart", f"--workdir={tmp_path / 'run'}", f"--config.{key}={code}"]
        assert cli.main(words) == 2, key
        assert capsys.readouterr().err.count("\n") == 1
    assert config_lib.load("quickstart", [("text.prefix", code)]).text.prefix == code
    run = tmp_path / "run"
    write_run(run, small_config(write_text_tower(tmp_path / "text")))
    (tmp_path / "texts").write_text("a cat\n")
    embed = ["embed", f"--model={run}", f"--texts={tmp_path / 'texts'}", f"--out={tmp_path / 'x.npz'}"]
    page = json.loads((run / "config.json").read_text())
    page["text"]["prefix"] = code
    (run / "config.json").write_text(json.dumps(page))
    assert cli.main(embed) == 0 and lit_tune.load(run).prompt == code, "a text is a text"
    page["seed"] = code
    (run / "config.json").write_text(json.dumps(page))
    assert cli.main([*embed, "--restart"]) == 2
    line = capsys.readouterr().err.splitlines()
    assert "seed" in line[-1]
    assert not canary.exists()


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Server]:
    """Twelve drawings in two shards at http://127.0.0.1:PORT/{0..1}.tar."""
    pytest.importorskip("aiohttp", reason="fsspec[http] is not installed")
    folder = tmp_path / "served"
    folder.mkdir()
    for shard, color in enumerate(("red", "blue")):
        image = shards_on_disk.encoded(Image.new("RGB", (20, 20), tiny.COLORS[color]))
        shards_on_disk.write(folder / f"{shard}.tar", [
            member for number, shape in enumerate(tiny.SHAPES)
            for member in ((f"{number}.jpg", image), (f"{number}.txt", f"a {color} {shape}".encode()))])
    running = Server(folder)
    yield running
    running.close()


@pytest.mark.slow
def test_a_run_keeps_no_signature_and_no_variable_and_goes_on_with_another_signature(
    tmp_path: Path, shards: Server
) -> None:
    tiny.text_folder(tmp_path / "text")
    for steps, signature in ((4, SECRET), (6, "another" + SECRET)):
        spec = f"{shards.url.replace('://', f'://user:{SECRET}@')}/{{0..1}}.tar?sig={signature}"
        words = tiny.arguments(tmp_path / "text", Path("unused"), tmp_path / "run", total_steps=steps, eval__sets=(),
                               optim__warmup_steps=1, checkpoint__every=2)  # fmt: skip
        words = [word for word in words if not word.startswith("--config.data.train=")]
        process = tiny.start([*words, f"--config.data.train={spec}", "--extend"], tmp_path / "cache",
                             HF_TOKEN=f"hf_{SECRET}", MY_PASSWORD=SECRET)  # fmt: skip
        code, output = tiny.finish(process)
        assert code == 0 and SECRET not in output, output
    assert any("sig=" in path for _, path, _ in shards.asked), "the shards were asked for with the signature"
    kept = [path for folder in ("run", "cache") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert len(kept) > 10
    for path in kept:
        assert SECRET.encode() not in path.read_bytes(), path
