"""One table of names: a peer's weights <-> ours, read in both directions by `mapping.py`.

To add a family or a layout, add rules to `keymap_vision.py` or `keymap_text.py`, a line here, and its config in
`peer_vision.py` or `peer_text.py`; reading, writing, checking and the round-trip tests follow from the table.
"""

from lit_tune.convert.keymap_text import BERT_HF, NOMIC_BERT_HF, NOMIC_BERT_NOMIC
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
    ("bert", "hf"): BERT_HF,
    ("nomic_bert", "nomic"): NOMIC_BERT_NOMIC,
    ("nomic_bert", "hf"): NOMIC_BERT_HF,
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
# Arrays in peers' files that no embedding depends on: BERT's pooler, heads of pretraining, and buffers; and the text
# tower of a file that holds two.
IGNORED: dict[tuple[str, str], tuple[str, ...]] = {
    ("bert", "hf"): ("pooler.*", "cls.*", "embeddings.position_ids"),
    ("eva02", "timm"): ("mask_token", "lm_head.*", "*rope.*", *_OPEN_CLIP_TEXT),
    ("eva02", "open_clip"): ("*rope.*", *_OPEN_CLIP_TEXT),
    ("eva02", "hf"): ("*rope.*", *_HF_TEXT),
    # OpenAI's own archives also hold three integers
    ("vit", "open_clip"): (*_OPEN_CLIP_TEXT, "input_resolution", "context_length", "vocab_size"),
    ("vit", "hf"): (*_HF_TEXT, "*embeddings.position_ids"),
}
