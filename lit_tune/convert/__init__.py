"""Towers from other people's weights: `vision` and `text` return callables with the peer's numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lit_tune.convert import mapping, weights as weight_files
from lit_tune.convert.peer_text import text_spec
from lit_tune.convert.peer_vision import vision_spec
from lit_tune.models.two_towers import tower_of
from lit_tune.tree import Tree


@dataclass(frozen=True)
class ConvertedTower:
    """A tower with its parameters, float32.

    Attributes:
        params: nested dict of arrays under our names.
        spec: the architecture.
    """

    params: Tree
    spec: Any

    @cached_property
    def _compiled(self) -> dict[str, Any]:
        tower = tower_of(self.spec)
        return {
            method: jax.jit(lambda params, *inputs, method=method: tower.apply(params, *inputs, method=method))
            for method in ("__call__", "tokens")
        }

    def __call__(self, *inputs: Any) -> jax.Array:
        """float32 (b, d), pooled, not L2-normalised.

        Args:
            inputs: float32 (b, h, w, 3) normalised pixels, or int (b, s) ids and (b, s) mask.
        """
        return self._compiled["__call__"](self.params, *map(jnp.asarray, inputs))

    def tokens(self, *inputs: Any) -> jax.Array:
        """float32 (b, n, d): what the peer calls forward_features or last hidden state."""
        return self._compiled["tokens"](self.params, *map(jnp.asarray, inputs))


def vision(weights: str | Path | Mapping[str, Any], config: Mapping[str, Any], layout: str) -> ConvertedTower:
    """A vision tower from a peer's weights: `tower(pixels)`, `tower.tokens(pixels)`.

    Args:
        weights: a .safetensors file, a folder with model.safetensors, or arrays by name.
        config: the peer's own config dict.
        layout: timm | nomic | hf | open_clip.

    Raises:
        ConfigError: weights that do not belong to the config, are not finite, or a family not supported yet.
    """
    named = weight_files.read(weights)
    spec = vision_spec(config, layout, named)
    return ConvertedTower(mapping.from_peer(named, spec, layout), spec)


def text(
    weights: str | Path | Mapping[str, Any],
    config: Mapping[str, Any],
    layout: str,
    pool: str = "mean",
    layer_norm: bool = False,
) -> ConvertedTower:
    """A text tower from a peer's weights: `tower(input_ids, attention_mask)`, `tower.tokens(...)`.

    Args:
        weights, config: as `vision`.
        layout: hf | nomic | open_clip.
        pool: mean | cls | last; CLIP and SigLIP pool by their own rule, Jina CLIP by the mean, whatever is given.
        layer_norm: LayerNorm without affine on the vector (nomic-embed-text-v1.5).

    Raises:
        ConfigError: as `vision`.
    """
    named = weight_files.read(weights)
    spec = text_spec(config, layout, pool=pool, layer_norm=layer_norm, names=named)
    return ConvertedTower(mapping.from_peer(named, spec, layout), spec)
