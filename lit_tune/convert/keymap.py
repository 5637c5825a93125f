"""One table of names: a peer's weights <-> ours, read in both directions by `mapping.py`.

To add a family or a layout, add rules to `keymap_vision.py` or `keymap_text.py`, a line here, and its config in
`peer_vision.py` or `peer_text.py`; reading, writing, checking and the round-trip tests follow from the table.
"""

from lit_tune.convert.keymap_text import BERT_HF, NOMIC_BERT_HF, NOMIC_BERT_NOMIC
from lit_tune.convert.keymap_vision import NOMIC_POOL, NOMIC_TRUNK, TIMM_HEAD, TIMM_POOL, TIMM_TRUNK
from lit_tune.convert.rules import Rule, prefixed

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
