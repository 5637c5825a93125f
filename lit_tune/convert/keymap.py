"""One table of names: a peer's weights <-> ours, read in both directions.

To add a family or a layout, add rules here and its config in `peer_config.py`; reading, writing, checking and the
round-trip tests follow from the table.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

import numpy as np

from lit_tune import tree
from lit_tune.convert.weights import check_names_and_shapes
from lit_tune.errors import ConfigError, explain
from lit_tune.models.two_towers import family_of, tower_of


@dataclass(frozen=True)
class Rule:
    """One array of the peer and the array or arrays of ours that it is made of.

    Attributes:
        peer: its name there; {i} is the number of the block.
        ours: our names, in the order in which the peer joins them along its first axis.
        how: same | linear (transposed) | conv (out, channel, row, column) | patch (out, channel * row * column), or
            zeros (the peer has an array where we have none).
        needs: fields or properties of the spec that must be true for the array to exist, "!" negates.
    """

    peer: str
    ours: tuple[str, ...]
    how: str
    needs: str = ""


def _pair(peer: str, ours: str | tuple[str, ...], how: str, needs: str = "") -> tuple[Rule, Rule]:
    """Weight and bias of a linear layer, or scale and bias of a norm (how = "same")."""
    names = (ours,) if isinstance(ours, str) else ours
    weight = "scale" if how == "same" else "kernel"
    return (
        Rule(f"{peer}.weight", tuple(f"{name}/{weight}" for name in names), how, needs),
        Rule(f"{peer}.bias", tuple(f"{name}/bias" for name in names), "same", needs),
    )


_QKV = ("blocks/{i}/attn/q", "blocks/{i}/attn/k", "blocks/{i}/attn/v")
_QKV_KERNELS = tuple(f"{name}/kernel" for name in _QKV)
_QKV_BIASES = tuple(f"{name}/bias" for name in _QKV)
_GATE_VALUE = ("blocks/{i}/mlp/fc1_g", "blocks/{i}/mlp/fc1_x")  # timm's joined fc1 has the gate first

TIMM_TRUNK: tuple[Rule, ...] = (
    *_pair("patch_embed.proj", "patch_embed", "conv"),
    Rule("cls_token", ("cls_token",), "same", "class_token"),
    Rule("pos_embed", ("pos_embed",), "same", "pos_embed"),
    *_pair("blocks.{i}.norm1", "blocks/{i}/norm1", "same"),
    # timm's two spellings of attention; neither has a bias on the keys
    Rule("blocks.{i}.attn.qkv.weight", _QKV_KERNELS, "linear", "qkv_fused"),
    Rule("blocks.{i}.attn.q_bias", _QKV_BIASES[:1], "same", "qkv_fused qkv_bias"),
    Rule("blocks.{i}.attn.v_bias", _QKV_BIASES[2:], "same", "qkv_fused qkv_bias"),
    Rule("blocks.{i}.attn.q_proj.weight", _QKV_KERNELS[:1], "linear", "!qkv_fused"),
    Rule("blocks.{i}.attn.k_proj.weight", _QKV_KERNELS[1:2], "linear", "!qkv_fused"),
    Rule("blocks.{i}.attn.v_proj.weight", _QKV_KERNELS[2:], "linear", "!qkv_fused"),
    Rule("blocks.{i}.attn.q_proj.bias", _QKV_BIASES[:1], "same", "!qkv_fused qkv_bias"),
    Rule("blocks.{i}.attn.v_proj.bias", _QKV_BIASES[2:], "same", "!qkv_fused qkv_bias"),
    *_pair("blocks.{i}.attn.norm", "blocks/{i}/attn/norm", "same", "attn_inner_norm"),
    *_pair("blocks.{i}.attn.proj", "blocks/{i}/attn/proj", "linear"),
    *_pair("blocks.{i}.norm2", "blocks/{i}/norm2", "same"),
    *_pair("blocks.{i}.mlp.fc1", _GATE_VALUE, "linear", "!sub_ln"),
    *_pair("blocks.{i}.mlp.fc1_g", _GATE_VALUE[0], "linear", "sub_ln"),
    *_pair("blocks.{i}.mlp.fc1_x", _GATE_VALUE[1], "linear", "sub_ln"),
    *_pair("blocks.{i}.mlp.norm", "blocks/{i}/mlp/norm", "same", "sub_ln"),
    *_pair("blocks.{i}.mlp.fc2", "blocks/{i}/mlp/fc2", "linear"),
    *_pair("norm", "norm", "same", "norms_tokens"),
    *_pair("fc_norm", "fc_norm", "same", "norms_pooled"),
)
TIMM_POOL: tuple[Rule, ...] = (
    Rule("latent", ("attn_pool/latent",), "same"),
    *_pair("q", "attn_pool/q", "linear"),
    *_pair("kv", ("attn_pool/k", "attn_pool/v"), "linear"),
    *_pair("proj", "attn_pool/proj", "linear"),
    *_pair("norm", "attn_pool/norm", "same"),
    *_pair("mlp.fc1", "attn_pool/mlp/fc1", "linear"),
    *_pair("mlp.fc2", "attn_pool/mlp/fc2", "linear"),
)
TIMM_HEAD: tuple[Rule, ...] = (  # timm's classifier always has a bias
    Rule("head.weight", ("head/kernel",), "linear", "projects"),
    Rule("head.bias", ("head/bias",), "same", "projects embed_bias"),
    Rule("head.bias", ("head/kernel",), "zeros", "projects !embed_bias"),
)
NOMIC_TRUNK: tuple[Rule, ...] = (
    *_pair("embeddings.proj", "patch_embed", "patch"),
    Rule("embeddings.cls_token", ("cls_token",), "same", "class_token"),
    Rule("embeddings.pos_embed", ("pos_embed",), "same", "pos_embed"),
    *_pair("layers.{i}.norm1", "blocks/{i}/norm1", "same"),
    Rule("layers.{i}.attn.Wqkv.weight", _QKV_KERNELS, "linear"),
    Rule("layers.{i}.attn.Wqkv.bias", _QKV_BIASES, "same", "qkv_bias"),
    *_pair("layers.{i}.attn.out_proj", "blocks/{i}/attn/proj", "linear"),
    *_pair("layers.{i}.norm2", "blocks/{i}/norm2", "same"),
    *_pair("layers.{i}.mlp.fc11", "blocks/{i}/mlp/fc1_x", "linear"),
    *_pair("layers.{i}.mlp.fc12", "blocks/{i}/mlp/fc1_g", "linear"),
    *_pair("layers.{i}.mlp.norm", "blocks/{i}/mlp/norm", "same", "sub_ln"),
    *_pair("layers.{i}.mlp.fc2", "blocks/{i}/mlp/fc2", "linear"),
)
NOMIC_POOL: tuple[Rule, ...] = (
    Rule("attn.latent", ("attn_pool/latent",), "same"),
    *_pair("attn.Wq", "attn_pool/q", "linear"),
    *_pair("attn.Wkv", ("attn_pool/k", "attn_pool/v"), "linear"),
    *_pair("attn.out_proj", "attn_pool/proj", "linear"),
    *_pair("norm1", "attn_pool/norm", "same"),
    *_pair("mlp.fc11", "attn_pool/mlp/fc1_x", "linear"),
    *_pair("mlp.fc12", "attn_pool/mlp/fc1_g", "linear"),
    *_pair("mlp.fc2", "attn_pool/mlp/fc2", "linear"),
)
_WORDS = Rule("embeddings.word_embeddings.weight", ("embeddings/word_embeddings",), "same")
_TYPES = Rule("embeddings.token_type_embeddings.weight", ("embeddings/token_type_embeddings",), "same", "type_vocab")
BERT_HF: tuple[Rule, ...] = (
    _WORDS,
    Rule("embeddings.position_embeddings.weight", ("embeddings/position_embeddings",), "same"),
    _TYPES,
    *_pair("embeddings.LayerNorm", "embeddings/norm", "same"),
    *_pair("encoder.layer.{i}.attention.self.query", "blocks/{i}/attn/q", "linear"),
    *_pair("encoder.layer.{i}.attention.self.key", "blocks/{i}/attn/k", "linear"),
    *_pair("encoder.layer.{i}.attention.self.value", "blocks/{i}/attn/v", "linear"),
    *_pair("encoder.layer.{i}.attention.output.dense", "blocks/{i}/attn/proj", "linear"),
    *_pair("encoder.layer.{i}.attention.output.LayerNorm", "blocks/{i}/norm1", "same"),
    *_pair("encoder.layer.{i}.intermediate.dense", "blocks/{i}/mlp/fc1", "linear"),
    *_pair("encoder.layer.{i}.output.dense", "blocks/{i}/mlp/fc2", "linear"),
    *_pair("encoder.layer.{i}.output.LayerNorm", "blocks/{i}/norm2", "same"),
)
NOMIC_BERT_NOMIC: tuple[Rule, ...] = (  # the hub files of nomic-embed-text, and what transformers writes back
    _WORDS,
    _TYPES,
    *_pair("emb_ln", "embeddings/norm", "same"),
    Rule("encoder.layers.{i}.attn.Wqkv.weight", _QKV_KERNELS, "linear"),
    Rule("encoder.layers.{i}.attn.out_proj.weight", ("blocks/{i}/attn/proj/kernel",), "linear"),
    *_pair("encoder.layers.{i}.norm1", "blocks/{i}/norm1", "same"),
    Rule("encoder.layers.{i}.mlp.fc11.weight", ("blocks/{i}/mlp/fc1_x/kernel",), "linear"),
    Rule("encoder.layers.{i}.mlp.fc12.weight", ("blocks/{i}/mlp/fc1_g/kernel",), "linear"),
    Rule("encoder.layers.{i}.mlp.fc2.weight", ("blocks/{i}/mlp/fc2/kernel",), "linear"),
    *_pair("encoder.layers.{i}.norm2", "blocks/{i}/norm2", "same"),
)
NOMIC_BERT_HF: tuple[Rule, ...] = (  # transformers' own NomicBertModel in memory
    _WORDS,
    _TYPES,
    *_pair("embeddings.LayerNorm", "embeddings/norm", "same"),
    Rule("layers.{i}.self_attn.q_proj.weight", _QKV_KERNELS[:1], "linear"),
    Rule("layers.{i}.self_attn.k_proj.weight", _QKV_KERNELS[1:2], "linear"),
    Rule("layers.{i}.self_attn.v_proj.weight", _QKV_KERNELS[2:], "linear"),
    Rule("layers.{i}.self_attn.o_proj.weight", ("blocks/{i}/attn/proj/kernel",), "linear"),
    *_pair("layers.{i}.post_attention_layernorm", "blocks/{i}/norm1", "same"),
    Rule("layers.{i}.mlp.up_proj.weight", ("blocks/{i}/mlp/fc1_x/kernel",), "linear"),
    Rule("layers.{i}.mlp.gate_proj.weight", ("blocks/{i}/mlp/fc1_g/kernel",), "linear"),
    Rule("layers.{i}.mlp.down_proj.weight", ("blocks/{i}/mlp/fc2/kernel",), "linear"),
    *_pair("layers.{i}.post_mlp_layernorm", "blocks/{i}/norm2", "same"),
)


def prefixed(prefix: str, rules: tuple[Rule, ...], needs: str = "") -> tuple[Rule, ...]:
    """The rules for a peer that holds this part under `prefix`."""
    return tuple(replace(r, peer=prefix + r.peer, needs=f"{needs} {r.needs}".strip()) for r in rules)


TABLES: dict[tuple[str, str], tuple[Rule, ...]] = {
    ("eva02", "timm"): (*TIMM_TRUNK, *prefixed("attn_pool.", TIMM_POOL, "map"), *TIMM_HEAD),
    ("eva02", "nomic"): (*NOMIC_TRUNK, *prefixed("selector.", NOMIC_POOL, "nomic")),
    ("bert", "hf"): BERT_HF,
    ("nomic_bert", "nomic"): NOMIC_BERT_NOMIC,
    ("nomic_bert", "hf"): NOMIC_BERT_HF,
}

# Arrays in peers' files that no embedding depends on: BERT's pooler, heads of pretraining, and buffers.
IGNORED: dict[tuple[str, str], tuple[str, ...]] = {
    ("bert", "hf"): ("pooler.*", "cls.*", "embeddings.position_ids"),
    ("eva02", "timm"): ("mask_token", "lm_head.*", "rope.*", "blocks.*.attn.rope.*"),
}


def from_peer(weights: Mapping[str, np.ndarray], spec: Any, layout: str) -> tree.Tree:
    """Our parameters, float32 numpy arrays, from a peer's weights.

    Raises:
        ConfigError: no such table, or arrays missing, left over or of another shape than the spec says.
    """
    table, layout = _table(spec, layout, weights)
    named = _without_ignored(weights, IGNORED[family_of(spec), layout] if (family_of(spec), layout) in IGNORED else ())
    return read_with(table, named, spec, what=f"{layout} weights")


def to_peer(params: tree.Tree, spec: Any, layout: str) -> dict[str, np.ndarray]:
    """The peer's {name: float32 array} from our parameters.

    Raises:
        ConfigError: the layout cannot hold this tower; the line says why.
    """
    refuse(spec, layout)
    return write_with(_table(spec, layout)[0], params, spec)


def read_with(rules: tuple[Rule, ...], weights: Mapping[str, np.ndarray], spec: Any, what: str) -> tree.Tree:
    """`from_peer` with rules of the caller's choice."""
    shapes = {name: leaf.shape for name, leaf in tree.flatten(tower_of(spec).abstract()).items()}
    rules = expand(rules, spec)
    check_names_and_shapes(weights, {r.peer: peer_shape(r, shapes) for r in rules}, what)
    found: dict[str, np.ndarray] = {}
    for rule in rules:
        if rule.how == "zeros":
            _check_zeros(rule, weights[rule.peer])
            continue
        parts = np.split(np.asarray(weights[rule.peer]), len(rule.ours), axis=0)
        found |= {name: _to_ours(part, rule.how) for name, part in zip(rule.ours, parts, strict=True)}
    return tree.unflatten(found)


def write_with(rules: tuple[Rule, ...], params: tree.Tree, spec: Any) -> dict[str, np.ndarray]:
    """`to_peer` with rules of the caller's choice."""
    named = tree.flatten(params)
    found = {}
    for rule in expand(rules, spec):
        arrays = [np.asarray(named[name]) for name in rule.ours]
        if rule.how == "zeros":
            found[rule.peer] = np.zeros(arrays[0].shape[1:], np.float32)
        else:
            found[rule.peer] = np.concatenate([_to_peer(array, rule.how) for array in arrays], axis=0)
    return found


def expand(rules: tuple[Rule, ...], spec: Any) -> list[Rule]:
    """The rules that hold for this spec, with block numbers filled in."""
    true = _conditions(spec)
    kept = [r for r in rules if all((n[1:] not in true) if n[0] == "!" else (n in true) for n in r.needs.split())]
    return [
        replace(r, peer=r.peer.replace("{i}", str(i)), ours=tuple(o.replace("{i}", str(i)) for o in r.ours))
        for r in kept
        for i in range(spec.depth if "{i}" in r.peer else 1)
    ]


def _conditions(spec: Any) -> set[str]:
    fields = {name for name, value in vars(spec).items() if value}
    if family_of(spec) != "eva02":
        return fields
    norm = {"norms_pooled" if spec.pool == "mean" else "norms_tokens"} if spec.final_norm else set()
    return fields | {spec.pool} | norm | ({"projects"} if spec.projects else set())


def _table(spec: Any, layout: str, weights: Mapping[str, Any] = ()) -> tuple[tuple[Rule, ...], str]:
    family = family_of(spec)
    if family == "nomic_bert" and layout in ("hf", "nomic") and weights:
        # transformers holds one spelling in memory and writes the other: the file says which it is
        layout = "nomic" if "emb_ln.weight" in weights else "hf"
    if (family, layout) not in TABLES:
        layouts = " | ".join(name for fam, name in TABLES if fam == family)
        raise ConfigError(explain("layout", expected=f"{layouts} for {family}", found=layout, do="choose one of these"))
    return TABLES[family, layout], layout


def refuse(spec: Any, layout: str) -> None:
    """Nothing, if the layout can hold the tower.

    Raises:
        ConfigError: it cannot; the line says why.
    """
    reasons = {"timm": _not_in_timm, "nomic": _not_in_nomic}
    if family_of(spec) != "eva02" or layout not in reasons:
        return
    found = reasons[layout](spec)
    if found:
        do = "export another format" if layout == "timm" else "export --format=timm"
        raise ConfigError(
            explain(f"{layout} layout", expected="a tower that it can hold", found="; ".join(found), do=do)
        )


def _not_in_timm(spec: Any) -> list[str]:
    eps = {spec.norm_eps} | ({spec.sub_ln_eps} if spec.sub_ln else set())
    eps |= {spec.pool_norm_eps} if spec.pool == "map" else set()
    facts = {
        "the nomic pooling head": spec.pool == "nomic",
        "a trained bias on the keys": spec.key_bias,
        f"a LayerNorm eps of {max(eps)} (timm has 1e-6)": eps != {1e-6},
    }
    return [what for what, holds in facts.items() if holds]


def _not_in_nomic(spec: Any) -> list[str]:
    facts = {
        f"pooling {spec.pool}": spec.pool != "nomic",
        f"a projection to {spec.embed_dim}": spec.projects,
        "no bias on the keys": spec.qkv_bias and not spec.key_bias,
        "a final norm": spec.final_norm,
        "a LayerNorm eps of the MLP other than 1e-5": spec.sub_ln and spec.sub_ln_eps != 1e-5,
        "a norm inside attention": spec.attn_inner_norm,
        f"a hidden width of {spec.mlp_dim}, no multiple of 256": spec.mlp_dim % 256 != 0,
        f"a head of another hidden width, {spec.pool_mlp_dim}": spec.pool_mlp_dim != spec.mlp_dim,
    }
    return [what for what, holds in facts.items() if holds]


def _without_ignored(weights: Mapping[str, np.ndarray], patterns: tuple[str, ...]) -> dict[str, np.ndarray]:
    # a BERT with a pretraining head holds the tower under "bert."
    inner = {k.removeprefix("bert."): v for k, v in weights.items()}
    return {k: v for k, v in inner.items() if not any(fnmatch(k, pattern) for pattern in patterns)}


def _check_zeros(rule: Rule, array: np.ndarray) -> None:
    if np.any(array):
        raise ConfigError(explain(rule.peer, expected="zeros", found="a trained bias", do="set vision.embed_bias=True"))


def _to_ours(array: np.ndarray, how: str) -> np.ndarray:
    if how == "patch":
        patch = math.isqrt(array.shape[1] // 3)
        array, how = array.reshape(-1, 3, patch, patch), "conv"
    if how == "conv":
        array = array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])  # (row * column * channel, out)
    elif how == "linear":
        array = array.T
    return np.ascontiguousarray(array, dtype=np.float32)


def _to_peer(array: np.ndarray, how: str) -> np.ndarray:
    if how in ("conv", "patch"):
        patch = math.isqrt(array.shape[0] // 3)
        array = array.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)  # (out, channel, row, column)
        return array.reshape(array.shape[0], -1) if how == "patch" else array
    return array.T if how == "linear" else array


def peer_shape(rule: Rule, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of a rule's array there, from the shapes of ours by name."""
    first = shapes[rule.ours[0]]
    if rule.how == "zeros":
        return first[1:]
    if rule.how == "conv":
        patch = math.isqrt(first[0] // 3)
        return first[1], 3, patch, patch
    shape = first if rule.how == "same" else first[::-1]
    return shape[0] * len(rule.ours), *shape[1:]
