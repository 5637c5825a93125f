"""The table of names, text towers: BERT and XLM-R, NomicBert and JinaBERT in both spellings, CLIP, SigLIP, ModernBERT.

Source: state dicts of transformers 5.24 and open_clip 3.3; for JinaBERT the two peers that models/jina_bert.py names.
"""

from lit_tune.convert.rules import QKV_BIASES, QKV_KERNELS, Rule, pair, prefixed

_WORDS = Rule("embeddings.word_embeddings.weight", ("embeddings/word_embeddings",), "same")
_TYPES = Rule("embeddings.token_type_embeddings.weight", ("embeddings/token_type_embeddings",), "same", "type_vocab")
_BERT_ATTENTION: tuple[Rule, ...] = (
    *pair("embeddings.LayerNorm", "embeddings/norm", "same"),
    *pair("encoder.layer.{i}.attention.self.query", "blocks/{i}/attn/q", "linear"),
    *pair("encoder.layer.{i}.attention.self.key", "blocks/{i}/attn/k", "linear"),
    *pair("encoder.layer.{i}.attention.self.value", "blocks/{i}/attn/v", "linear"),
    *pair("encoder.layer.{i}.attention.output.dense", "blocks/{i}/attn/proj", "linear"),
    *pair("encoder.layer.{i}.attention.output.LayerNorm", "blocks/{i}/norm1", "same"),
)
BERT_HF: tuple[Rule, ...] = (
    _WORDS,
    Rule("embeddings.position_embeddings.weight", ("embeddings/position_embeddings",), "same"),
    _TYPES,
    *_BERT_ATTENTION,
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
# The joined layer of a GeGLU: jina-bert-implementation, jina-bert-flash-implementation and ModernBERT apply GELU to the
# first half (jina-embeddings-v2-base-code, another architecture, to the second).
_GATE_VALUE = ("blocks/{i}/mlp/fc1_g/kernel", "blocks/{i}/mlp/fc1_x/kernel")
JINA_BERT_HF: tuple[Rule, ...] = (  # jina-embeddings-v2
    _WORDS,
    _TYPES,
    *_BERT_ATTENTION,
    Rule("encoder.layer.{i}.mlp.gated_layers.weight", _GATE_VALUE, "linear"),
    *pair("encoder.layer.{i}.mlp.wo", "blocks/{i}/mlp/fc2", "linear"),
    *pair("encoder.layer.{i}.mlp.layernorm", "blocks/{i}/norm2", "same"),
)
_JINA_FLASH: tuple[Rule, ...] = (
    _WORDS,
    _TYPES,
    *pair("emb_ln", "embeddings/norm", "same"),
    Rule("encoder.layers.{i}.mixer.Wqkv.weight", QKV_KERNELS, "linear"),
    Rule("encoder.layers.{i}.mixer.Wqkv.bias", QKV_BIASES, "same"),
    *pair("encoder.layers.{i}.mixer.out_proj", "blocks/{i}/attn/proj", "linear"),
    *pair("encoder.layers.{i}.norm1", "blocks/{i}/norm1", "same"),
    Rule("encoder.layers.{i}.mlp.gated_layers.weight", _GATE_VALUE, "linear"),
    *pair("encoder.layers.{i}.mlp.wo", "blocks/{i}/mlp/fc2", "linear"),
    *pair("encoder.layers.{i}.norm2", "blocks/{i}/norm2", "same"),
)
JINA_BERT_CLIP = prefixed("text_model.transformer.", _JINA_FLASH)  # Jina CLIP v1
MODERN_BERT_HF: tuple[Rule, ...] = (
    Rule("embeddings.tok_embeddings.weight", ("token_embedding",), "same"),
    Rule("embeddings.norm.weight", ("embed_norm/scale",), "same"),
    Rule("layers.{i}.attn_norm.weight", ("blocks/{i}/norm1/scale",), "same", first=1),
    Rule("layers.{i}.attn.Wqkv.weight", QKV_KERNELS, "linear"),
    Rule("layers.{i}.attn.Wo.weight", ("blocks/{i}/attn/proj/kernel",), "linear"),
    Rule("layers.{i}.mlp_norm.weight", ("blocks/{i}/norm2/scale",), "same"),
    Rule("layers.{i}.mlp.Wi.weight", _GATE_VALUE, "linear"),
    Rule("layers.{i}.mlp.Wo.weight", ("blocks/{i}/mlp/fc2/kernel",), "linear"),
    Rule("final_norm.weight", ("norm/scale",), "same"),
)
_CLIP_TEXT: tuple[Rule, ...] = (
    Rule("embeddings.token_embedding.weight", ("token_embedding",), "same"),
    Rule("embeddings.position_embedding.weight", ("pos_embed",), "same"),
    *pair("encoder.layers.{i}.layer_norm1", "blocks/{i}/norm1", "same"),
    *pair("encoder.layers.{i}.self_attn.q_proj", "blocks/{i}/attn/q", "linear"),
    *pair("encoder.layers.{i}.self_attn.k_proj", "blocks/{i}/attn/k", "linear"),
    *pair("encoder.layers.{i}.self_attn.v_proj", "blocks/{i}/attn/v", "linear"),
    *pair("encoder.layers.{i}.self_attn.out_proj", "blocks/{i}/attn/proj", "linear"),
    *pair("encoder.layers.{i}.layer_norm2", "blocks/{i}/norm2", "same"),
    *pair("encoder.layers.{i}.mlp.fc1", "blocks/{i}/mlp/fc1", "linear"),
    *pair("encoder.layers.{i}.mlp.fc2", "blocks/{i}/mlp/fc2", "linear"),
    *pair("final_layer_norm", "norm", "same"),
)
CLIP_TEXT_HF: tuple[Rule, ...] = (  # CLIPTextModel bare, CLIPTextModelWithProjection and CLIPModel under "text_model."
    *prefixed("", _CLIP_TEXT, "!embed_dim"),
    *prefixed("text_model.", _CLIP_TEXT, "embed_dim"),
    Rule("text_projection.weight", ("proj/kernel",), "linear", "embed_dim causal"),
    *prefixed("text_model.", pair("head", "proj", "linear"), "embed_dim !causal"),  # SigLIP
)
CLIP_TEXT_OPEN_CLIP: tuple[Rule, ...] = (
    Rule("token_embedding.weight", ("token_embedding",), "same"),
    Rule("positional_embedding", ("pos_embed",), "same"),
    *pair("transformer.resblocks.{i}.ln_1", "blocks/{i}/norm1", "same"),
    Rule("transformer.resblocks.{i}.attn.in_proj_weight", QKV_KERNELS, "linear"),
    Rule("transformer.resblocks.{i}.attn.in_proj_bias", QKV_BIASES, "same"),
    *pair("transformer.resblocks.{i}.attn.out_proj", "blocks/{i}/attn/proj", "linear"),
    *pair("transformer.resblocks.{i}.ln_2", "blocks/{i}/norm2", "same"),
    *pair("transformer.resblocks.{i}.mlp.c_fc", "blocks/{i}/mlp/fc1", "linear"),
    *pair("transformer.resblocks.{i}.mlp.c_proj", "blocks/{i}/mlp/fc2", "linear"),
    *pair("ln_final", "norm", "same"),
    Rule("text_projection", ("proj/kernel",), "same", "embed_dim !proj_bias"),  # a matrix (width, embed_dim)
    *prefixed("", pair("text_projection", "proj", "linear"), "embed_dim proj_bias"),
)
CLIP_TEXT_CUSTOM = prefixed("text.", CLIP_TEXT_OPEN_CLIP)  # open_clip models with custom_text
