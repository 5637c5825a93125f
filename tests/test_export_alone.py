"""An image tower whose texts were vectors of a model that was never here: exported, averaged, used, all by itself."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from huggingface_hub.repocard import metadata_load
from outside_vectors import DIM, make_cache, picture_folder, stored_run, train
from safetensors.numpy import load_file
from small_models import picture, small_config, write_run, write_text_tower

import lit_tune
from lit_tune import cli, tower, tree, warm_start
from lit_tune.convert.weights import sha256
from lit_tune.errors import ConfigError

pytestmark = pytest.mark.usefixtures("no_peers")
IMAGES = [picture(i) for i in range(3)]
NO_TEXTS = f"texts: expected a text tower, found vectors of {DIM} numbers of a model brought from outside"
NOMIC = dict(vision__pool="nomic", vision__key_bias=True, vision__final_norm=False, vision__sub_ln_eps=1e-5,
             vision__mlp_dim=256, vision__pool_mlp_dim=256, vision__qkv_fused=True, vision__width=DIM,
             vision__embed_dim=0)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Pictures, their vectors, and a real run on them with checkpoints at steps 2 and 4."""
    root = tmp_path_factory.mktemp("outside")
    pictures = picture_folder(root / "pictures")
    cache = make_cache(pictures, root / "cache")
    code, output = train(pictures, cache, root / "run", checkpoint__every=2, checkpoint__keep=2)
    assert code == 0, output
    return SimpleNamespace(root=root, pictures=pictures, cache=cache, run=root / "run")


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line that a command is refused with, exit code 2."""
    capsys.readouterr()
    assert cli.main([str(word) for word in argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("lit-tune: "), lines
    return lines[0]


def check_alone(folder: Path, cache_file: Path) -> dict:
    """The proof of a folder in which nothing says that there is a text tower."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert "vision_tower.json" in files and not [name for name in files if "text" in name or "token" in name], files
    digest = sha256(cache_file)
    assert json.loads((folder / "vision_tower.json").read_text())["aligned_to"] == {"vectors_sha256": digest}
    proof = json.loads((folder / "proof.json").read_text())
    assert proof["aligned_to"] == {"vectors_sha256": digest}
    assert "frozen_text" not in proof and set(proof["parameters"]) == {"vision", "vision_projection"}
    assert set(proof["files"]) == files - {"proof.json"}
    assert {one["kind"] for one in proof["checks"]} == {"vision"}
    return proof


@pytest.mark.parametrize("format", ["timm", "hf", "lit_tune", "nomic"])
def test_the_image_tower_alone_is_exported_proved_and_gives_the_run_s_vectors(
    format: str, made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if format == "hf":
        monkeypatch.setattr("lit_tune.exports.onnx.available", lambda: "not here")  # its files: test_onnx, interop
    run = stored_run(tmp_path / "run", made.cache, **NOMIC) if format == "nomic" else made.run
    out = tmp_path / "out"
    assert cli.main(["export", f"--workdir={run}", f"--format={format}", f"--out={out}"]) == 0
    assert "text      none: vectors of a model brought from outside; sha256 of the file" in capsys.readouterr().out
    proof = check_alone(out, made.root / "cache.parquet")
    (check,) = proof["checks"]
    assert check["checked_by"][0]["who"] == "own_reader" and check["checked_by"][0]["max_difference"] <= 1e-5
    model, own = lit_tune.load(out), lit_tune.load(run)
    np.testing.assert_allclose(model.embed_images(IMAGES), own.embed_images(IMAGES), atol=1e-5)
    assert proof["parameters"]["vision"] == tree.count(own.vision.params)
    for one in (model, own):
        assert (one.dim, one.image_size, one.prompt, one.has_text) == (DIM, (16, 16), "", False)
        assert "no text tower" in repr(one)
        with pytest.raises(ConfigError, match=NO_TEXTS):
            one.embed_texts(["a red dot"])


def test_the_card_says_whose_space_it_is_and_has_nothing_about_a_text_tower(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    assert cli.main(["export", f"--workdir={made.run}", "--format=timm", f"--out={tmp_path / 'out'}"]) == 0
    card, page = (tmp_path / "out" / "README.md").read_text(), metadata_load(tmp_path / "out" / "README.md")
    assert page["pipeline_tag"] == "image-feature-extraction" and "base_model" not in page
    for fact in (f"unit vectors of {DIM} numbers in the space of a text model that is not here",
                 f"vectors of width {DIM} that another model had made, brought from outside",
                 "embed them with the model that made those vectors", sha256(made.root / "cache.parquet"),
                 "model.embed_images(['picture.jpg'])\n", "timm.create_model('local-dir:DIR'", "## Tower\n",
                 "## Pictures\n"):  # fmt: skip
        assert fact in card, fact
    for word in ("embed_texts", "Text tower", "Prefix", "tokens", "nobody/has-this", str(made.cache)):
        assert word not in card, word


def test_formats_that_hold_both_towers_only_are_refused_by_name(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for format in ("sentence-transformers", "open_clip"):
        line = refused(capsys, "export", f"--workdir={made.run}", f"--format={format}", f"--out={tmp_path / 'out'}")
        assert f"--format={format}: expected a text tower beside the image tower" in line
        assert "choose hf | timm | nomic | onnx | lit_tune" in line and not list(tmp_path.iterdir())


def test_an_export_can_be_exported_and_an_import_of_one_tower_too(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, bare, three = (tmp_path / name for name in ("one", "two", "bare", "three"))
    assert cli.main(["export", f"--workdir={made.run}", "--format=timm", f"--out={one}"]) == 0
    assert cli.main(["export", f"--model={one}", "--format=lit_tune", f"--out={two}"]) == 0
    assert check_alone(two, made.root / "cache.parquet")["source"] == json.loads(
        (one / "proof.json").read_text())["source"]  # fmt: skip
    given = lit_tune.load(made.run).vision
    started = warm_start.load_vision_params(str(two), given.tower, "bicubic")
    assert tree.digest(started) == tree.digest(given.params), "vision.init_from takes it too"
    # the same tower by way of timm's own folder: of its texts nothing is known
    assert cli.main(["import", "--from=timm", f"--weights={one}", f"--out={bare}"]) == 0
    capsys.readouterr()
    assert cli.main(["export", f"--model={bare}", "--format=timm", f"--out={three}"]) == 0
    assert "text      none: an image tower alone" in capsys.readouterr().out
    assert "aligned_to" not in json.loads((three / "proof.json").read_text())
    assert "in the space of" not in (three / "README.md").read_text()
    np.testing.assert_array_equal(load_file(three / "model.safetensors")["norm.bias"],
                                  load_file(one / "model.safetensors")["norm.bias"])  # fmt: skip
    assert "lit-tune import" in refused(capsys, "average", bare, made.run, f"--out={tmp_path / 'out'}")


def test_pictures_are_embedded_and_searched_by_pictures_and_words_are_refused(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, index, words = tmp_path / "out", tmp_path / "x.npz", tmp_path / "words.txt"
    words.write_text("a red dot\n")
    assert cli.main(["export", f"--workdir={made.run}", "--format=timm", f"--out={out}"]) == 0
    for model in (made.run, out):
        assert cli.main(["embed", f"--model={model}", f"--images={made.pictures}/*.png", f"--out={index}"]) == 0
        with np.load(index) as file:
            ids, vectors = file["ids"], file["embeddings"]
        assert vectors.shape == (24, DIM)
        capsys.readouterr()
        wanted = str(made.pictures / "blue-dot.png")
        assert cli.main(["search", f"--model={model}", f"--index={index}", "--top=3", wanted]) == 0
        order = np.argsort(-(vectors @ vectors[ids.tolist().index(wanted)]), kind="stable")[:3]
        assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ids[order].tolist()
        for command in (["search", f"--index={index}", "a red dot"],
                        ["embed", f"--texts={words}", f"--out={tmp_path / 'y.npz'}"],
                        ["eval", f"--tasks=mine={made.pictures}"]):  # fmt: skip
            assert NO_TEXTS in refused(capsys, command[0], f"--model={model}" if command[0] != "eval" or model == out
                                       else f"--workdir={model}", *command[1:])  # fmt: skip
    assert not (tmp_path / "y.npz").exists() and not (out / "eval").exists()


def test_an_export_is_completed_by_the_text_tower_where_its_weights_turn_up(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    out, text = tmp_path / "out", write_text_tower(tmp_path / "text", width=DIM, num_heads=2)
    assert cli.main(["export", f"--workdir={made.run}", "--format=timm", f"--out={out}"]) == 0
    assert cli.main(["import", "--from=hf", f"--weights={text}", f"--out={out}", "--prefix=query: "]) == 0
    model = lit_tune.load(out)
    assert model.prompt == "query: " and model.embed_texts(["a cat"]).shape == (1, DIM)
    np.testing.assert_allclose(model.embed_images(IMAGES), lit_tune.load(made.run).embed_images(IMAGES), atol=1e-5)


def test_an_average_of_two_such_runs_is_numpy_s_and_stays_alone(made: SimpleNamespace, tmp_path: Path) -> None:
    older, out = tmp_path / "older", tmp_path / "out"
    assert cli.main(["export", f"--workdir={made.run}", "--step=2", "--format=timm", f"--out={older}"]) == 0
    assert cli.main(["average", str(older), str(made.run), "--alpha=0.3", f"--out={out}"]) == 0
    a, b = (tree.flatten(jax.device_get(tower.load(made.run, step).vision.params)) for step in (2, 4))
    got = load_file(out / "vision.safetensors")
    assert got.keys() == a.keys()
    for name, value in got.items():
        wanted = (0.7 * np.float64(a[name]) + 0.3 * np.float64(b[name])).astype(np.float32)
        np.testing.assert_array_equal(value, wanted, err_msg=name)
    assert any(np.abs(a[name] - b[name]).max() > 0 for name in a), "two checkpoints of other weights"
    check_alone(out, made.root / "cache.parquet")
    assert "0.7 x older@2 + 0.3 x run@4" in (out / "README.md").read_text()
    with pytest.raises(ConfigError, match=NO_TEXTS):
        lit_tune.load(out).embed_texts(["a red dot"])


def test_towers_of_other_vectors_or_of_a_text_tower_have_no_average(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = stored_run(tmp_path / "one", made.cache), tmp_path / "two"
    stored_run(two, make_cache(made.pictures, tmp_path / "cache", seed=1))
    line = refused(capsys, "average", one, two, f"--out={tmp_path / 'out'}")
    assert "expected texts that are the same, found vectors_sha256" in line
    for cache in (made.root / "cache.parquet", tmp_path / "cache.parquet"):
        assert sha256(cache)[:50] in line
    text = write_text_tower(tmp_path / "text", width=DIM, num_heads=2)
    write_run(tmp_path / "towers", small_config(text, vision__embed_dim=DIM))
    assert 'from "vectors", "text tower"' in refused(
        capsys, "average", one, tmp_path / "towers", f"--out={tmp_path / 'out'}")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_vectors_of_a_cache_that_a_text_tower_made_are_told_by_its_fingerprint(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    from lit_tune import config as config_lib

    text = write_text_tower(tmp_path / "text", width=DIM, num_heads=2)
    flags = [f"--config.data.train={made.pictures}", "--config.data.caption_field=txt", f"--config.text.model={text}",
             "--config.text.max_length=12", "--config.eval.sets=()"]  # fmt: skip
    assert cli.main(["cache-text", "--config=quickstart", *flags, f"--out={tmp_path / 'cache'}"]) == 0
    run = stored_run(tmp_path / "run", tmp_path / "cache")
    assert config_lib.from_json((run / "config.json").read_text()).text.source == "vectors"
    aligned = lit_tune.load(run).vision.description["aligned_to"]
    assert aligned["weights_sha256"] == sha256(text / "model.safetensors") and aligned["max_length"] == 12
