"""The released layout of nomic-embed-vision: names, shapes and config of NomicVisionModel, written without torch.

For what reads that release: contrastors, and transformers 4 with the release's own code. There is no code in the
folder, so its config has no `auto_map`; the class is `NomicVisionModel` of nomic-ai/contrastors. Its embedding is
`last_hidden_state[:, 0]`, before L2. The text tower's own files, where there is one, lie beside it,
unchanged.
"""

import json
from pathlib import Path
from typing import Any

import jax

from lit_tune.convert import mapping, weights
from lit_tune.exports import preprocessing
from lit_tune.exports.parts import Source, Written
from lit_tune.exports.text_files import copy_text
from lit_tune.models.eva02 import Eva02Spec

CONFIG = "config.json"
# What the released config holds besides the facts of a tower. The class reads few of these; the others come from its
# parent, GPT-2's config. Source: config.json of nomic-ai/nomic-embed-vision-v1.5.
RELEASED = {
    "activation_function": "swiglu", "architectures": ["NomicVisionModel"], "attn_pdrop": 0.0, "bos_token_id": None,
    "causal": False, "dense_seq_output": True, "drop_path_rate": 0.0, "embd_pdrop": 0.0, "eos_token_id": None,
    "eva_qkv_bias": False, "fused_bias_fc": True, "fused_dropout_add_ln": True, "global_pool": None,
    "hidden_features_scaling_factor": 1.0, "initializer_range": 0.02, "layer_scale": False, "layer_scale_init": 1.0,
    "learned_pos_embedding": False, "mask_token": False, "max_trained_positions": 2048, "mlp_fc1_bias": True,
    "mlp_fc2_bias": True, "model_type": "nomic_bert", "n_positions": 0, "no_cls_token": False, "no_embed_class": False,
    "no_last_ln": True, "num_channels": 3, "pad_vocab_size_multiple": 1, "parallel_block": False,
    "parallel_block_tied_norm": False, "patch_dropout": 0, "patch_embed_bias": True, "prenorm": True,
    "prepre_layernom": False, "register_tokens": 0, "reorder_and_upcast_attn": False, "resid_pdrop": 0.0,
    "rotary_emb_base": 10000, "rotary_emb_fraction": 0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None, "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True,
    "sinusoidal_pos_embedding": False, "summary_activation": None, "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True, "torch_dtype": "float32",
    "transformers_version": "4.40.2", "type_vocab_size": 2, "use_cache": True, "use_flash_attn": True,
    "use_pos_embed": True, "use_rms_norm": False, "use_rotary_pos_emb": True, "use_xentropy": False, "vocab_size": 0,
}  # fmt: skip


def write(source: Source, out: Path) -> list[Written]:
    """What was written: the image tower as the release has it, a text tower in text/.

    Raises:
        ConfigError: the layout cannot hold this tower, or its preprocessing; the line says why.
    """
    vision = source.vision
    named = mapping.to_peer(jax.device_get(vision.params), vision.tower.spec, "nomic")
    prepared = preprocessing.preprocessor_config(vision.preprocess)
    pages = {CONFIG: nomic_config(vision.tower.spec), preprocessing.FILE: prepared}
    out.mkdir(parents=True, exist_ok=True)
    # transformers' loader refuses a file whose header does not name a framework
    weights.write(out / weights.FILE, named, {"format": "pt"})
    for name, page in pages.items():
        (out / name).write_text(json.dumps(page, indent=2) + "\n")
    return [Written("nomic image tower", "vision", weights.FILE, "nomic"), *copy_text(source.text, out)]


def nomic_config(spec: Eva02Spec) -> dict[str, Any]:
    """The object of the release's config.json for a tower that `convert.limits` lets pass.

    `n_inner` is a whole number: the release has 2048.0, which transformers 5 refuses.
    """
    grid = spec.rope_reference_grid
    facts = {
        "img_size": spec.image_size[0], "patch_size": spec.patch_size, "n_embd": spec.width, "n_layer": spec.depth,
        "n_head": spec.num_heads, "n_inner": spec.mlp_dim, "norm_mlp": spec.sub_ln, "qkv_proj_bias": spec.qkv_bias,
        "layer_norm_epsilon": spec.norm_eps, "ref_feat_shape": None if grid == (0, 0) else list(grid),
    }  # fmt: skip
    return dict(sorted({**RELEASED, **facts}.items()))
