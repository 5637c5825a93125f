"""The image tower with Nomic's pooling head as a timm model: `register()` adds it, our open_clip exports name it.

timm 1.0.31 has the trunk of nomic-embed-vision (EVA02; a bias on the keys with `attn_type="rope"`), but neither its
head nor a second eps for the norms inside the MLPs. A timm that was not told of this architecture raises, rather than
give other vectors. `lit_tune.integrations.open_clip.register()` registers it too. This module imports torch and timm.

Source: contrastors models/huggingface/modeling_hf_nomic_bert.py `NomicMultiHeadAttentionPooling` at 613ddfd.
"""

from functools import partial
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.layers import LayerNorm, SwiGLU
from timm.models import build_model_with_cfg, register_model
from timm.models.eva import Eva, checkpoint_filter_fn
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class NomicPool(nn.Module):
    """`class token + mlp(norm(attention output))` of one learned query; names as timm's `AttentionPoolLatent`."""

    def __init__(self, width: int, num_heads: int, mlp_dim: int, eps: float, **placed: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.zeros(1, 1, width, **placed))
        self.q = nn.Linear(width, width, **placed)
        self.kv = nn.Linear(width, 2 * width, **placed)
        self.proj = nn.Linear(width, width, **placed)
        self.norm = LayerNorm(width, eps=eps, **placed)
        self.mlp = SwiGLU(width, mlp_dim, **placed)

    def forward(self, x: Float[torch.Tensor, "b n d"]) -> Float[torch.Tensor, "b d"]:
        """The pooled vector of tokens whose first is the class token."""
        b, n, width = x.shape
        q = self.q(self.latent).reshape(1, 1, self.num_heads, -1).transpose(1, 2).expand(b, -1, -1, -1)  # (b, h, 1, k)
        k, v = self.kv(x).reshape(b, n, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (b, h, n, k) each
        attended = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, width)
        return x[:, 0] + self.mlp(self.norm(self.proj(attended)))


class NomicEva(Eva):
    """timm's Eva with Nomic's pooling head and an eps for each kind of norm; it is built with `global_pool="map"`."""

    def __init__(
        self, *, norm_eps: float, mlp_norm_eps: float, attn_pool_norm_eps: float, embed_dim: int, num_heads: int,
        attn_pool_mlp_ratio: float, **arguments: Any,
    ) -> None:  # fmt: skip
        super().__init__(embed_dim=embed_dim, num_heads=num_heads, norm_layer=partial(LayerNorm, eps=norm_eps),
                         **arguments)  # fmt: skip
        for block in self.blocks:
            block.mlp.norm.eps = mlp_norm_eps  # of no effect where there is no such norm
        placed = {name: arguments[name] for name in ("device", "dtype") if name in arguments}
        self.attn_pool = NomicPool(embed_dim, num_heads, int(embed_dim * attn_pool_mlp_ratio), attn_pool_norm_eps,
                                   **placed)  # fmt: skip


def lit_tune_nomic_vision(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """The tower that the `model_args` of our config.json describe; timm has them from there."""
    return build_model_with_cfg(NomicEva, "lit_tune_nomic_vision", pretrained,
                                pretrained_filter_fn=checkpoint_filter_fn, **arguments)  # fmt: skip


def register() -> None:
    """Teach timm the architecture; again does nothing."""
    if not timm.is_model(lit_tune_nomic_vision.__name__):
        register_model(lit_tune_nomic_vision)
