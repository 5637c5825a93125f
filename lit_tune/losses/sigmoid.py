"""The sigmoid (SigLIP) loss of one device's images against all texts: value and every gradient in one walk."""

import jax
import jax.numpy as jnp

from lit_tune.losses import blocks, shapes
from lit_tune.losses.blocks import Block, Form, Side


def on_device(side: Side, scale: jax.Array, bias: jax.Array, form: Form, gradient: bool) -> tuple:
    """(loss, metrics, gradients) of the global batch; gradients: None or (image, text or None, (log_scale, bias)).

    With y = scale x cosine + bias, negated for the own pair, a pair costs softplus(y). The gradient of log_scale needs
    no sum over the table: the loss depends on scale x image only, so it is the sum of image . gradient of the image.
    """
    n = side.image.shape[0] * shapes.devices(form.mesh)

    def add(carry: tuple, block: Block, _: None) -> tuple:
        cost, slope, image, tally = carry
        pair_cost, pair_slope = _pairs(block.logits + bias, block)
        cost, tally, text = cost + jnp.sum(pair_cost, axis=1), blocks.add_tally(tally, block), None
        if gradient:
            more, text = blocks.pull_back(side, block, pair_slope, form.frozen_text)
            slope, image = slope + jnp.sum(pair_slope, axis=1), image + more
        return (cost, slope, image, tally), text

    zeros = jnp.zeros(side.own.shape, jnp.float32)
    image = jnp.zeros(side.image.shape, jnp.float32) if gradient else None
    (cost, slope, image, tally), text = blocks.walk(side, form, add, (zeros, zeros, image, blocks.no_tally(side)), None)
    scale_slope = jnp.float32(0)
    if gradient:
        scale_slope = jnp.sum(jnp.sum(jnp.float32(side.image) * image, axis=1)) / n
        image = image * (scale / n)
        text = None if text is None else text / n  # the scale is in the image
    cost, slope, scale_slope = blocks.total((jnp.sum(cost), jnp.sum(slope), scale_slope), form.mesh)
    gradients = (image, text, (scale_slope, slope / n)) if gradient else None
    return cost / n, blocks.pair_metrics(side, scale, tally, form.mesh), gradients


def _pairs(logits: jax.Array, block: Block) -> tuple[jax.Array, jax.Array]:
    """(cost, its slope in the logit) of every pair of a block; 0 and 0 where it is masked."""
    y = jnp.where(block.own, -logits, logits)
    small = jnp.exp(-jnp.abs(y))  # one exponential for both
    cost = jnp.maximum(y, 0.0) + jnp.log1p(small)
    slope = jnp.where(y >= 0, 1.0, small) / (1 + small)
    slope = jnp.where(block.own, -slope, slope)
    if block.masked is not None:
        cost, slope = (jnp.where(block.masked, 0.0, x) for x in (cost, slope))
    return cost, slope
