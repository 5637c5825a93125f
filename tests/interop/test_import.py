"""Whole models of other packages through `lit-tune import`: pictures and texts give the vectors that they give."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import small_exports as small
import timm
import torch
import transformers
from safetensors.torch import save_file
from small_models import WORDS, write_text_tower, write_tokenizer
from timm.data import create_transform, resolve_data_config

import lit_tune
from lit_tune import cli, eval as eval_command

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore::UserWarning")]
CLOSE = 1e-5  # of components of unit vectors
PHOTO = small.photo(50, 64)
FITTING = small.photo(36, 46)  # of the size that CLIP's processor resizes to: its resize is up to a level off Pillow's
TEXTS = ["a cat", "the big red dog on the mat"]
EOS = WORDS.index("[SEP]")


def unit(rows: Any) -> np.ndarray:
    """Rows of length 1."""
    rows = np.asarray(rows.detach() if isinstance(rows, torch.Tensor) else rows)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """The model with noise on every weight, as training leaves it."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def imported(tmp_path: Path, *words: str) -> lit_tune.model.Model:
    """What `lit-tune import` makes of it, loaded."""
    assert cli.main(["import", f"--out={tmp_path / 'ours'}", *words]) == 0
    return lit_tune.load(tmp_path / "ours")


def hf_clip(folder: Path, pickled: bool = False) -> transformers.CLIPModel:
    """A small CLIP of transformers, saved with its processor and a tokenizer."""
    size = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    text = size | dict(vocab_size=len(WORDS), max_position_embeddings=16, eos_token_id=EOS, bos_token_id=2)
    config = transformers.CLIPConfig(text_config=text, vision_config=size | dict(image_size=32, patch_size=8),
                                     projection_dim=24)  # fmt: skip
    model = shaken(transformers.CLIPModel(config))
    model.save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 36}, crop_size=32).save_pretrained(folder)
    write_tokenizer(folder)
    if pickled:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return model


@pytest.mark.parametrize("pickled", [False, True])
def test_a_clip_of_transformers_is_imported_whole(pickled: bool, tmp_path: Path) -> None:
    model = hf_clip(tmp_path / "hub", pickled)
    words = ["--allow_pickle_weights"] if pickled else []
    ours = imported(tmp_path, "--from=hf", f"--weights={tmp_path / 'hub'}", *words)
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "hub")
    with torch.no_grad():
        image = model.get_image_features(**processor(FITTING, return_tensors="pt"))
        image = image if isinstance(image, torch.Tensor) else image.pooler_output
        for text in TEXTS:
            ids = torch.tensor([ours.text.tokenizer([text])[0].tolist()])
            theirs = model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids))
            theirs = theirs if isinstance(theirs, torch.Tensor) else theirs.pooler_output
            np.testing.assert_allclose(ours.embed_texts([text]), unit(theirs), atol=CLOSE)
    np.testing.assert_allclose(ours.embed_images([FITTING]), unit(image), atol=CLOSE)
    assert ours.vision.preprocess["crop_pct"] == 32 / 36 and ours.dim == 24


def test_a_model_of_open_clip_is_imported_whole_and_scored_by_our_evaluator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"embed_dim": 24, "quick_gelu": True,
              "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
              "text_cfg": {"context_length": 16, "vocab_size": len(WORDS), "width": 32, "heads": 2, "layers": 2,
                           "eos_id": EOS}}  # fmt: skip
    model = shaken(open_clip.CLIP(**{k: v for k, v in config.items()}))
    folder = write_tokenizer(tmp_path / "hub")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "squash"}}))
    ours = imported(tmp_path, "--from=open_clip", f"--weights={folder}")
    transform = open_clip.image_transform(32, is_train=False, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4),
                                          interpolation="bicubic", resize_mode="squash")  # fmt: skip
    with torch.no_grad():
        np.testing.assert_allclose(ours.embed_images([PHOTO]), unit(model.encode_image(transform(PHOTO)[None])),
                                   atol=CLOSE)
        for text in TEXTS:
            ids, _ = ours.text.tokenizer.pad(ours.text.tokenizer([text]), 16)  # it wants its full length, padded with 0
            theirs = model.encode_text(torch.from_numpy(ids).long())
            np.testing.assert_allclose(ours.embed_texts([text]), unit(theirs), atol=CLOSE)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    lines = ["image,caption"]
    for number, text in enumerate(TEXTS):
        small.photo(40 + number, 50, seed=number).save(pictures / f"{number}.png")
        lines.append(f"{number}.png,{text}")
    (pictures / "captions.csv").write_text("\n".join(lines) + "\n")
    assert eval_command.main([f"--model={tmp_path / 'ours'}", f"--tasks=two={pictures}"]) == 0
    assert "text to image R@1" in capsys.readouterr().out


@pytest.mark.parametrize("name, arguments", [
    ("eva02_tiny_patch14_224", {"img_size": 56, "depth": 2}),
    ("vit_base_patch16_siglip_224", {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 2, "depth": 2}),
    ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}),
])  # fmt: skip
def test_a_timm_model_is_imported_with_its_own_crop_and_constants(
    name: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    model = shaken(timm.create_model(name, num_classes=0, **arguments))
    size = arguments["img_size"]
    data = resolve_data_config({"input_size": (3, size, size)}, model=model)
    save_folder = tmp_path / "hub"
    save_folder.mkdir()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, save_folder / "model.safetensors")
    page = {"architecture": name, "num_classes": 0, "model_args": arguments,
            "pretrained_cfg": {k: data[k] for k in ("input_size", "interpolation", "crop_pct", "crop_mode", "mean",
                                                    "std")}}  # fmt: skip
    (save_folder / "config.json").write_text(json.dumps(page))
    ours = imported(tmp_path, "--from=timm", f"--weights={save_folder}")
    with torch.no_grad():
        theirs = model(create_transform(**data, is_training=False)(PHOTO)[None])
    np.testing.assert_allclose(ours.embed_images([PHOTO]), unit(theirs), atol=CLOSE)


def test_another_patch_size_is_torchs_bicubic_interpolation(tmp_path: Path) -> None:
    model = shaken(timm.create_model("eva02_tiny_patch14_224", num_classes=0, img_size=56, depth=1))
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({
        "architecture": "eva02_tiny_patch14_224", "num_classes": 0, "model_args": {"img_size": 56, "depth": 1},
        "pretrained_cfg": {"crop_pct": 1.0}}))
    ours = imported(tmp_path, "--from=timm", f"--weights={folder}", "--patch_size=16", "--image_size=64")
    assert ours.image_size == (64, 64) and ours.vision.tower.spec.patch_size == 16
    wanted = torch.nn.functional.interpolate(model.patch_embed.proj.weight, size=(16, 16), mode="bicubic",
                                             align_corners=False).detach().numpy()  # fmt: skip
    found = np.asarray(ours.vision.params["patch_embed"]["kernel"]).reshape(16, 16, 3, -1).transpose(3, 2, 0, 1)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert np.isfinite(ours.embed_images([PHOTO])).all()


def test_a_pickle_that_holds_more_than_tensors_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_text_tower(tmp_path / "hub")
    torch.save({"weights": Path("a")}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    words = ["import", "--from=hf", f"--weights={folder}", f"--out={tmp_path / 'ours'}", "--allow_pickle_weights"]
    assert cli.main(words) == 2
    line = capsys.readouterr().err
    assert "expected a pickle that holds tensors only" in line and line.count("\n") == 1
    assert not (tmp_path / "ours").exists()


def test_an_imported_clip_goes_out_as_a_model_that_open_clip_builds_by_itself(tmp_path: Path) -> None:
    hf_clip(tmp_path / "hub")
    ours = imported(tmp_path, "--from=hf", f"--weights={tmp_path / 'hub'}", "--image_size=32")
    page = json.loads((tmp_path / "ours" / "vision_tower.json").read_text())
    del page["preprocess"]["crop_pct"]  # which open_clip has no word for
    (tmp_path / "ours" / "vision_tower.json").write_text(json.dumps(page))
    words = ["export", f"--model={tmp_path / 'ours'}", "--format=open_clip", f"--out={tmp_path / 'out'}"]
    assert cli.main(words) == 0
    checks = json.loads((tmp_path / "out" / "proof.json").read_text())["checks"]
    assert all({one["who"].split()[0] for one in check["checked_by"]} == {"own_reader", "open_clip_torch"}
               for check in checks)  # fmt: skip
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    tokenizer, again = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}"), lit_tune.load(tmp_path / "out")
    with torch.no_grad():
        texts = model.eval().encode_text(tokenizer(TEXTS))
        images = model.encode_image(transform(PHOTO)[None])
    np.testing.assert_allclose(ours.embed_texts(TEXTS), unit(texts), atol=CLOSE)
    np.testing.assert_allclose(again.embed_images([PHOTO]), unit(images), atol=CLOSE)
    np.testing.assert_allclose(again.embed_texts(TEXTS), ours.embed_texts(TEXTS), atol=CLOSE)
