"""The table of names, text towers: BERT, NomicBert in both of its spellings."""

from lit_tune.convert.rules import QKV_KERNELS, Rule, pair

_WORDS = Rule("embeddings.word_embeddings.weight", ("embeddings/word_embeddings",), "same")
_TYPES = Rule("embeddings.token_type_embeddings.weight", ("embeddings/token_type_embeddings",), "same", "type_vocab")
BERT_HF: tuple[Rule, ...] = (
    _WORDS,
    Rule("embeddings.position_embeddings.weight", ("embeddings/position_embeddings",), "same"),
    _TYPES,
    *pair("embeddings.LayerNorm", "embeddings/norm", "same"),
    *pair("encoder.layer.{i}.attention.self.query", "blocks/{i}/attn/q", "linear"),
    *pair("encoder.layer.{i}.attention.self.key", "blocks/{i}/attn/k", "linear"),
    *pair("encoder.layer.{i}.attention.self.value", "blocks/{i}/attn/v", "linear"),
    *pair("encoder.layer.{i}.attention.output.dense", "blocks/{i}/attn/proj", "linear"),
    *pair("encoder.layer.{i}.attention.output.LayerNorm", "blocks/{i}/norm1", "same"),
    *pair("encoder.layer.{i}.intermediate.dense", "blocks/{i}/mlp/fc1", "linear"),
    *pair("encoder.layer.{i}.output.dense", "blocks/{i}/mlp/fc2", "linear"),
    *pair("encoder.layer.{i}.output.LayerNorm", "blocks/{i}/norm2", "same"),
)
NOMIC_BERT_NOMIC: tuple[Rule, ...] = (  # the hub files of nomic-embed-text, and what transformers writes back
    _WORDS,
    _TYPES,
    *pair("emb_ln", "embeddings/norm", "same"),
    Rule("encoder.layers.{i}.attn.Wqkv.weight", QKV_KERNELS, "linear"),
    Rule("encoder.layers.{i}.attn.out_proj.weight", ("blocks/{i}/attn/proj/kernel",), "linear"),
    *pair("encoder.layers.{i}.norm1", "blocks/{i}/norm1", "same"),
    Rule("encoder.layers.{i}.mlp.fc11.weight", ("blocks/{i}/mlp/fc1_x/kernel",), "linear"),
    Rule("encoder.layers.{i}.mlp.fc12.weight", ("blocks/{i}/mlp/fc1_g/kernel",), "linear"),
    Rule("encoder.layers.{i}.mlp.fc2.weight", ("blocks/{i}/mlp/fc2/kernel",), "linear"),
    *pair("encoder.layers.{i}.norm2", "blocks/{i}/norm2", "same"),
)
NOMIC_BERT_HF: tuple[Rule, ...] = (  # transformers' own NomicBertModel in memory
    _WORDS,
    _TYPES,
    *pair("embeddings.LayerNorm", "embeddings/norm", "same"),
    Rule("layers.{i}.self_attn.q_proj.weight", QKV_KERNELS[:1], "linear"),
    Rule("layers.{i}.self_attn.k_proj.weight", QKV_KERNELS[1:2], "linear"),
    Rule("layers.{i}.self_attn.v_proj.weight", QKV_KERNELS[2:], "linear"),
    Rule("layers.{i}.self_attn.o_proj.weight", ("blocks/{i}/attn/proj/kernel",), "linear"),
    *pair("layers.{i}.post_attention_layernorm", "blocks/{i}/norm1", "same"),
    Rule("layers.{i}.mlp.up_proj.weight", ("blocks/{i}/mlp/fc1_x/kernel",), "linear"),
    Rule("layers.{i}.mlp.gate_proj.weight", ("blocks/{i}/mlp/fc1_g/kernel",), "linear"),
    Rule("layers.{i}.mlp.down_proj.weight", ("blocks/{i}/mlp/fc2/kernel",), "linear"),
    *pair("layers.{i}.post_mlp_layernorm", "blocks/{i}/norm2", "same"),
)
