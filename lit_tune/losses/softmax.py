"""The softmax (CLIP) loss of one device's images against all texts, value and gradient, without a stored table.

Two walks over the blocks of columns. The first sums the exponentials of every row, which one device holds whole, and
of every column, which are summed over devices: m floats cross, no image does. The second, for the gradient, makes the
probabilities again and multiplies them with the texts.

Errors where the text is bfloat16, at scale 100: the scaled image is rounded by 2^-8 of each coordinate at most, so a
logit is wrong by d <= 100 2^-8 sum_k |x_k t_k| <= 0.4 and the loss by 2 d at most. A probability is wrong by a factor
exp(2 d), and once more by 2^-8 for its own rounding; slopes of own pairs are rounded after the 1 is off. The errors
of a logit's many terms have no common sign: 1,024 random pairs of width 768 show a loss wrong by 1e-4 (loss 6) to
5e-4 (loss 0.002) of itself, image gradients by 2e-3 to 4e-3, and 1e-2 where the loss is below 1e-6.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from lit_tune.losses import blocks, shapes
from lit_tune.losses.blocks import Block, Form, Side, Tally

# A masked logit: finite, so that a column with every row masked has a finite log-sum-exp and no NaN in its gradient.
_MASKED = float(jnp.finfo(jnp.float32).min)
_ROOM = 174.0  # of -2 ln(smallest normal float32) = 174.67; the rest is left to rounding


class Outcome(NamedTuple):
    """What a branch gives: logarithms of the sums of exp(logits), and sums of slopes where they are asked for."""

    rows: Float[jax.Array, " n"]  # over all texts
    own_columns: Float[jax.Array, " n"]  # over all images, of each image's own text
    tally: Tally | None
    image: Float[jax.Array, "n d"] | None  # of (both probabilities - 2 own) x text
    text: Float[jax.Array, "m d"] | None


def on_device(side: Side, scale: jax.Array, form: Form, gradient: bool) -> tuple:
    """(loss, metrics, gradients) of the global batch; gradients are None or (image, text or None, (log_scale,)).

    The gradient of log_scale needs no sum over the table: the loss depends on scale x image only, so it is the sum of
    image . gradient of the image.
    """
    n = side.image.shape[0] * shapes.devices(form.mesh)
    found = lax.cond(fixed_shift_holds(reach(side, form), max(n, side.text.shape[0])),
                     lambda: with_fixed_shift(side, form, gradient),
                     lambda: with_running_maximum(side, form, gradient))
    own = side.own_logit
    gradients, slope = None, jnp.float32(0)
    if gradient:
        slope = jnp.sum(jnp.sum(jnp.float32(side.image) * found.image, axis=1)) / (2 * n)
        image = found.image * (scale / (2 * n))
        text = None if found.text is None else found.text / (2 * n)  # the scale is in the image
    i2t, t2i, slope = blocks.total(
        (jnp.sum(found.rows - own), jnp.sum(found.own_columns - own), slope), form.mesh)
    metrics = {"loss_i2t": i2t / n, "loss_t2i": t2i / n} | blocks.pair_metrics(side, scale, found.tally, form.mesh)
    if gradient:
        gradients = image, text, (slope,)
    return (i2t / n + t2i / n) / 2, metrics, gradients


def reach(side: Side, form: Form) -> Float[jax.Array, ""]:
    """The largest a logit can be in size: longest image (scaled) x longest text; the same on every device.

    For unit rows it is the scale; measured, it also holds for rows that rounding to bfloat16 has made longer.
    """
    squares = jnp.stack([jnp.max(jnp.sum(jnp.square(jnp.float32(rows)), axis=1))
                         for rows in (side.image, blocks.share(side.text, form.mesh))])
    # NaN is no larger and no smaller than anything: devices must not choose different branches over it.
    squares = jnp.where(jnp.isnan(squares), jnp.inf, squares)
    return jnp.prod(jnp.sqrt(blocks.largest(squares, form.mesh)))


def fixed_shift_holds(reach: Float[jax.Array, ""], longest: int) -> Bool[jax.Array, ""]:
    """Whether exponentials of logits less ln(longest) / 2 can be summed as they are, for any cosines.

    Let r bound the size of every logit (Cauchy and Schwarz: scale x longest image x longest text), N be the longest
    sum (the larger of the numbers of images and texts), s = ln(N) / 2, and t = 2^-126 the smallest normal float32.
    Every term e = exp(logit - s) lies in [exp(-r - s), exp(r - s)]. If 2 r + ln N <= -2 ln t = 174.67 then

    - e >= exp(-r - s) >= t: no term is lost, and no sum vanishes that has a term;
    - a sum S <= N exp(r - s) = exp(r + s) <= 1 / t: finite, and 1 / S is normal;
    - 1 / S_i <= exp(r + s) <= 1 / t for rows, and w_j / C_j <= 1 / t for a column with w_j owners, whose sum C_j has
      at least w_j terms; their sum is at most 2 / t, which is finite.

    174 is asked for: a margin of exp(0.33) each way, against 1e-4 in the largest logit (products of 1,000 terms in
    float32) and a relative 2^-24 N in a sum.
    """
    return 2 * reach + math.log(longest) <= _ROOM


def with_fixed_shift(side: Side, form: Form, gradient: bool) -> Outcome:
    """The sums where `fixed_shift_holds`: one exponential an element and walk, one sum of m floats over devices."""
    shift = math.log(max(side.image.shape[0] * shapes.devices(form.mesh), side.text.shape[0])) / 2

    def powers(block: Block) -> jax.Array:
        e = jnp.exp(block.logits - shift)
        return e if block.masked is None else jnp.where(block.masked, 0.0, e)

    def add(carry: tuple, block: Block, _: None) -> tuple:
        rows, tally = carry
        e = powers(block)
        return (rows + jnp.sum(e, axis=1), blocks.add_tally(tally, block)), jnp.sum(e, axis=0)

    start = jnp.zeros(side.own.shape, jnp.float32), blocks.no_tally(side)
    (rows, tally), columns = blocks.walk(side, form, add, start, None)
    columns = blocks.total(columns, form.mesh)
    image = text = None
    if gradient:
        # A column that nobody owns has no term of its own, and where every row of it is masked no sum.
        by_row, by_column = 1 / rows, side.owners / jnp.where(side.owners > 0, columns, 1.0)
        image, text = _pull_back(side, form, by_column,
                                 lambda block, weights: powers(block) * (by_row[:, None] + weights))
    return Outcome(jnp.log(rows) + shift, jnp.log(blocks.at_own(columns, side, form.mesh)) + shift, tally, image, text)


def with_running_maximum(side: Side, form: Form, gradient: bool) -> Outcome:
    """The sums for any scale: each row and column is shifted by its largest logit, found on the way."""

    def logits(block: Block) -> jax.Array:
        return block.logits if block.masked is None else jnp.where(block.masked, _MASKED, block.logits)

    def add(carry: tuple, block: Block, _: None) -> tuple:
        top, rows, tally = carry
        z = logits(block)
        higher, column_top = jnp.maximum(top, jnp.max(z, axis=1)), jnp.max(z, axis=0)
        rows = rows * jnp.exp(top - higher) + jnp.sum(jnp.exp(z - higher[:, None]), axis=1)
        columns = column_top, jnp.sum(jnp.exp(z - column_top), axis=0)
        return (higher, rows, blocks.add_tally(tally, block)), columns

    start = jnp.full(side.own.shape, _MASKED), jnp.zeros(side.own.shape, jnp.float32), blocks.no_tally(side)
    (row_top, rows, tally), (here_top, columns) = blocks.walk(side, form, add, start, None)
    rows = row_top + jnp.log(rows)
    top = blocks.largest(here_top, form.mesh)
    columns = top + jnp.log(blocks.total(columns * jnp.exp(here_top - top), form.mesh))
    image = text = None
    if gradient:
        def slopes(block: Block, column: tuple[jax.Array, jax.Array]) -> jax.Array:
            z, (sums, owners) = logits(block), column
            return jnp.exp(z - rows[:, None]) + owners * jnp.exp(z - sums)

        image, text = _pull_back(side, form, (columns, side.owners), slopes)
    return Outcome(rows, blocks.at_own(columns, side, form.mesh), tally, image, text)


def _pull_back(side: Side, form: Form, columns: jax.Array | tuple, probabilities: Callable) -> tuple:
    """Sums over the table of (both probabilities - 2 own) x the other side: the gradients but for a factor."""

    def add(image: jax.Array, block: Block, column: jax.Array | tuple) -> tuple:
        block = block._replace(logits=lax.optimization_barrier(block.logits))
        # The own pair's 2 goes off before the slopes are rounded: near the end of training they nearly cancel.
        p = probabilities(block, column)
        more, text = blocks.pull_back(side, block, jnp.where(block.own, p - 2, p), form.frozen_text)
        return image + more, text

    return blocks.walk(side, form, add, jnp.zeros(side.image.shape, jnp.float32), columns, last_first=True)
