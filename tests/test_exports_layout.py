"""What the exported folders hold, without the packages that load them: files, JSON, frozen bytes, refusals."""

import dataclasses
import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import small_exports as small
import tokenizers

from lit_tune.convert import mapping, weights
from lit_tune.errors import ConfigError
from lit_tune.exports import hf, onnx, open_clip, open_clip_native, preprocessing, sentence_transformers, text_folder
from lit_tune.models.clip_text import ClipTextSpec
from lit_tune.models.nomic_bert import NomicBertSpec
from lit_tune.text import encode
from lit_tune.text.encode import TextEncoder
from lit_tune.text.tokenizer import Tokenizer

FILES = {  # of a nomic-embed-text tower with a projected image tower
    "1_Normalize/config.json", "config.json", "config_sentence_transformers.json", "modules.json",
    "image_0_Transformer/config.json", "image_0_Transformer/model.safetensors",
    "image_0_Transformer/sentence_bert_config.json", "image_1_Dense/config.json", "image_1_Dense/model.safetensors",
    "open_clip_config.json", "open_clip_model.safetensors", "router_config.json", "text_0_Transformer/config.json",
    "text_0_Transformer/model.safetensors", "text_0_Transformer/sentence_bert_config.json",
    "text_0_Transformer/tokenizer.json", "text_0_Transformer/tokenizer_config.json", "text_1_Pooling/config.json",
    "text_2_LayerNorm/config.json", "text_2_LayerNorm/model.safetensors", "text_3_Dense/config.json",
    "text_3_Dense/model.safetensors", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def page(path: Path) -> dict:
    """The object in a JSON file."""
    return json.loads(path.read_text())


def test_the_default_folder_holds_one_file_each_for_what_its_loaders_look_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx, "available", lambda: "the package onnx is not installed")
    given = small.source(small.vision(embed_dim=8), small.nomic_bert(tmp_path / "text", dim=8), logit_scale=3.5)
    written = hf.write(given, tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == FILES
    both = 2 * ["open_clip_model.safetensors"]
    alone = [f"{name}_0_Transformer/model.safetensors" for name in ("text", "image")]
    assert [part.file for part in written] == alone + both
    assert "the ONNX files are left out: the package onnx is not installed" in capsys.readouterr().err
    for part in written:
        tower = given.vision if part.kind == "vision" else given.text
        read = mapping.from_peer(weights.read(tmp_path / "out" / part.file), tower.tower.spec, part.layout)
        jax.tree.map(np.testing.assert_array_equal, read, jax.device_get(tower.params))
        assert not part.tokenizer or (tmp_path / "out" / part.tokenizer).is_file()


def test_the_frozen_weights_are_copied_and_the_config_is_transformers_own(tmp_path: Path) -> None:
    given = small.source(small.vision(), small.nomic_bert(tmp_path / "text"))
    (tmp_path / "text" / "LICENSE").write_text("free")
    sentence_transformers.write(given, tmp_path / "out")
    folder = tmp_path / "out" / "text_0_Transformer"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == given.text.description["text"]["weights_sha256"]
    assert (folder / "LICENSE").read_text() == "free"
    config = page(folder / "config.json")
    assert config["hidden_size"] == 16 and config["intermediate_size"] == 256 and config["vocab_size"] == 16
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 1000.0}
    assert not {"n_embd", "auto_map"} & set(config)  # the first is ignored in silence, the second is remote code
    assert config["dtype"] == "float32" and config["pad_token_id"] == 0


def test_a_text_tower_in_memory_or_under_our_names_is_written_under_transformers(tmp_path: Path) -> None:
    folder = small.nomic_bert(tmp_path / "text")
    folder.description["weights"] = {"file": "model.safetensors", "layout": "lit_tune", "sha256": ""}
    written = sentence_transformers.write(small.source(small.vision(), folder), tmp_path / "out")
    assert written[0].layout == "nomic"
    assert "emb_ln.weight" in weights.read(tmp_path / "out" / written[0].file)


def test_the_prefix_is_a_prompt_for_one_tool_and_in_the_tokenizer_for_others(tmp_path: Path) -> None:
    given = small.source(small.vision(), small.bert(tmp_path / "text", "query: "))
    hf.write(given, tmp_path / "out")
    prompts = page(tmp_path / "out" / "config_sentence_transformers.json")
    assert prompts["prompts"] == {"query": "query: ", "document": "query: "}
    assert prompts["default_prompt_name"] == "query"
    root, plain = (tokenizers.Tokenizer.from_file(str(tmp_path / "out" / name))
                   for name in ("tokenizer.json", "text_0_Transformer/tokenizer.json"))  # fmt: skip
    for text in small.TEXTS[:3]:
        assert root.encode(text).ids == given.text.tokenizer([text])[0].tolist()
        assert plain.encode(text).ids == given.text.tokenizer([text], "")[0].tolist()
    assert page(tmp_path / "out" / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert page(tmp_path / "out" / "tokenizer_config.json")["model_max_length"] == 16


def test_without_a_prefix_there_is_no_prompt(tmp_path: Path) -> None:
    hf.write(small.source(small.vision(), small.bert(tmp_path / "text")), tmp_path / "out")
    assert "prompts" not in page(tmp_path / "out" / "config_sentence_transformers.json")
    normalizer = page(tmp_path / "out" / "tokenizer.json")["normalizer"]
    assert normalizer["type"] == "BertNormalizer"


def test_open_clip_is_told_sizes_poolers_and_scale(tmp_path: Path) -> None:
    text = small.nomic_bert(tmp_path / "text", dim=8)
    given = small.source(small.vision(embed_dim=8, resize="squash"), text, logit_scale=2.5, logit_bias=-9.0)
    open_clip.write(given, tmp_path / "out")
    config = page(tmp_path / "out" / "open_clip_config.json")
    model = config["model_cfg"]
    assert model["embed_dim"] == 8 and model["init_logit_bias"] == -9.0
    assert model["vision_cfg"]["timm_proj"] == "" and model["vision_cfg"]["timm_pool"] == "map"
    assert model["text_cfg"]["hf_pooler_type"] == "mean_layer_norm_pooler"
    assert model["text_cfg"]["hf_proj_type"] == "linear" and model["text_cfg"]["context_length"] == 16
    assert config["preprocess_cfg"]["resize_mode"] == "squash"
    named = weights.read(tmp_path / "out" / "open_clip_model.safetensors")
    assert named["logit_scale"] == np.float32(2.5) and named["logit_bias"] == -9.0
    np.testing.assert_array_equal(named["text.proj.weight"], np.eye(8, 16))
    assert page(tmp_path / "out" / "config.json")["num_classes"] == 8  # timm's


@pytest.mark.parametrize("changes", [{}, {"embed_dim": 24}])
def test_nomics_pooling_names_an_architecture_that_is_not_timms(changes: dict, tmp_path: Path) -> None:
    given = small.source(small.vision(**(small.NOMIC_HEAD | changes)), small.bert(tmp_path / "text"))
    image = open_clip.write(given, tmp_path / "out")[0]
    config = page(tmp_path / "out" / "config.json")
    assert config["architecture"] == "lit_tune_nomic_vision" and config["model_args"]["mlp_norm_eps"] == 1e-5
    named = weights.read(tmp_path / "out" / image.file)
    assert np.any(named["visual.trunk.blocks.1.attn.qkv.bias"][16:32])  # on the keys
    assert "visual.trunk.attn_pool.mlp.fc1_g.weight" in named
    read = mapping.from_peer(named, given.vision.tower.spec, image.layout)
    jax.tree.map(np.testing.assert_array_equal, read, given.vision.params)


NTK = {"rotary_scaling_factor": 2.0, "max_trained_positions": 8}


def test_towers_that_no_folder_can_hold_are_refused_in_one_line(tmp_path: Path) -> None:
    nomic_head = small.source(small.vision(pool="nomic"), small.bert(tmp_path / "a"))
    stretched = small.nomic_bert(tmp_path / "b")
    config = page(tmp_path / "b" / "config.json") | NTK
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    stretched = small.source(small.vision(), small.encoder(tmp_path / "b", ""))
    no_positions = small.source(small.vision(pos_embed=False), small.bert(tmp_path / "c"))
    cases = [(hf, nomic_head, "nomic pooling head"), (hf, stretched, "NTK"),
             (open_clip, no_positions, "no position embedding")]  # fmt: skip
    for number, (writer, given, reason) in enumerate(cases):
        with pytest.raises(ConfigError, match=reason) as error:
            writer.write(given, tmp_path / f"out{number}")
        assert "\n" not in str(error.value) and error.value.exit_code == 2


@pytest.mark.parametrize("changes, reason", [
    ({"crop_pct": 0.9}, "crop_pct 0.9"),
    ({"interpolation": "bilinear", "image_size": [32, 48]}, "bilinear at 32 x 48"),
])  # fmt: skip
def test_pictures_that_open_clip_would_prepare_otherwise_are_refused(changes: dict, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as error:
        open_clip.preprocess_config(small.PREPROCESS | changes)
    assert "\n" not in str(error.value)
    assert open_clip.preprocess_config(small.PREPROCESS | {"interpolation": "bilinear"})["interpolation"] == "bilinear"


def test_a_tower_with_robertas_positions_is_not_written_as_a_bert(tmp_path: Path) -> None:
    spec = dataclasses.replace(small.bert(tmp_path / "text").tower.spec, first_position=2)
    with pytest.raises(ConfigError, match="RoBERTa's positions"):
        text_folder.config(spec, 0, 16)


def test_ntk_that_texts_never_reach_is_left_out(tmp_path: Path) -> None:
    small.nomic_bert(tmp_path / "text")
    config = page(tmp_path / "text" / "config.json") | NTK | {"max_trained_positions": 16}
    (tmp_path / "text" / "config.json").write_text(json.dumps(config))
    text = small.encoder(tmp_path / "text", "")
    assert isinstance(text.tower.spec, NomicBertSpec) and text.tower.spec.ntk_factor == 2.0
    sentence_transformers.write(small.source(small.vision(), text), tmp_path / "out")
    assert page(tmp_path / "out" / "text_0_Transformer" / "config.json")["rope_parameters"]["rope_type"] == "default"


@pytest.mark.parametrize("policy, tool", [("reference", "sentence-transformers"), ("clean", "open_clip")])
def test_differences_are_told_by_the_towers_own_policy(policy: str, tool: str) -> None:
    lines = preprocessing.differences(small.PREPROCESS | {"policy": policy})
    assert lines and all("\n" not in line for line in lines) and any(tool in line for line in lines)
    assert len(lines) == sum(row.policy == policy for row in preprocessing.DIFFERENCES)
    assert any("orientation" in line for line in lines) == (policy == "clean")


def test_an_image_tower_that_openai_s_clip_has_not_is_refused_beside_its_text(tmp_path: Path) -> None:
    text = ClipTextSpec(vocab_size=16, max_positions=16, width=16, depth=1, num_heads=2, mlp_dim=32, norm_eps=1e-5,
                        act="quick_gelu", causal=True, pool="argmax", eos_id=2, pad_id=0, embed_dim=16,
                        proj_bias=False, layer_norm=False, dim=0)  # fmt: skip
    tokenizer = Tokenizer(small.write_tokenizer(tmp_path), "", 16)
    given = small.source(small.vision(), TextEncoder(encode.describe(text, tokenizer, "", "clip"), {}, tokenizer))
    message = "image tower of a CLIP: expected OpenAI's plain ViT with a projection, found eva02"
    with pytest.raises(ConfigError, match=message):
        open_clip_native.model_config(given)
