"""Text towers where no stored numbers reach: JinaBERT in plain numpy, pooling rules, configs, files with two towers.

JinaBERT's published code was not run: it is remote code, which nothing here executes. The numpy form below was written
from the facts that lit_tune/models/jina_bert.py cites, on the peer's names, apart from ours.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import reference
from safetensors.numpy import save_file

from lit_tune import convert, tree
from lit_tune.convert import mapping
from lit_tune.convert.peer_text import text_spec
from lit_tune.errors import ConfigError
from lit_tune.models import jina_bert, text_pool
from lit_tune.models.two_towers import tower_of
from lit_tune.text import encode, weights
from lit_tune.text.encode import TextEncoder
from lit_tune.text.tokenizer import Tokenizer

JINA = {
    "model_type": "bert", "position_embedding_type": "alibi", "feed_forward_type": "geglu", "hidden_act": "gelu",
    "vocab_size": 60, "type_vocab_size": 2, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
    "intermediate_size": 40, "layer_norm_eps": 1e-12, "max_position_embeddings": 8192, "emb_pooler": "mean",
}  # fmt: skip
# The slopes of 6 heads: those of 4 (2^-2, 2^-4, ...), then the first and third of 8 (2^-1, 2^-3).
SLOPES = [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
CLIP = {
    "model_type": "clip_text_model", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 20, "eos_token_id": 2,
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 24,
}  # fmt: skip
SIGLIP = {
    "model_type": "siglip_text_model", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 20, "pad_token_id": 1,
}  # fmt: skip
OPEN_CLIP = {"embed_dim": 24, "quick_gelu": True,
             "text_cfg": {"context_length": 20, "vocab_size": 60, "width": 32, "heads": 4, "layers": 1,
                          "mlp_ratio": 1.5}}  # fmt: skip


def random_params(spec: Any) -> tree.Tree:
    """Different numbers everywhere, of a size that keeps activations ordinary."""
    named = {name.replace("/", "."): leaf.shape for name, leaf in tree.flatten(tower_of(spec).abstract()).items()}
    return tree.unflatten({name.replace(".", "/"): array for name, array in reference.fill(named, 5).items()})


def batch(seed: int = 0, length: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of three texts, padded on the right."""
    ids = np.random.default_rng(seed).integers(4, 60, (3, length)).astype(np.int32)
    mask = np.arange(length) < np.array([[length], [5], [1]])
    return ids, mask.astype(np.int32)


def norm(x: np.ndarray, named: dict[str, np.ndarray], name: str) -> np.ndarray:
    """LayerNorm of eps 1e-12."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * named[f"{name}.weight"] + named[f"{name}.bias"]


def linear(x: np.ndarray, named: dict[str, np.ndarray], name: str) -> np.ndarray:
    """x W^T + b."""
    return x @ named[f"{name}.weight"].T + named[f"{name}.bias"]


def numpy_jina_bert(named: dict[str, np.ndarray], ids: np.ndarray, heads: int) -> np.ndarray:
    """Last hidden states (s, d) of one unpadded text, float64, on jina-embeddings-v2's names."""
    named = {name: array.astype(np.float64) for name, array in named.items()}
    x = named["embeddings.word_embeddings.weight"][ids] + named["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, named, "embeddings.LayerNorm")
    distance = np.abs(np.subtract.outer(np.arange(len(ids)), np.arange(len(ids))))
    for i in range(2):
        p = f"encoder.layer.{i}."
        q, k, v = (
            linear(x, named, f"{p}attention.self.{part}").reshape(len(ids), heads, -1)
            for part in ("query", "key", "value")
        )
        joined = []
        for h in range(heads):
            logits = q[:, h] @ k[:, h].T / np.sqrt(q.shape[-1]) - SLOPES[h] * distance
            chances = np.exp(logits - logits.max(-1, keepdims=True))
            joined.append(chances / chances.sum(-1, keepdims=True) @ v[:, h])
        attended = linear(np.concatenate(joined, -1), named, f"{p}attention.output.dense")
        x = norm(x + attended, named, f"{p}attention.output.LayerNorm")
        first, second = np.split(x @ named[f"{p}mlp.gated_layers.weight"].T, 2, axis=-1)
        gelu = first * 0.5 * (1 + np.vectorize(math.erf)(first / math.sqrt(2)))
        x = norm(x + linear(gelu * second, named, f"{p}mlp.wo"), named, f"{p}mlp.layernorm")
    return x


def jina_weights() -> dict[str, np.ndarray]:
    """Random weights on jina-embeddings-v2's names, with the arrays that no embedding needs."""
    spec = text_spec(JINA, "hf")
    named = mapping.to_peer(random_params(spec), spec, "hf")
    return named | {"pooler.dense.weight": np.ones((48, 48), np.float32)}


def test_jina_bert_is_the_numpy_form_of_the_cited_facts() -> None:
    tower, (ids, mask) = convert.text(jina_weights(), JINA, "hf"), batch()
    tokens, vectors = np.asarray(tower.tokens(ids, mask)), np.asarray(tower(ids, mask))
    expected = [numpy_jina_bert(jina_weights(), row[: m.sum()], 6) for row, m in zip(ids, mask, strict=True)]
    ours = {"tokens": tokens[mask == 1], "mean": vectors}
    theirs = {"tokens": np.concatenate(expected), "mean": np.stack([x.mean(0) for x in expected])}
    for name in ours:
        assert reference.rel(ours[name], theirs[name]) <= reference.FORWARD, name


def test_alibi_falls_with_distance_by_the_published_slopes() -> None:
    assert jina_bert.alibi_slopes(6) == SLOPES
    assert jina_bert.alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    # 12 heads, as published: those of 8, then the 1st, 3rd, 5th and 7th of 16
    assert jina_bert.alibi_slopes(12)[8:] == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
    bias = np.asarray(jina_bert.alibi_bias(6, 4))
    np.testing.assert_allclose(bias[1], -(2.0**-4) * np.array([[0, 1, 2, 3], [1, 0, 1, 2], [2, 1, 0, 1], [3, 2, 1, 0]]))


def jina_clip_weights() -> dict[str, np.ndarray]:
    """The same weights as Jina CLIP v1 holds them, renamed as the peer's convert_v2_weights.py does it."""
    old = {name: a for name, a in jina_weights().items() if not name.startswith("pooler")}
    renamed = {"embeddings.LayerNorm": "emb_ln", ".layer.": ".layers.", "attention.output.LayerNorm": "norm1",
               "mlp.layernorm": "norm2", "attention.output.dense": "mixer.out_proj"}  # fmt: skip
    new = {}
    for name, array in old.items():
        if ".attention.self." not in name:
            for before, after in renamed.items():
                name = name.replace(before, after)
            new[name] = array
    for i in range(2):
        for kind in ("weight", "bias"):
            parts = [old[f"encoder.layer.{i}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            new[f"encoder.layers.{i}.mixer.Wqkv.{kind}"] = np.concatenate(parts)
    return {f"text_model.transformer.{name}": array for name, array in new.items()}


def jina_clip_config(**changes: Any) -> dict[str, Any]:
    """JinaCLIPConfig v1 over a small text tower."""
    small = {name: JINA[name] for name in JINA if name.endswith("size") or name.startswith("num_")}
    text = {"model_type": "jina_clip_text", "embed_dim": 48, "pooler_type": "mean_pooler", "proj_type": None,
            "proj_bias": False, "hf_model_name_or_path": "jinaai/jina-bert-flash-implementation",
            "hf_model_config_kwargs": {"use_flash_attn": False, **small}}  # fmt: skip
    return {"model_type": "jina_clip", "add_projections": False, "projection_dim": 48, "text_config": text | changes}


def test_jina_clips_spelling_is_the_same_tower_and_its_vision_tower_is_set_aside() -> None:
    named = jina_clip_weights()
    whole = named | {"vision_model.cls_token": np.ones((1, 1, 48), np.float32), "logit_scale": np.float32(2.6)}
    clip, plain = convert.text(whole, jina_clip_config(), "hf", pool="cls"), convert.text(jina_weights(), JINA, "hf")
    assert clip.spec == plain.spec  # pooled by the mean, whatever is asked
    for name, array in tree.flatten(plain.params).items():
        np.testing.assert_array_equal(tree.flatten(clip.params)[name], array, err_msg=name)
    written = mapping.to_peer(clip.params, clip.spec, "jina_clip")
    assert set(written) == set(named) and all(np.array_equal(written[name], named[name]) for name in named)


def test_jina_clip_v1s_text_tower_has_the_sizes_of_the_repository_it_names() -> None:
    config = jina_clip_config(hf_model_config_kwargs={"use_flash_attn": False})
    spec = text_spec(config, "hf")
    assert (spec.vocab_size, spec.width, spec.depth, spec.num_heads, spec.mlp_dim) == (30528, 768, 12, 12, 3072)
    pooler = 768 * 769  # the published count of jina-embeddings-v2-base-en includes it
    assert tree.count(tower_of(spec).abstract()) + pooler == 137_368_320


@pytest.mark.parametrize("pool, expected", [("cls", [0, 0, 0]), ("last", [5, 3, 0]), ("eos", [2, 1, 0]),
                                            ("argmax", [4, 1, 0])])  # fmt: skip
def test_every_pool_takes_the_token_that_its_rule_names(pool: str, expected: list[int]) -> None:
    ids = np.array([[5, 6, 7, 7, 9, 6], [5, 7, 6, 4, 9, 7], [9, 7, 7, 7, 7, 7]])
    mask = np.array([[1] * 6, [1] * 4 + [0] * 2, [0] * 6]) == 1
    tokens = np.random.default_rng(0).standard_normal((3, 6, 4)).astype(np.float32)
    found = text_pool.pool_tokens(*map(jax.numpy.asarray, (tokens, ids, mask)), pool, 7)
    np.testing.assert_array_equal(found, tokens[np.arange(3), expected])


def test_siglip_pads_by_itself_to_its_full_length_with_its_own_id() -> None:
    spec = text_spec(SIGLIP, "hf")
    tower = convert.ConvertedTower(random_params(spec), spec)
    ids, mask = batch()
    full = np.where(mask == 1, ids, 1)
    full = np.pad(full, ((0, 0), (0, 9)), constant_values=1)
    expected = np.asarray(tower(full, np.ones_like(full)))  # what a caller of the peer does
    np.testing.assert_allclose(tower(ids, mask), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tower(ids[1:2, :5], mask[1:2, :5]), expected[1:2], rtol=1e-5, atol=1e-5)
    assert tower.tokens(ids, mask).shape == (3, 20, 32)
    assert np.abs(np.asarray(tower(np.where(full == 1, 0, full), np.ones_like(full))) - expected).max() > 1e-2


@pytest.mark.parametrize("config, layout, expected", [
    (CLIP, "hf", {"pool": "argmax", "embed_dim": 0, "act": "quick_gelu"}),
    (CLIP | {"eos_token_id": 49, "hidden_act": "gelu"}, "hf", {"pool": "eos", "eos_id": 49, "act": "gelu"}),
    (CLIP | {"architectures": ["CLIPTextModelWithProjection"]}, "hf", {"embed_dim": 24, "proj_bias": False}),
    ({"model_type": "clip", "projection_dim": 512, "text_config": {}}, "hf",
     {"vocab_size": 49408, "width": 512, "embed_dim": 512, "max_positions": 77, "eos_id": 49407, "mlp_dim": 2048}),
    ({"model_type": "siglip", "text_config": {}}, "hf",
     {"vocab_size": 32000, "width": 768, "embed_dim": 768, "max_positions": 64, "causal": False, "pool": "last",
      "act": "gelu_tanh", "norm_eps": 1e-6, "proj_bias": True, "pad_id": 1}),
    (OPEN_CLIP, "open_clip", {"pool": "argmax", "embed_dim": 24, "act": "quick_gelu", "mlp_dim": 48, "causal": True}),
    ({"model_cfg": OPEN_CLIP | {"quick_gelu": False}}, "open_clip", {"act": "gelu", "norm_eps": 1e-5}),
    ({"embed_dim": 768, "text_cfg": {
        "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"}, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2"}}, "open_clip",
     {"causal": False, "pool": "last", "proj_bias": True, "norm_eps": 1e-6, "act": "gelu_tanh", "pad_id": 0}),
    ({"embed_dim": 768, "text_cfg": {"pool_type": "last", "hf_tokenizer_name": "timm/ViT-B-16-SigLIP"}}, "open_clip",
     {"pad_id": 1}),
    ({"embed_dim": 768, "text_cfg": {"proj_type": "none", "pool_type": "eos", "eos_id": 7}}, "open_clip",
     {"embed_dim": 0, "pool": "eos", "eos_id": 7}),
])
def test_a_peers_config_gives_the_rule_and_the_sizes(config: dict, layout: str, expected: dict) -> None:
    spec = text_spec(config, layout, pool="cls", layer_norm=True, dim=8)
    assert {name: getattr(spec, name) for name in expected} == expected
    assert spec.layer_norm and spec.out_dim == 8


def test_modern_berts_config_of_version_4_and_5_give_the_same_tower() -> None:
    sizes = {"model_type": "modernbert", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4,
             "num_attention_heads": 4, "intermediate_size": 48, "norm_eps": 1e-5, "local_attention": 8}  # fmt: skip
    older = {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    full, near = "full_attention", "sliding_attention"
    newer = {"layer_types": [full, near, near, full],
             "rope_parameters": {full: {"rope_theta": 160000.0, "rope_type": "default"},
                                 near: {"rope_theta": 10000.0, "rope_type": "default"}}}  # fmt: skip
    assert text_spec(sizes | older, "hf") == text_spec(sizes | newer, "hf")
    assert text_spec(sizes | older, "hf").window == 4
    with pytest.raises(ConfigError, match="layer_types"):
        text_spec(sizes | newer | {"layer_types": [full, near, full, full]}, "hf")


@pytest.mark.parametrize("config, layout, name", [
    ({"model_type": "made up"}, "hf", "model_type made up"),
    ({"model_type": "clip_vision_model"}, "hf", "model_type clip_vision_model"),
    (JINA | {"position_embedding_type": "relative_key"}, "hf", "BERT with relative_key positions"),
    (JINA | {"feed_forward_type": "original"}, "hf", "feed_forward_type='original'"),
    (jina_clip_config(hf_model_name_or_path="jinaai/jina-embeddings-v3"), "hf", "Jina CLIP over jinaai/jina-embed"),
    (CLIP | {"eos_token_id": [2, 3]}, "hf", "eos_token_id=[2, 3]"),
    (CLIP | {"hidden_act": "silu"}, "hf", "hidden_act='silu'"),
    ({"embed_dim": 9, "text_cfg": {"hf_model_name": "xlm-roberta-base"}}, "open_clip", "xlm-roberta-base"),
    ({"embed_dim": 9, "text_cfg": {"embed_cls": True}}, "open_clip", "embed_cls=True"),
    ({"embed_dim": 9, "text_cfg": {"pool_type": "none"}}, "open_clip", "pool_type='none'"),
    ({"embed_dim": 9, "text_cfg": {"act_kwargs": {"approximate": "fast"}}}, "open_clip", "act_kwargs="),
    ({"embed_dim": 9, "text_cfg": {"proj_type": "mlp"}}, "open_clip", "proj_type='mlp'"),
    ({}, "open_clip", "without text_cfg"),
])  # fmt: skip
def test_what_is_not_supported_is_said_by_name(config: dict[str, Any], layout: str, name: str) -> None:
    with pytest.raises(ConfigError, match="not yet supported") as caught:
        text_spec(config, layout)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_pool_that_a_family_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"text.pool: expected mean \| cls \| last, found eos"):
        text_spec(JINA, "hf", pool="eos")


def test_the_other_tower_of_a_file_is_set_aside_and_anything_else_is_named() -> None:
    spec = text_spec({"model_type": "clip", "projection_dim": 24, "text_config": CLIP}, "hf")
    hf = mapping.to_peer(random_params(spec), spec, "hf")
    assert "text_projection.weight" in hf and "text_model.final_layer_norm.bias" in hf
    other = {"vision_model.post_layernorm.weight": np.ones(3, np.float32), "logit_scale": np.float32(4.6),
             "visual_projection.weight": np.ones((3, 3), np.float32),
             "text_model.embeddings.position_ids": np.arange(20)[None]}  # fmt: skip
    same = convert.text(hf | other, CLIP, "hf")  # the config does not say that there is a projection, the names do
    assert same.spec == spec
    with pytest.raises(ConfigError, match=r"1 extra \(encoder.layers.7.mlp.fc1.bias\)"):
        convert.text(hf | {"text_model.encoder.layers.7.mlp.fc1.bias": np.ones(3, np.float32)}, CLIP, "hf")
    mine = mapping.to_peer(random_params(spec), spec, "open_clip_custom_text")
    assert {name.partition(".")[0] for name in mine} == {"text"}
    other = {"visual.conv1.weight": np.ones(3, np.float32), "logit_scale": np.float32(4.6), "logit_bias": np.float32(0)}
    tower = convert.text(mine | other, OPEN_CLIP, "open_clip")
    plain = {name.removeprefix("text."): array for name, array in mine.items()}
    assert plain["text_projection"].shape == (32, 24)
    ids, mask = batch()
    expected = np.asarray(same(ids, mask))
    for found in (tower, convert.text(plain | other, OPEN_CLIP, "open_clip")):
        np.testing.assert_array_equal(found(ids, mask), expected)
    plain.pop("positional_embedding")
    with pytest.raises(ConfigError, match=r"1 missing \(positional_embedding\)"):
        convert.text(plain, OPEN_CLIP, "open_clip")


def write_clip(folder: Path) -> dict[str, Any]:
    """A folder as CLIP's on the hub, its BPE tokenizer of single letters; the config that is in it."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    folder.mkdir()
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = {w: i for i, w in enumerate([*letters, *(x + "</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = tokenizers.Tokenizer(models.BPE(words, [], unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = ("<|endoftext|>", 53), ("<|startoftext|>", 52)
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"model_type": "clip", "projection_dim": 24,
              "text_config": CLIP | {"max_position_embeddings": 77, "vocab_size": 54}}  # fmt: skip
    spec = text_spec(config, "hf")
    save_file(mapping.to_peer(random_params(spec), spec, "hf"), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return config


def test_a_clip_folder_encodes_texts_of_every_length_as_its_tower_does(tmp_path: Path) -> None:
    config = write_clip(tmp_path / "clip")
    text = SimpleNamespace(model=str(tmp_path / "clip"), revision="", sha256="", prefix="", max_length=77, pool="mean",
                           layer_norm=False, dim=0)  # fmt: skip
    encoder = TextEncoder.from_files(weights.find(text, download=False), text)
    assert encoder.dim == 24 and encoder.tokenizer.pad_id == 53
    texts = ["", "a cat", "the quick brown fox", "z" * 300]
    ids = encoder.tokenizer(texts)
    assert ids[0].tolist() == [52, 53] and len(ids[3]) == 77 and ids[3][-1] == 53
    plain = convert.text(tmp_path / "clip", config, "hf")
    pooled = np.asarray(plain(*encoder.tokenizer.pad(ids)))
    np.testing.assert_allclose(encoder.encode(texts), pooled / np.linalg.norm(pooled, axis=1, keepdims=True), atol=1e-6)
    assert encode.text_tower(json.loads(json.dumps(encoder.description))) == encoder.tower
    with pytest.raises(ConfigError, match="at most 77 tokens for this tower, found 78"):
        text.max_length = 78
        TextEncoder.from_files(weights.find(text, download=False), text)


def test_a_tokenizer_of_sentence_pieces_pads_with_its_own_id(tmp_path: Path) -> None:
    import tokenizers
    from tokenizers import models

    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("▁", -2.0), ("c", -2.0)]
    tokenizers.Tokenizer(models.Unigram(pieces, 3)).save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer(tmp_path, "", 8).pad_id == 1
