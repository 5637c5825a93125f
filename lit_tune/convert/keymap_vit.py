"""The table of names, plain ViT: timm's VisionTransformer, OpenAI CLIP (open_clip), CLIP and SigLIP (transformers)."""

from lit_tune.convert.keymap_vision import TIMM_HEAD, TIMM_POOL
from lit_tune.convert.rules import QKV_BIASES, QKV_KERNELS, Rule, pair, prefixed

_CONV = "patch_embed/kernel"

VIT_TIMM: tuple[Rule, ...] = (
    Rule("patch_embed.proj.weight", (_CONV,), "conv"),
    Rule("patch_embed.proj.bias", ("patch_embed/bias",), "same", "patch_bias"),
    Rule("cls_token", ("cls_token",), "same", "class_token"),
    Rule("pos_embed", ("pos_embed",), "same", "pos_embed"),
    *pair("norm_pre", "norm_pre", "same", "pre_norm"),
    *pair("blocks.{i}.norm1", "blocks/{i}/norm1", "same"),
    Rule("blocks.{i}.attn.qkv.weight", QKV_KERNELS, "linear"),
    Rule("blocks.{i}.attn.qkv.bias", QKV_BIASES, "same", "qkv_bias"),
    *pair("blocks.{i}.attn.proj", "blocks/{i}/attn/proj", "linear"),
    *pair("blocks.{i}.norm2", "blocks/{i}/norm2", "same"),
    *pair("blocks.{i}.mlp.fc1", "blocks/{i}/mlp/fc1", "linear"),
    *pair("blocks.{i}.mlp.fc2", "blocks/{i}/mlp/fc2", "linear"),
    *pair("norm", "norm", "same", "norms_tokens"),
    *pair("fc_norm", "fc_norm", "same", "norms_pooled"),
    *prefixed("attn_pool.", TIMM_POOL, "map"),
    *TIMM_HEAD,
)
VIT_OPEN_CLIP: tuple[Rule, ...] = prefixed("visual.", (
    Rule("conv1.weight", (_CONV,), "conv"),
    Rule("class_embedding", ("cls_token",), "vector"),
    Rule("positional_embedding", ("pos_embed",), "table"),
    *pair("ln_pre", "norm_pre", "same", "pre_norm"),
    *pair("transformer.resblocks.{i}.ln_1", "blocks/{i}/norm1", "same"),
    Rule("transformer.resblocks.{i}.attn.in_proj_weight", QKV_KERNELS, "linear"),
    Rule("transformer.resblocks.{i}.attn.in_proj_bias", QKV_BIASES, "same"),
    *pair("transformer.resblocks.{i}.attn.out_proj", "blocks/{i}/attn/proj", "linear"),
    *pair("transformer.resblocks.{i}.ln_2", "blocks/{i}/norm2", "same"),
    *pair("transformer.resblocks.{i}.mlp.c_fc", "blocks/{i}/mlp/fc1", "linear"),
    *pair("transformer.resblocks.{i}.mlp.c_proj", "blocks/{i}/mlp/fc2", "linear"),
    *pair("ln_post", "norm", "same", "norms_tokens"),
    *pair("ln_post", "fc_norm", "same", "norms_pooled"),
    Rule("proj", ("head/kernel",), "same", "projects"),  # width x embed_dim there too
))  # fmt: skip
_HF_MODEL: tuple[Rule, ...] = (
    Rule("embeddings.patch_embedding.weight", (_CONV,), "conv"),
    Rule("embeddings.patch_embedding.bias", ("patch_embed/bias",), "same", "patch_bias"),
    Rule("embeddings.class_embedding", ("cls_token",), "vector", "class_token"),
    Rule("embeddings.position_embedding.weight", ("pos_embed",), "table"),
    *pair("pre_layrnorm", "norm_pre", "same", "pre_norm"),  # the peer's spelling
    *pair("encoder.layers.{i}.layer_norm1", "blocks/{i}/norm1", "same"),
    *pair("encoder.layers.{i}.self_attn.q_proj", "blocks/{i}/attn/q", "linear"),
    *pair("encoder.layers.{i}.self_attn.k_proj", "blocks/{i}/attn/k", "linear"),
    *pair("encoder.layers.{i}.self_attn.v_proj", "blocks/{i}/attn/v", "linear"),
    *pair("encoder.layers.{i}.self_attn.out_proj", "blocks/{i}/attn/proj", "linear"),
    *pair("encoder.layers.{i}.layer_norm2", "blocks/{i}/norm2", "same"),
    *pair("encoder.layers.{i}.mlp.fc1", "blocks/{i}/mlp/fc1", "linear"),
    *pair("encoder.layers.{i}.mlp.fc2", "blocks/{i}/mlp/fc2", "linear"),
    *pair("post_layernorm", "norm", "same", "norms_tokens"),
    *pair("post_layernorm", "fc_norm", "same", "norms_pooled"),
    Rule("head.probe", ("attn_pool/latent",), "same", "map"),
    Rule("head.attention.in_proj_weight", tuple(f"attn_pool/{x}/kernel" for x in "qkv"), "linear", "map"),
    Rule("head.attention.in_proj_bias", tuple(f"attn_pool/{x}/bias" for x in "qkv"), "same", "map"),
    *pair("head.attention.out_proj", "attn_pool/proj", "linear", "map"),
    *pair("head.layernorm", "attn_pool/norm", "same", "map"),
    *pair("head.mlp.fc1", "attn_pool/mlp/fc1", "linear", "map"),
    *pair("head.mlp.fc2", "attn_pool/mlp/fc2", "linear", "map"),
)
_HF_PROJECTION = Rule("visual_projection.weight", ("head/kernel",), "linear", "projects")
VIT_HF = (*prefixed("vision_model.", _HF_MODEL), _HF_PROJECTION)  # the hub files
VIT_HF_BARE = (*_HF_MODEL, _HF_PROJECTION)  # CLIPVisionModel and SiglipVisionModel of transformers 5 in memory
