"""One table of names: a peer's weights <-> ours, read in both directions by `mapping.py`.

To add a family or a layout, add rules to `keymap_vision.py` or `keymap_text.py`, a line here, and its config in
`peer_vision.py` or `peer_text.py`; reading, writing, checking and the round-trip tests follow from the table.
"""

from lit_tune.convert.keymap_text import BERT_HF, NOMIC_BERT_HF, NOMIC_BERT_NOMIC
from lit_tune.convert.keymap_vision import NOMIC_POOL, NOMIC_TRUNK, TIMM_HEAD, TIMM_POOL, TIMM_TRUNK
from lit_tune.convert.rules import Rule, prefixed

_EVA02_TIMM = (*TIMM_TRUNK, *prefixed("attn_pool.", TIMM_POOL, "map"), *TIMM_HEAD)
_IMAGE, _TEXT = "visual.trunk.", "text.transformer."  # where open_clip keeps a timm and a transformers model
TABLES: dict[tuple[str, str], tuple[Rule, ...]] = {
    ("eva02", "timm"): _EVA02_TIMM,
    ("eva02", "open_clip"): prefixed(_IMAGE, _EVA02_TIMM),
    ("eva02", "nomic"): (*NOMIC_TRUNK, *prefixed("selector.", NOMIC_POOL, "nomic")),
    ("bert", "hf"): BERT_HF,
    ("bert", "open_clip"): prefixed(_TEXT, BERT_HF),
    ("nomic_bert", "nomic"): NOMIC_BERT_NOMIC,
    ("nomic_bert", "hf"): NOMIC_BERT_HF,
    ("nomic_bert", "open_clip"): prefixed(_TEXT, NOMIC_BERT_HF),
}

_OTHER_TOWER = {"image": ("text.*", "logit_*"), "text": ("visual.*", "logit_*", "text.proj.weight")}
# Arrays in peers' files that no embedding depends on: BERT's pooler, heads of pretraining, and buffers. open_clip's one
# file holds both towers; its text projection, in files of ours, is only the cut that the description names.
IGNORED: dict[tuple[str, str], tuple[str, ...]] = {
    ("bert", "hf"): ("pooler.*", "cls.*", "embeddings.position_ids"),
    ("bert", "open_clip"): _OTHER_TOWER["text"],
    ("nomic_bert", "open_clip"): _OTHER_TOWER["text"],
    ("eva02", "open_clip"): _OTHER_TOWER["image"],
    ("eva02", "timm"): ("mask_token", "lm_head.*", "rope.*", "blocks.*.attn.rope.*"),
}
