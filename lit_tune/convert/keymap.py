"""One table of names: a peer's weights <-> ours, read in both directions by `mapping.py`.

To add a family or a layout, add rules to `keymap_vision.py` or `keymap_text.py`, a line here, and its config in
`peer_vision.py` or `peer_text.py`; reading, writing, checking and the round-trip tests follow from the table.
"""

from lit_tune.convert import keymap_text as text
from lit_tune.convert.keymap_vision import NOMIC_POOL, NOMIC_TRUNK, TIMM_HEAD, TIMM_POOL, TIMM_TRUNK
from lit_tune.convert.rules import Rule, prefixed

TABLES: dict[tuple[str, str], tuple[Rule, ...]] = {
    ("eva02", "timm"): (*TIMM_TRUNK, *prefixed("attn_pool.", TIMM_POOL, "map"), *TIMM_HEAD),
    ("eva02", "nomic"): (*NOMIC_TRUNK, *prefixed("selector.", NOMIC_POOL, "nomic")),
    ("bert", "hf"): text.BERT_HF,
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

# Arrays in peers' files that a tower's vectors do not depend on: BERT's pooler, heads of pretraining, buffers, and the
# vision tower, scale and bias of a model with two towers.
_TWO_TOWERS_HF = ("vision_model.*", "visual_projection.*", "logit_scale", "logit_bias")
IGNORED: dict[tuple[str, str], tuple[str, ...]] = {
    ("bert", "hf"): ("pooler.*", "cls.*", "lm_head.*", "embeddings.position_ids"),
    ("clip_text", "hf"): (*_TWO_TOWERS_HF, "embeddings.position_ids"),
    ("clip_text", "open_clip"): (
        "visual.*", "logit_scale", "logit_bias", "attn_mask",
        "input_resolution", "context_length", "vocab_size",  # of OpenAI's own files
    ),  # fmt: skip
    ("jina_bert", "hf"): ("pooler.*", "cls.*", "embeddings.position_ids"),
    ("jina_bert", "jina_clip"): (*_TWO_TOWERS_HF, "pooler.*"),
    ("modern_bert", "hf"): ("head.*", "decoder.*", "classifier.*"),
    ("eva02", "timm"): ("mask_token", "lm_head.*", "rope.*", "blocks.*.attn.rope.*"),
}
