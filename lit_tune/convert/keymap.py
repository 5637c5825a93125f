"""One table of names: a peer's weights <-> ours, read in both directions by `mapping.py`.

To add a family or a layout, add rules to `keymap_vision.py` or `keymap_text.py`, a line here, and its config in
`peer_vision.py` or `peer_text.py`; reading, writing, checking and the round-trip tests follow from the table.
"""

from lit_tune.convert import keymap_text as text
from lit_tune.convert.keymap_vision import (
    EVA,
    EVA_MIM,
    JINA,
    NOMIC_POOL,
    NOMIC_TRUNK,
    TIMM_MIM,
    TIMM_WHOLE,
    open_clip_trunk,
)
from lit_tune.convert.keymap_vit import VIT_HF, VIT_HF_BARE, VIT_OPEN_CLIP, VIT_TIMM
from lit_tune.convert.rules import Rule, prefixed

TABLES: dict[tuple[str, str], tuple[Rule, ...]] = {
    ("eva02", "timm"): TIMM_WHOLE,
    ("eva02", "nomic"): (*NOMIC_TRUNK, *prefixed("selector.", NOMIC_POOL, "nomic")),
    ("eva02", "open_clip"): open_clip_trunk(TIMM_WHOLE),
    ("vit", "timm"): VIT_TIMM,
    ("vit", "open_clip"): VIT_OPEN_CLIP,
    ("vit", "hf"): VIT_HF,
    ("bert", "hf"): text.BERT_HF,
    ("bert", "open_clip"): prefixed("text.transformer.", text.BERT_HF),  # where open_clip keeps a transformers model
    ("nomic_bert", "open_clip"): prefixed("text.transformer.", text.NOMIC_BERT_HF),
    ("nomic_bert", "nomic"): text.NOMIC_BERT_NOMIC,
    ("nomic_bert", "hf"): text.NOMIC_BERT_HF,
    ("clip_text", "hf"): text.CLIP_TEXT_HF,
    ("clip_text", "open_clip"): text.CLIP_TEXT_OPEN_CLIP,
    ("clip_text", "open_clip_custom_text"): text.CLIP_TEXT_CUSTOM,
    ("jina_bert", "hf"): text.JINA_BERT_HF,
    ("jina_bert", "jina_clip"): text.JINA_BERT_CLIP,
    ("modern_bert", "hf"): text.MODERN_BERT_HF,
}

# What a file may hold a tower under (beside a pretraining head or another tower): taken off before names are compared.
PREFIXES: dict[tuple[str, str], tuple[str, ...]] = {
    ("bert", "hf"): ("bert.", "roberta."),
    ("nomic_bert", "nomic"): ("bert.",),
    ("nomic_bert", "hf"): ("bert.",),
    ("clip_text", "hf"): ("text_model.",),
    ("clip_text", "open_clip"): ("text.",),
    ("jina_bert", "hf"): ("bert.",),
    ("jina_bert", "jina_clip"): ("text_model.transformer.",),
    ("modern_bert", "hf"): ("model.",),
}

# Other spellings of a layout, which are read and not written: the first whose arrays are all in the file.
VIT_TRUNK = open_clip_trunk(VIT_TIMM)  # also written, where OpenAI's own names cannot hold the tower
SPELLINGS: dict[tuple[str, str], tuple[tuple[tuple[str, ...], tuple[Rule, ...]], ...]] = {
    ("eva02", "timm"): (
        (("blocks.0.mlp.w3.weight", "mask_token"), EVA_MIM),
        (("blocks.0.mlp.w3.weight",), EVA),
        (("visual.blocks.0.mlp.w3.weight",), prefixed("visual.", EVA)),
        (("mask_token",), TIMM_MIM),
    ),
    ("eva02", "open_clip"): (
        (("visual.blocks.0.mlp.w3.weight",), prefixed("visual.", EVA)),
        (("visual.trunk.head.weight",), prefixed("visual.trunk.", TIMM_WHOLE)),
    ),
    ("eva02", "hf"): ((("vision_model.blocks.0.mlp.w3.weight",), JINA),),
    ("vit", "open_clip"): (
        (("visual.trunk.head.weight",), prefixed("visual.trunk.", VIT_TIMM)),
        (("visual.trunk.patch_embed.proj.weight",), VIT_TRUNK),
    ),
    ("vit", "hf"): ((("embeddings.patch_embedding.weight",), VIT_HF_BARE),),
}

_OPEN_CLIP_TEXT = ("text.*", "transformer.*", "token_embedding.weight", "positional_embedding", "ln_final.*",
                   "text_projection*", "attn_mask", "logit_scale", "logit_bias")  # fmt: skip
_HF_TEXT = ("text_model.*", "text_projection*", "logit_scale", "logit_bias")
_HF_VISION = ("vision_model.*", "visual_projection.*", "logit_scale", "logit_bias")
# Arrays in peers' files that a tower's vectors do not depend on: poolers, heads of pretraining, buffers; and in a file
# that holds two towers the other one, with scale and bias of their loss.
IGNORED: dict[tuple[str, str], tuple[str, ...]] = {
    ("bert", "hf"): ("pooler.*", "cls.*", "lm_head.*", "embeddings.position_ids"),
    # in files of ours the projection only makes the cut that the description names
    ("bert", "open_clip"): ("visual.*", "logit_scale", "logit_bias", "text.proj.weight"),
    ("nomic_bert", "open_clip"): ("visual.*", "logit_scale", "logit_bias", "text.proj.weight"),
    ("clip_text", "hf"): (*_HF_VISION, "embeddings.position_ids"),
    ("clip_text", "open_clip"): (
        "visual.*", "logit_scale", "logit_bias", "attn_mask",
        "input_resolution", "context_length", "vocab_size",  # of OpenAI's own files
    ),  # fmt: skip
    ("jina_bert", "hf"): ("pooler.*", "cls.*", "embeddings.position_ids"),
    ("jina_bert", "jina_clip"): (*_HF_VISION, "pooler.*"),
    ("modern_bert", "hf"): ("head.*", "decoder.*", "classifier.*"),
    ("eva02", "timm"): ("mask_token", "lm_head.*", "*rope.*", *_OPEN_CLIP_TEXT),
    ("eva02", "open_clip"): ("*rope.*", *_OPEN_CLIP_TEXT),
    ("eva02", "hf"): ("*rope.*", *_HF_TEXT),
    # OpenAI's own archives also hold three integers
    ("vit", "open_clip"): (*_OPEN_CLIP_TEXT, "input_resolution", "context_length", "vocab_size"),
    ("vit", "hf"): (*_HF_TEXT, "*embeddings.position_ids"),
}
