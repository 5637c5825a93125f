"""An EVA02 with the pooling head of nomic-embed-vision as a timm model: what timm's own Eva cannot express.

The trunk is timm's, with what that model has otherwise: a bias on the keys, and eps of its own in the norms.
`register()` makes timm know it as `lit_tune_eva02_nomic`, the architecture in the config.json of our exports with that
head. This module imports torch and timm.

Source: as `lit_tune.models.heads.NomicHead`.
"""

from functools import partial
from typing import Any

import timm
import torch
from timm.layers import SwiGLU
from timm.models import build_model_with_cfg, eva, register_model
from torch import nn

from lit_tune.exports.open_clip import NOMIC_ARCHITECTURE


class NomicSelector(nn.Module):
    """`mlp(norm(attention of one learned query))`, which the class token is added to.

    Args:
        width, num_heads: of the trunk.
        mlp_dim: hidden width of its SwiGLU.
        eps: of its LayerNorm.
    """

    def __init__(self, width: int, num_heads: int, mlp_dim: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.mlp = SwiGLU(width, mlp_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(b, d) of tokens (b, n, d)."""
        b, n, d = tokens.shape
        q = self.q(self.latent).reshape(1, 1, self.num_heads, -1).transpose(1, 2).expand(b, -1, -1, -1)  # (b, h, 1, k)
        k, v = self.kv(tokens).reshape(b, n, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (b, h, n, k) each
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, 1, d)
        return self.mlp(self.norm(self.proj(attended)))[:, 0]


class NomicEva(eva.Eva):
    """timm's Eva that ends in `class token + selector(tokens)`.

    Args:
        key_bias: whether the keys have a trained bias.
        norm_eps, sub_ln_eps, selector_norm_eps: of the norms around blocks, inside the MLP, in the head.
        selector_mlp_dim: hidden width of the head's SwiGLU.
        arguments: of timm's Eva; global_pool is "token".
    """

    def __init__(
        self,
        *,
        key_bias: bool,
        norm_eps: float,
        sub_ln_eps: float,
        selector_mlp_dim: int,
        selector_norm_eps: float,
        **arguments: Any,
    ) -> None:
        super().__init__(norm_layer=partial(nn.LayerNorm, eps=norm_eps), **arguments)
        for block in self.blocks:
            if arguments["scale_mlp"]:
                block.mlp.norm.eps = sub_ln_eps
            if key_bias:
                _give_key_bias(block.attn)
        self.selector = NomicSelector(self.embed_dim, arguments["num_heads"], selector_mlp_dim, selector_norm_eps)

    def pool(self, x: torch.Tensor, pool_type: str | None = None) -> torch.Tensor:
        """(b, d) of tokens (b, n, d); `pool_type` is timm's and means nothing here."""
        return x[:, 0] + self.selector(x)


def _give_key_bias(attention: nn.Module) -> None:
    """Put a parameter where timm's attention has a buffer of zeros, or nothing."""
    if attention.qkv is None:
        attention.k_proj.bias = nn.Parameter(torch.zeros(attention.k_proj.out_features))
        return
    zeros = attention.k_bias
    del attention.k_bias
    attention.k_bias = nn.Parameter(torch.zeros_like(zeros))


def lit_tune_eva02_nomic(pretrained: bool = False, **kwargs: Any) -> NomicEva:
    """The model; arguments as timm's entry points have them."""
    return build_model_with_cfg(
        NomicEva, NOMIC_ARCHITECTURE, pretrained, pretrained_filter_fn=eva.checkpoint_filter_fn, **kwargs
    )


def register() -> None:
    """Make timm know the model; again does nothing."""
    if not timm.is_model(NOMIC_ARCHITECTURE):
        register_model(lit_tune_eva02_nomic)
