"""export as a command: what stands in the folder, what its proof and its card say, and what is never left behind."""

import dataclasses
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import reference
from huggingface_hub.repocard import metadata_load
from safetensors.numpy import load_file, save_file
from small_models import picture, small_config, write_run, write_text_tower

import lit_tune
from lit_tune import cli, convert, exports, tree
from lit_tune.convert import mapping, peer_vision
from lit_tune.convert.weights import sha256
from lit_tune.exports import nomic, peers, preprocessing, source as sources, timm
from lit_tune.exports.parts import Written
from lit_tune.model import VisionEncoder
from lit_tune.models.two_towers import tower_of
from lit_tune.rundir import write_eval

TEXTS = ["a cat", "the red dogs on the mat"]
NOMIC = dict(vision__pool="nomic", vision__key_bias=True, vision__final_norm=False, vision__sub_ln_eps=1e-5,
             vision__mlp_dim=256, vision__pool_mlp_dim=256, vision__qkv_fused=True)  # fmt: skip
SCORES = {"val/toys/zeroshot/top1": 0.5, "val/toys/zeroshot/top1_chance": 0.125,
          "val/toys/zeroshot/top1_floor_pixels": 0.25}  # fmt: skip


pytestmark = pytest.mark.usefixtures("no_peers")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run with a map head and scores, one with the nomic head."""
    root = tmp_path_factory.mktemp("runs")
    text = write_text_tower(root / "text")
    (text / "README.md").write_text("---\nlicense: mit\n---\n# a text tower\n")
    write_run(root / "map", small_config(text), steps=(2, 3))
    write_eval(root / "map", 3, SCORES)
    write_run(root / "nomic", small_config(text, **NOMIC))
    return SimpleNamespace(root=root, text=text, map=root / "map", nomic=root / "nomic")


def export(run: Path, out: Path, format: str = "timm", *flags: str) -> int:
    """Exit code of the command."""
    return cli.main(["export", f"--workdir={run}", f"--format={format}", f"--out={out}", *flags])


def proof_of(folder: Path) -> dict[str, Any]:
    """Content of proof.json."""
    return json.loads((folder / "proof.json").read_text())


@pytest.mark.parametrize("format", ["timm", "nomic"])
def test_an_export_is_proved_described_and_gives_the_run_s_vectors(
    format: str, runs: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.map if format == "timm" else runs.nomic
    assert export(run, tmp_path / "out", format) == 0
    said = capsys.readouterr().out
    assert f"{format} image tower (model.safetensors): largest difference own_reader" in said
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    model, own = lit_tune.load(tmp_path / "out"), lit_tune.load(run)
    images = [picture(i) for i in range(3)]
    np.testing.assert_allclose(model.embed_images(images), own.embed_images(images), atol=1e-6)
    np.testing.assert_allclose(model.embed_texts(TEXTS), own.embed_texts(TEXTS), atol=1e-6)
    proof = proof_of(tmp_path / "out")
    written = {p.relative_to(tmp_path / "out").as_posix(): sha256(p) for p in (tmp_path / "out").rglob("*")
               if p.is_file() and p.name != "proof.json"}  # fmt: skip
    assert proof["files"] == written and "README.md" in written
    assert [one["checked_by"][0]["who"] for one in proof["checks"]] == ["own_reader"] * 2
    assert all(one["checked_by"][0]["max_difference"] <= one["tolerance"] == 1e-5 for one in proof["checks"])
    assert proof["frozen_text"]["unchanged"] is True
    assert proof["frozen_text"]["params_sha256_before"] == tree.digest(own.text.params)
    assert written["text/model.safetensors"] == proof["frozen_text"]["weights_sha256"] == sha256(
        runs.text / "model.safetensors")  # fmt: skip
    assert proof["parameters"] == {
        "vision": tree.count(own.vision.params), "vision_projection": 0, "text_frozen": tree.count(own.text.params)}
    assert proof["source"]["step"] == 3 and proof["source"]["data"] == {"train": "0" * 64}
    recorded = lit_tune.config.from_json((run / "config.json").read_text())
    assert proof["source"]["config_hash"] == lit_tune.config.config_hash(recorded)
    assert set(proof["versions"]) == {"lit_tune", "jax", "numpy", "safetensors", "python"}


def test_a_run_named_as_the_model_is_exported_as_a_run(runs: SimpleNamespace, tmp_path: Path) -> None:
    assert cli.main(["export", f"--model={runs.map}", "--format=timm", f"--out={tmp_path / 'out'}"]) == 0
    assert proof_of(tmp_path / "out")["source"]["kind"] == "run"  # with its config, data and scores


def test_the_step_and_the_name_can_be_chosen(runs: SimpleNamespace, tmp_path: Path) -> None:
    assert export(runs.map, tmp_path / "out", "timm", "--step=2", "--name=small tower") == 0
    proof = proof_of(tmp_path / "out")
    assert proof["source"]["step"] == 2 and proof["name"] == "small tower"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# small tower" in card and "None were recorded" in card  # the scores are step 3's


def test_the_card_says_what_is_known_and_that_the_rest_is_not_stated(runs: SimpleNamespace, tmp_path: Path) -> None:
    assert export(runs.map, tmp_path / "out") == 0
    card, page = (tmp_path / "out" / "README.md").read_text(), metadata_load(tmp_path / "out" / "README.md")
    assert page["license"] == "unknown" and page["library_name"] == "timm"
    assert page["pipeline_tag"] == "zero-shot-image-classification" and "base_model" not in page
    result = page["model-index"][0]["results"][0]
    assert result["metrics"][0]["value"] == 0.5 and result["dataset"]["name"] == "toys"
    assert result["metrics"][0]["args"] == {"chance": 0.125, "floor_pixels": 0.25}
    for fact in ("zero-shot top1", "12.5", "25.0", "text, licence mit", "not stated", "`query: `", "0.48145466",
                 "resize mode `shortest`", "query-side text vectors only", "timm.create_model('local-dir:DIR'",
                 "lit_tune.load('DIR')", "16 x 16 pixels", "pooling `map`", "vectors of 16 numbers", "eval/3.json"):
        assert fact in card, fact
    assert str(runs.root) not in card, "a path of this machine"
    assert "SentenceTransformer" not in card  # nothing in the folder for it


def test_an_export_can_be_exported_and_keeps_its_origin(runs: SimpleNamespace, tmp_path: Path) -> None:
    assert export(runs.map, tmp_path / "one") == 0
    argv = ["export", f"--model={tmp_path / 'one'}", "--format=timm", f"--out={tmp_path / 'two'}"]
    assert cli.main(argv) == 0
    one, two = proof_of(tmp_path / "one"), proof_of(tmp_path / "two")
    assert one["source"] == two["source"] and one["files"]["model.safetensors"] == two["files"]["model.safetensors"]


def test_a_projection_is_counted(runs: SimpleNamespace, tmp_path: Path) -> None:
    write_run(tmp_path / "run", small_config(runs.text, vision__width=32, vision__embed_dim=16))
    assert export(tmp_path / "run", tmp_path / "out") == 0
    assert proof_of(tmp_path / "out")["parameters"]["vision_projection"] == 32 * 16


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *argv: Any, code: int = 2) -> str:
    """The one line an export is refused with; nothing may stand in `tmp_path` that was not there before."""
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert cli.main(["export", *map(str, argv)]) == code
    assert sorted(tmp_path.rglob("*")) == before
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("lit-tune: "), lines
    return lines[0]


def test_what_cannot_be_exported_is_refused_with_the_reason(
    runs: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    run, out = f"--workdir={runs.map}", f"--out={tmp_path / 'out'}"
    for argv, message in [
        ([run, out, "--format=nomic"], "expected a tower that it can hold, found pooling map; no bias on the keys"),
        ([f"--workdir={runs.nomic}", out, "--format=timm"], "found the nomic pooling head"),
        ([run, f"--out={tmp_path / 'used'}", "--format=timm"], "--out: expected a new or empty folder"),
        ([run, out, "--format=caffe"], "--format: expected hf | timm | nomic | open_clip"),
        ([out, "--format=timm"], "expected --workdir=RUN or --model=DIR, found neither"),
        ([run, out, f"--model={runs.map}", "--format=timm"], "found both"),
        ([out, f"--model={runs.map}", "--step=3", "--format=timm"], "only runs have steps"),
        ([out, f"--workdir={runs.text}", "--format=timm"], "expected a run's folder"),
        ([out, f"--model={runs.text}", "--format=timm"], "expected a run (config.json"),
        ([run, f"--out={tmp_path / 'used/file/below'}", "--format=timm"], "expected a folder that can be written"),
    ]:  # fmt: skip
        assert message in refused(capsys, tmp_path, *argv)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm.weights, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert "No space left" in refused(capsys, tmp_path, run, out, "--format=timm")


def peer(vectors: Any, **changes: Any) -> peers.Peer:
    """A package that is certainly installed, and reads image towers as told."""
    return peers.Peer(**({"package": "numpy", "module": "numpy", "since": (1,), "vectors": vectors,
                          "reads": lambda folder, written: written.kind == "vision"} | changes))  # fmt: skip


def test_peers_that_are_there_are_asked_and_a_difference_fails_the_export(
    runs: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = lit_tune.load(runs.map).vision
    argv = [f"--workdir={runs.map}", f"--out={tmp_path / 'out'}", "--format=timm"]

    def broken(*_: Any) -> Any:
        raise KeyError("blocks.0")

    for vectors, message in [
        (lambda folder, written, inputs: 3 * own.embed_pixels(inputs.pictures) + 0.001, "away from the tower's own"),
        (lambda folder, written, inputs: own.embed_pixels(inputs.pictures)[:, :8], "gives vectors inf away"),
        (lambda folder, written, inputs: np.full((4, 16), np.nan), "gives vectors nan away"),
        (broken, "cannot read it (KeyError: 'blocks.0'): do not use it"),
    ]:
        monkeypatch.setattr(peers, "PEERS", (peer(vectors),))
        line = refused(capsys, tmp_path, *argv, code=1)
        assert message in line and f"numpy {np.__version__}" in line and "do not use it" in line
    absent = [peer(broken, package="no-such-package"), peer(broken, since=(99,)), peer(broken, module="numpy.nothing")]
    good = peer(lambda folder, written, inputs: 3 * own.embed_pixels(inputs.pictures))
    monkeypatch.setattr(peers, "PEERS", (*absent[:1], good))
    assert cli.main(["export", *argv]) == 0
    image, text = proof_of(tmp_path / "out")["checks"]
    assert [one["who"] for one in image["checked_by"]] == ["own_reader", f"numpy {np.__version__}"]
    assert image["not_asked"] == {"no-such-package": "not installed"} and not text["not_asked"]
    assert "no-such-package was not asked: not installed" in (tmp_path / "out" / "README.md").read_text()
    assert [peers.absent(one) for one in absent] == [
        "not installed", f"version {np.__version__} is older than 99", "cannot be imported (ModuleNotFoundError)"]


def test_a_writer_that_changes_a_tower_or_writes_what_nobody_can_read_fails_the_export(
    runs: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(file: str, name: str) -> Any:
        def write(given: Any, out: Path) -> list[Written]:
            written = timm.write(given, out)
            arrays = load_file(out / file)
            save_file(arrays | {name: arrays[name] + np.float32(1e-3)}, out / file)
            return written
        return write  # fmt: skip

    def unreadable(given: Any, out: Path) -> list[Written]:
        return [Written("picture graph", "vision", "model.safetensors", "onnx"), timm.write(given, out)[1]]

    def cropped(given: Any, out: Path) -> list[Written]:
        written = timm.write(given, out)
        page = json.loads((out / "config.json").read_text())
        page["pretrained_cfg"]["crop_pct"] = 0.8
        (out / "config.json").write_text(json.dumps(page))
        return written

    argv = [f"--workdir={runs.map}", f"--out={tmp_path / 'out'}", "--format=wrong"]
    monkeypatch.setitem(exports.FORMATS, "wrong", "wrong_writer")
    for write, message in [
        (wrong("text/model.safetensors", "encoder.layer.0.output.dense.bias"), "the frozen text weights have changed"),
        (wrong("model.safetensors", "norm.bias"), "model.safetensors, read by own_reader, gives vectors"),
        (unreadable, "nothing here can read it back"),
        (cropped, "prepares pictures with size before the crop [20, 20], the tower wants [16, 16]"),
    ]:
        module = ModuleType("wrong_writer")
        module.write = write
        monkeypatch.setitem(__import__("sys").modules, "wrong_writer", module)
        assert message in refused(capsys, tmp_path, *argv, code=1)


def test_the_nomic_layout_has_the_release_s_names_shapes_config_and_count() -> None:
    folder = reference.ROOT / "b_nomic_vision"
    released = json.loads((folder / "nomic_embed_vision_v1_5.config.json").read_text())
    page = json.loads((folder / "nomic_embed_vision_v1_5.keys.json").read_text())
    spec = peer_vision.vision_spec(released, "nomic")
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), tower_of(spec).abstract())
    named = mapping.to_peer(zeros, spec, "nomic")
    assert {name: list(array.shape) for name, array in named.items()} == page["shapes"] and len(named) == 211
    assert sum(array.size for array in named.values()) == 92_946_688 == tree.count(zeros)
    config = nomic.nomic_config(spec)
    assert config == {name: value for name, value in released.items() if name != "auto_map"}
    assert type(config["n_inner"]) is int
    assert peer_vision.vision_spec(config, "nomic") == spec


def test_a_nomic_folder_reads_back_bit_for_bit_and_says_how_pictures_are_prepared(
    runs: SimpleNamespace, tmp_path: Path
) -> None:
    given = sources.of_run(runs.nomic, None)
    nomic.write(given, tmp_path)
    found = convert.vision(tmp_path, json.loads((tmp_path / "config.json").read_text()), "nomic")
    assert tree.digest(found.params) == tree.digest(given.vision.params)
    page = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert page["size"] == {"shortest_edge": 16} and page["do_center_crop"] is True
    assert page["image_mean"] == given.vision.preprocess["mean"] and page["resample"] == 3
    squash = preprocessing.preprocessor_config(given.vision.preprocess | {"resize": "squash", "image_size": [16, 24]})
    assert squash["size"] == {"height": 16, "width": 24} and squash["do_center_crop"] is False
    how = given.vision.preprocess | {"interpolation": "bilinear", "crop_pct": 0.8}  # as an import may want it
    nomic.write(dataclasses.replace(given, vision=VisionEncoder(given.vision.description | {"preprocess": how},
                                                                given.vision.params)), tmp_path / "cut")  # fmt: skip
    page = json.loads((tmp_path / "cut" / "preprocessor_config.json").read_text())
    assert (page["resample"], page["size"], page["crop_size"]["width"]) == (2, {"shortest_edge": 20}, 16)
