"""The table of names, EVA02: timm's Eva, BAAI's own spelling, open_clip around both, contrastors' NomicVisionModel."""

from dataclasses import replace

from lit_tune.convert.rules import QKV_BIASES, QKV_KERNELS, Rule, pair, prefixed

_GATE_VALUE = ("blocks/{i}/mlp/fc1_g", "blocks/{i}/mlp/fc1_x")  # timm's joined fc1 has the gate first

TIMM_TRUNK: tuple[Rule, ...] = (
    *pair("patch_embed.proj", "patch_embed", "conv"),
    Rule("cls_token", ("cls_token",), "same", "class_token"),
    Rule("pos_embed", ("pos_embed",), "same", "pos_embed"),
    *pair("blocks.{i}.norm1", "blocks/{i}/norm1", "same"),
    # timm's two spellings of attention: without a bias on the keys, and its attn_type="rope" with one
    Rule("blocks.{i}.attn.qkv.weight", QKV_KERNELS, "linear", "qkv_fused"),
    Rule("blocks.{i}.attn.q_bias", QKV_BIASES[:1], "same", "qkv_fused qkv_bias !key_bias"),
    Rule("blocks.{i}.attn.v_bias", QKV_BIASES[2:], "same", "qkv_fused qkv_bias !key_bias"),
    Rule("blocks.{i}.attn.qkv.bias", QKV_BIASES, "same", "qkv_fused key_bias"),
    Rule("blocks.{i}.attn.q_proj.weight", QKV_KERNELS[:1], "linear", "!qkv_fused"),
    Rule("blocks.{i}.attn.k_proj.weight", QKV_KERNELS[1:2], "linear", "!qkv_fused"),
    Rule("blocks.{i}.attn.v_proj.weight", QKV_KERNELS[2:], "linear", "!qkv_fused"),
    Rule("blocks.{i}.attn.q_proj.bias", QKV_BIASES[:1], "same", "!qkv_fused qkv_bias"),
    Rule("blocks.{i}.attn.k_proj.bias", QKV_BIASES[1:2], "same", "!qkv_fused key_bias"),
    Rule("blocks.{i}.attn.v_proj.bias", QKV_BIASES[2:], "same", "!qkv_fused qkv_bias"),
    *pair("blocks.{i}.attn.norm", "blocks/{i}/attn/norm", "same", "attn_inner_norm"),
    *pair("blocks.{i}.attn.proj", "blocks/{i}/attn/proj", "linear"),
    *pair("blocks.{i}.norm2", "blocks/{i}/norm2", "same"),
    *pair("blocks.{i}.mlp.fc1", _GATE_VALUE, "linear", "!sub_ln"),
    *pair("blocks.{i}.mlp.fc1_g", _GATE_VALUE[0], "linear", "sub_ln"),
    *pair("blocks.{i}.mlp.fc1_x", _GATE_VALUE[1], "linear", "sub_ln"),
    *pair("blocks.{i}.mlp.norm", "blocks/{i}/mlp/norm", "same", "sub_ln"),
    *pair("blocks.{i}.mlp.fc2", "blocks/{i}/mlp/fc2", "linear"),
    *pair("norm", "norm", "same", "norms_tokens"),
    *pair("fc_norm", "fc_norm", "same", "norms_pooled"),
)
_LATENT: tuple[Rule, ...] = (
    Rule("latent", ("attn_pool/latent",), "same"),
    *pair("q", "attn_pool/q", "linear"),
    *pair("kv", ("attn_pool/k", "attn_pool/v"), "linear"),
    *pair("proj", "attn_pool/proj", "linear"),
    *pair("norm", "attn_pool/norm", "same"),
    *pair("mlp.fc2", "attn_pool/mlp/fc2", "linear"),
)
TIMM_POOL = (*_LATENT, *pair("mlp.fc1", "attn_pool/mlp/fc1", "linear"))
_TIMM_NOMIC_POOL = (  # of lit_tune.integrations.timm
    *_LATENT,
    *pair("mlp.fc1_g", "attn_pool/mlp/fc1_g", "linear"),
    *pair("mlp.fc1_x", "attn_pool/mlp/fc1_x", "linear"),
)
TIMM_HEAD: tuple[Rule, ...] = (  # timm's classifier always has a bias
    Rule("head.weight", ("head/kernel",), "linear", "projects"),
    Rule("head.bias", ("head/bias",), "same", "projects embed_bias"),
    Rule("head.bias", ("head/kernel",), "zeros", "projects !embed_bias"),
)
TIMM_WHOLE = (
    *TIMM_TRUNK,
    *prefixed("attn_pool.", TIMM_POOL, "map"),
    *prefixed("attn_pool.", _TIMM_NOMIC_POOL, "nomic"),
    *TIMM_HEAD,
)
# Weights of masked image modelling have `norm` before a head that is not there any more; timm moves it behind a mean.
TIMM_MIM = (
    *(rule for rule in TIMM_WHOLE if not rule.peer.startswith("fc_norm")),
    *pair("norm", "fc_norm", "same", "norms_pooled"),
)

# BAAI's names (and so Jina CLIP's), after timm's reader of them, models/eva.py `checkpoint_filter_fn` 1.0.31
_EVA_NAMES = {"attn.norm": "attn.inner_attn_ln", "mlp.norm": "mlp.ffn_ln", "mlp.fc1_g": "mlp.w1",
              "mlp.fc1_x": "mlp.w2", "mlp.fc1.": "mlp.w12.", "mlp.fc2": "mlp.w3", "q_proj.bias": "q_bias",
              "v_proj.bias": "v_bias"}  # fmt: skip


def _eva(rule: Rule) -> Rule:
    """A rule for timm's array under the name that BAAI has for it."""
    for timm, eva in _EVA_NAMES.items():
        rule = replace(rule, peer=rule.peer.replace(timm, eva))
    return rule


EVA = tuple(_eva(rule) for rule in TIMM_WHOLE)
EVA_MIM = tuple(_eva(rule) for rule in TIMM_MIM)
JINA = (  # Jina CLIP's vision model: no `head` where the output is as wide as the trunk, but perhaps a projection
    *prefixed("vision_model.", tuple(_eva(rule) for rule in TIMM_TRUNK)),
    Rule("vision_model.head.weight", ("head/kernel",), "linear", "projects embed_bias"),
    Rule("vision_model.head.bias", ("head/bias",), "same", "projects embed_bias"),
    Rule("visual_projection.weight", ("head/kernel",), "linear", "projects !embed_bias"),
)


def open_clip_trunk(timm: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """A timm tower inside open_clip with open_clip's own projection behind it (timm_proj = "linear")."""
    return (
        *prefixed("visual.trunk.", tuple(rule for rule in timm if not rule.peer.startswith("head."))),
        Rule("visual.head.proj.weight", ("head/kernel",), "linear", "projects"),
        Rule("visual.head.proj.bias", ("head/bias",), "same", "projects embed_bias"),
    )


NOMIC_TRUNK: tuple[Rule, ...] = (
    *pair("embeddings.proj", "patch_embed", "patch"),
    Rule("embeddings.cls_token", ("cls_token",), "same", "class_token"),
    Rule("embeddings.pos_embed", ("pos_embed",), "same", "pos_embed"),
    *pair("layers.{i}.norm1", "blocks/{i}/norm1", "same"),
    Rule("layers.{i}.attn.Wqkv.weight", QKV_KERNELS, "linear"),
    Rule("layers.{i}.attn.Wqkv.bias", QKV_BIASES, "same", "qkv_bias"),
    *pair("layers.{i}.attn.out_proj", "blocks/{i}/attn/proj", "linear"),
    *pair("layers.{i}.norm2", "blocks/{i}/norm2", "same"),
    *pair("layers.{i}.mlp.fc11", "blocks/{i}/mlp/fc1_x", "linear"),
    *pair("layers.{i}.mlp.fc12", "blocks/{i}/mlp/fc1_g", "linear"),
    *pair("layers.{i}.mlp.norm", "blocks/{i}/mlp/norm", "same", "sub_ln"),
    *pair("layers.{i}.mlp.fc2", "blocks/{i}/mlp/fc2", "linear"),
)
NOMIC_POOL: tuple[Rule, ...] = (
    Rule("attn.latent", ("attn_pool/latent",), "same"),
    *pair("attn.Wq", "attn_pool/q", "linear"),
    *pair("attn.Wkv", ("attn_pool/k", "attn_pool/v"), "linear"),
    *pair("attn.out_proj", "attn_pool/proj", "linear"),
    *pair("norm1", "attn_pool/norm", "same"),
    *pair("mlp.fc11", "attn_pool/mlp/fc1_x", "linear"),
    *pair("mlp.fc12", "attn_pool/mlp/fc1_g", "linear"),
    *pair("mlp.fc2", "attn_pool/mlp/fc2", "linear"),
)
