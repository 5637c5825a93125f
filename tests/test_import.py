"""`lit-tune import`: peers' files in, their numbers out; whatever does not fit is one line and nothing is written."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from PIL import Image
from safetensors.numpy import save_file
from small_models import picture, small_config, text_encoder, write_text_tower, write_tokenizer

import lit_tune
from lit_tune import cli, config as config_lib
from lit_tune.convert import keymap_vision, mapping, peer_files, peer_text, peer_vision, weights as weight_files
from lit_tune.errors import ConfigError
from lit_tune.evaluation import sets
from lit_tune.evaluation.embedding import EncoderEmbedder
from lit_tune.models.two_towers import tower_of

NOMIC, TEXTS = "b_nomic_vision", "c_text_towers"
CLIP_PIXELS = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
               "resample": 3, "size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56},
               "do_center_crop": True}  # fmt: skip


def run(*words: str) -> int:
    """The exit code of `lit-tune import`."""
    return cli.main(["import", *words])


def nomic_folder(folder: Path, **changes: Any) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder as the hub has nomic-embed-vision, small, with the reference's weights; and the stored numbers."""
    case = "nomic_vision_small"
    folder.mkdir(parents=True)
    released = json.loads((reference.ROOT / NOMIC / "nomic_embed_vision_v1_5.config.json").read_text())
    config = released | reference.entry(NOMIC, case)["config_changes"] | changes
    stored = reference.arrays(NOMIC, case)
    size = stored["pixels"].shape[-2:]
    preprocessor = CLIP_PIXELS | {"size": {"shortest_edge": size[0]}, "crop_size": dict(height=size[0], width=size[1])}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    save_file(reference.weights(NOMIC, case), folder / "model.safetensors")
    return folder, stored


def bert_folder(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder as the hub has a sentence-transformers BERT, with the reference's weights; and the stored numbers."""
    write_tokenizer(folder)
    config = reference.entry(TEXTS, "bert")["config"]
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    save_file(reference.weights(TEXTS, "bert"), folder / "model.safetensors")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    page = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(page))
    return folder, reference.arrays(TEXTS, "bert")


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_an_imported_nomic_tower_gives_contrastors_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, stored = nomic_folder(tmp_path / "hub")
    assert run("--from=nomic", f"--weights={folder}", f"--out={tmp_path / 'ours'}") == 0
    assert "eva02" in capsys.readouterr().out
    vision = lit_tune.load(tmp_path / "ours").vision
    ours = np.asarray(vision.tower.apply(vision.params, jnp.asarray(reference.pixels(stored))))
    reference.check("imported nomic vision", {"embedding": unit(ours)}, {"embedding": stored["embedding"]}, 5e-5)
    page = json.loads((tmp_path / "ours" / "vision_tower.json").read_text())
    assert page["source"]["weights"] == str(folder) and len(page["source"]["sha256"]) == 64
    assert page["preprocess"]["policy"] == "reference" and page["spec"]["sub_ln_eps"] == 1e-5


def test_an_imported_bert_gives_transformers_vectors_and_keeps_its_file_bit_for_bit(tmp_path: Path) -> None:
    folder, stored = bert_folder(tmp_path / "hub")
    assert run("--from=hf", f"--weights={folder}", f"--out={tmp_path / 'ours'}") == 0
    model = lit_tune.load(tmp_path / "ours")
    ids = [row[mask != 0] for row, mask in zip(stored["input_ids"], stored["attention_mask"], strict=True)]
    found = {"mean_pooled": model.text.encode_ids(ids)}
    reference.check("imported bert", found, {"mean_pooled": unit(stored["mean_pooled"])}, 5e-5)
    assert model.prompt == "query: " and model.text.description["spec"]["pool"] == "mean"
    original = (folder / "model.safetensors").read_bytes()
    assert (tmp_path / "ours" / "text" / "model.safetensors").read_bytes() == original
    with pytest.raises(ConfigError, match="expected a folder with an image tower"):
        model.embed_images([np.zeros((8, 8, 3), np.uint8)])


def test_two_imports_make_one_model_if_their_widths_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vision, stored = nomic_folder(tmp_path / "vision")
    width = stored["pooled"].shape[1]
    text = write_text_tower(tmp_path / "text", width=width, num_heads=2)
    other = write_text_tower(tmp_path / "other", width=width * 2, num_heads=2)
    out = tmp_path / "ours"
    assert run("--from=nomic", f"--weights={vision}", f"--out={out}") == 0
    assert run("--from=hf", f"--weights={other}", f"--out={out}") == 2
    assert "expected vectors of one width" in capsys.readouterr().err
    assert run("--from=hf", f"--weights={text}", f"--out={out}", "--prefix=search: ", "--max_length=9") == 0
    model = lit_tune.load(out)
    assert model.dim == width and model.prompt == "search: "
    assert model.embed_texts(["a cat"]).shape == model.embed_images([np.zeros((8, 9, 3), np.uint8)]).shape
    assert run("--from=hf", f"--weights={text}", f"--out={out}") == 2
    assert "has a vision and a text tower" in capsys.readouterr().err


def broken(named: dict[str, np.ndarray], change: str) -> dict[str, np.ndarray]:
    """The weights, wrong in one way."""
    first = sorted(named)[0]
    if change == "missing":
        return {name: array for name, array in named.items() if name != first}
    if change == "extra":
        return named | {"layers.9.norm1.weight": np.ones(3, np.float32)}
    if change == "nan":
        return named | {first: np.full_like(named[first], np.nan)}
    return named | {first: named[first][:-1]}


@pytest.mark.faults(row=41, fault="weights to import with an array missing, extra, misshaped or not finite",
                    expected="exit 2 with one line that names it; nothing is written")
@pytest.mark.parametrize("change, message", [
    ("missing", "1 missing (attn"), ("extra", "1 extra (layers.9.norm1.weight)"), ("nan", "expected finite numbers"),
    ("shape", "instead of"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_one_line_and_nothing_is_written(
    change: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = nomic_folder(tmp_path / "hub")
    named = reference.weights(NOMIC, "nomic_vision_small")
    message = message.replace("attn", sorted(named)[0])
    save_file(broken(named, change), folder / "model.safetensors")
    assert run("--from=nomic", f"--weights={folder}", f"--out={tmp_path / 'ours'}") == 2
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub"]


@pytest.mark.parametrize("changes, message", [
    ({"n_layer": 1}, "extra (layers.1."), ({"n_layer": 5}, "missing (layers."),
    ({"n_embd": 80, "n_head": 4}, "instead of"),
])  # fmt: skip
def test_another_depth_or_width_than_the_config_says_is_refused(
    changes: dict[str, int], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = nomic_folder(tmp_path / "hub", **changes)
    assert run("--from=nomic", f"--weights={folder}", f"--out={tmp_path / 'ours'}") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "ours").exists()


@pytest.mark.parametrize("words, message", [
    (["--from=keras"], "expected timm | nomic | hf | open_clip, found keras"),
    (["--weights=owner/name"], "--revision: expected a commit of the hub, 40 hex digits"),
    (["--weights=owner/name", f"--revision={'a' * 40}"], "found HF_HUB_OFFLINE is set"),
    (["--weights=no/such/file.safetensors"], "expected a file, a folder or a hub id"),
    (["--tower=audio"], "--tower: expected vision | text | all"),
    (["--tower=text"], "expected a tower that the weights hold (vision)"),
    (["--model_config=none.json"], "expected a JSON file"),
    (["--from=hf"], "layout: expected timm | nomic"),
    (["--resample=cubic"], "--resample: expected bicubic | pinv, found cubic"),
    (["--pool=cls"], "--pool: expected a text tower to import, found an image tower only"),
    (["--revision=main"], "--revision=main: expected a hub id as --weights"),
])  # fmt: skip
def test_a_mistyped_command_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = nomic_folder(tmp_path / "hub")
    given = {"--from": "nomic", "--weights": str(folder), "--out": str(tmp_path / "ours")}
    given |= dict(word.split("=", 1) for word in words)
    assert run(*[f"{name}={value}" for name, value in given.items()]) == 2
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1 and not (tmp_path / "ours").exists()


def test_a_config_or_a_folder_that_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text_tower(tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    (tmp_path / "lacks.json").write_text(json.dumps({key: config[key] for key in config if key != "hidden_size"}))
    words = ["--from=hf", f"--weights={tmp_path / 'hub'}"]
    for more, message in (
        ([f"--model_config={tmp_path / 'lacks.json'}", f"--out={tmp_path / 'ours'}"], "the key 'hidden_size'"),
        ([f"--out={tmp_path / 'lacks.json' / 'ours'}"], "expected a folder that can be written"),
        ([f"--out={tmp_path / 'ours'}", "--max_length=41"], "expected at most 40 tokens for this tower, found 41"),
        ([f"--out={tmp_path / 'ours'}", "--patch_size=8"], "--patch_size: expected an image tower to import"),
    ):
        assert run(*words, *more) == 2
        line = capsys.readouterr().err
        assert message in line and line.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "lacks.json"]


def test_a_pickle_is_read_only_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = nomic_folder(tmp_path / "hub")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for weights in (folder, folder / "pytorch_model.bin"):
        assert run("--from=nomic", f"--weights={weights}", f"--out={tmp_path / 'ours'}") == 2
        line = capsys.readouterr().err
        assert "add --allow_pickle_weights to read it" in line and line.count("\n") == 1


def test_pictures_without_a_word_on_their_preparation_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = nomic_folder(tmp_path / "hub")
    (folder / "preprocessor_config.json").unlink()
    assert run("--from=nomic", f"--weights={folder}", f"--out={tmp_path / 'ours'}") == 2
    assert "preprocessor_config.json" in capsys.readouterr().err


def test_a_changed_weight_file_of_an_import_is_refused(tmp_path: Path) -> None:
    folder, _ = nomic_folder(tmp_path / "hub")
    assert run("--from=nomic", f"--weights={folder}", f"--out={tmp_path / 'ours'}") == 0
    file = tmp_path / "ours" / "vision.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ConfigError, match="vision.safetensors: expected sha256"):
        lit_tune.load(tmp_path / "ours")


SIGLIP = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": {"height": 224, "width": 224}}
OPENAI = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": 224, "crop_size": 224}


@pytest.mark.parametrize("layout, config, page, expected", [
    ("hf", {}, SIGLIP, {"resize": "squash", "image_size": [224, 224]}),
    ("hf", {}, OPENAI, {"resize": "shortest", "image_size": [224, 224]}),
    ("hf", {}, OPENAI | {"size": {"shortest_edge": 256}, "resample": 2}, {"crop_pct": 0.875,
                                                                          "interpolation": "bilinear"}),
    ("hf", {}, {"size": 224, "resize_mode": "shortest", "mean": [0.1] * 3, "std": [0.2] * 3}, {"mean": [0.1] * 3}),
    ("open_clip", {}, {}, {"resize": "shortest", "mean": CLIP_PIXELS["image_mean"]}),
    ("open_clip", {"preprocess_cfg": {"resize_mode": "squash", "mean": [0.5] * 3}}, {}, {"resize": "squash",
                                                                                         "mean": [0.5] * 3}),
    ("timm", {"pretrained_cfg": {"crop_pct": 1.0, "input_size": [3, 448, 448]}}, {}, {"image_size": [448, 448]}),
    ("timm", {}, {}, {"crop_pct": 0.875, "mean": [0.485, 0.456, 0.406]}),
])  # fmt: skip
def test_each_peer_s_words_on_preprocessing_are_understood(
    layout: str, config: dict, page: dict, expected: dict, tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(page))
    found = peer_files.preprocess(tmp_path, config, layout, (224, 224))
    assert {name: found[name] for name in expected} == expected
    assert ("crop_pct" in found) == ("crop_pct" in expected)


def test_what_cannot_be_done_to_a_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(OPENAI | {"resample": 0}))
    with pytest.raises(ConfigError, match="preprocessing: resample: expected 2 or 3, found 0"):
        peer_files.preprocess(tmp_path, {}, "hf", (224, 224))
    with pytest.raises(ConfigError, match="preprocessing: resize_mode: expected shortest or squash, found longest"):
        peer_files.preprocess(tmp_path, {"preprocess_cfg": {"resize_mode": "longest"}}, "open_clip", (224, 224))


def test_a_run_may_name_an_import_as_its_text_tower(tmp_path: Path) -> None:
    folder = write_text_tower(tmp_path / "text", pool="cls")
    assert run("--from=hf", f"--weights={folder}", f"--out={tmp_path / 'ours'}", "--pool=cls", "--prefix=query: ") == 0
    config = small_config(tmp_path / "ours", text__pool="cls", text__prefix="query: ")
    found, plain = text_encoder(config), text_encoder(small_config(folder, text__pool="cls", text__prefix="query: "))
    np.testing.assert_array_equal(found.encode(["a red cat"]), plain.encode(["a red cat"]))
    assert found.fingerprint == plain.fingerprint
    meant = text_encoder(small_config(tmp_path / "ours", text__pool="mean"))
    assert meant.tower.spec.pool == "cls", "the tower's own description counts"
    cut = text_encoder(small_config(tmp_path / "ours", text__pool="cls", text__dim=8))
    np.testing.assert_allclose(cut.encode(["a"])[0], unit(found.encode(["a"])[:, :8])[0], atol=1e-6)


def labelled_pictures(folder: Path) -> Path:
    """A folder of four pictures with captions and a class."""
    folder.mkdir()
    lines = []
    for number, label in enumerate(["cat", "dog", "red cat", "mat"]):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "caption": f"a {label} {number}", "label": label}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_an_imported_pair_of_towers_is_scored_with_prompts_of_one_s_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vision, stored = nomic_folder(tmp_path / "vision")
    text = write_text_tower(tmp_path / "text", width=stored["pooled"].shape[1], num_heads=2)
    assert run("--from=nomic", f"--weights={vision}", f"--out={tmp_path / 'ours'}") == 0
    assert run("--from=hf", f"--weights={text}", f"--out={tmp_path / 'ours'}", "--prefix=query: ") == 0
    data = labelled_pictures(tmp_path / "data")
    (tmp_path / "prompts.txt").write_text("a big {c}.\na {} on the mat\n")
    words = ["eval", f"--model={tmp_path / 'ours'}", f"--tasks=four={data}", "--class_field=label"]
    assert cli.main([*words, f"--templates={tmp_path / 'prompts.txt'}"]) == 0
    assert "zero-shot" in capsys.readouterr().out
    model = lit_tune.load(tmp_path / "ours")
    names = ["cat", "dog", "red cat", "mat"]  # the formula of the score, written out
    prompts = [[model.embed_texts([line.format(name)])[0] for line in ("a big {}.", "a {} on the mat")]
               for name in names]  # fmt: skip
    classes = unit(np.mean(prompts, axis=1))
    scores = model.embed_images([data / f"{number}.png" for number in range(4)]) @ classes.T
    config = config_lib.load("finetune").copy_and_resolve_references()
    with config.unlocked():
        config.eval.sets, config.eval.class_field = (f"four={data}",), "label"
        config.eval.templates = ("a big {}.", "a {} on the mat")
    prepared = sets.prepare(config, model.embed_texts, None, model.vision.pixels)
    metrics, _ = sets.evaluate(prepared, EncoderEmbedder(model.vision), {})
    expected = np.mean(scores.argmax(axis=1) == np.arange(4))
    assert metrics["val/four/zeroshot/top1"] == pytest.approx(expected)
    (tmp_path / "prompts.txt").write_text("a photo\n")
    assert cli.main([*words, f"--templates={tmp_path / 'prompts.txt'}"]) == 2
    line = capsys.readouterr().err
    assert "expected a template with {c}" in line and line.count("\n") == 1


JINA_TEXT = {"hf_model_name_or_path": "jinaai/jina-bert-flash-implementation", "embed_dim": 32,
             "hf_model_config_kwargs": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                                        "intermediate_size": 48, "vocab_size": 16}}  # fmt: skip
JINA_VISION = {"embed_dim": 32, "width": 32, "image_size": 32, "patch_size": 8, "layers": 2, "head_width": 16,
               "mlp_ratio": 2.6667, "rope_embeddings": True, "naive_swiglu": True, "subln": True, "pt_hw_seq_len": 4,
               "intp_freq": True}  # fmt: skip


def test_both_towers_of_a_jina_clip_file_are_imported_from_under_their_own_names(tmp_path: Path) -> None:
    config = {"model_type": "jina_clip", "text_config": JINA_TEXT, "vision_config": JINA_VISION}
    vision, text = peer_vision.vision_spec(config, "hf"), peer_text.text_spec(config, "hf")
    images, words = (tower_of(spec).init(jax.random.key(1)) for spec in (vision, text))
    named = mapping.write_with(keymap_vision.JINA, images, vision) | mapping.to_peer(words, text, "jina_clip")
    assert {name.split(".")[0] for name in named} == {"vision_model", "text_model"}
    folder = write_tokenizer(tmp_path / "hub")
    weight_files.write(folder / "model.safetensors", named | {"logit_scale": np.zeros(1, np.float32)})
    (folder / "config.json").write_text(json.dumps(config))
    page = {"size": 32, "resize_mode": "shortest", "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(page))
    assert run("--from=hf", f"--weights={folder}", f"--out={tmp_path / 'ours'}") == 0
    model = lit_tune.load(tmp_path / "ours")
    pixels = np.asarray(picture(0, 32, 32), np.float32)[None] / 127.5 - 1
    direct = np.asarray(tower_of(vision).apply(images, jnp.asarray(pixels)))
    np.testing.assert_allclose(model.embed_images([picture(0, 32, 32)]), unit(direct), atol=1e-5)
    ids = model.text.tokenizer(["the red dogs"])[0][None]
    direct = np.asarray(tower_of(text).apply(words, jnp.asarray(ids), jnp.ones_like(ids)))
    np.testing.assert_allclose(model.embed_texts(["the red dogs"]), unit(direct), atol=1e-5)
