"""Products of one training pair by an exact formula: what MFU is counted with, in training and in `lit-tune plan`."""

from typing import NamedTuple

from ml_collections import ConfigDict

from lit_tune import optim, tree
from lit_tune.models.functional import Tower


class Flops(NamedTuple):
    """Multiply-adds x 2 of one pair in one step. Norms, softmax and other work on single elements are left out.

    Attributes:
        image: of the image tower, forward and backward.
        text: of the frozen text tower, forward; 0 where its vectors are read.
        loss: of the loss, value and gradient of the pictures.
        recomputed: of what a step computes again to save memory; in no other figure.
        avoided: of `image`, what the step does not compute: a pooling head has one query, so its scores and its mean
            of values come from the tokens themselves, without keys and values. MFU counts the head as it is published.
    """

    image: float
    text: float
    loss: float
    recomputed: float
    avoided: float

    @property
    def model(self) -> float:
        """What the mathematics needs, recomputation not counted."""
        return self.image + self.text + self.loss


def per_pair(config: ConfigDict, text_tower: Tower | None = None) -> Flops:
    """The products of one pair of a config.

    A product's backward pass is two products of the same size, one for its input and one for its weight; pixels need
    no gradient, and neither do frozen blocks.

    Args:
        config: a checked config.
        text_tower: the one that runs inside the step, None where vectors are read.
    """
    parts = image_forward(config)
    v, frozen = config.vision, optim.frozen_blocks(config)
    forward = sum(parts.values()) + (v.depth - 1) * parts["block"]
    backward = 2 * (forward - frozen * parts["block"]) - (2 if frozen else 1) * parts["patches"]
    again = (v.depth - frozen) * parts["block"] if v.remat == "full" else 0.0
    if config.micro_batches > 1:  # the vectors of all pictures first, then each part again with its gradient
        again += forward
    text = 0.0 if text_tower is None else text_forward(text_tower, config.text.max_length)
    return Flops(forward + backward, text, loss(config), again, avoided(config))


def image_forward(config: ConfigDict) -> dict[str, float]:
    """{patches, block (each of them), pool, head} of one picture, forward."""
    v = config.vision
    patches = (v.image_size[0] // v.patch_size) * (v.image_size[1] // v.patch_size)
    n, d = tokens(config), v.width
    mlp = {"eva02": 3, "vit": 2}[v.family]  # kernels: SwiGLU has a gate
    block = 2 * n * (4 * d**2 + mlp * d * v.mlp_dim) + 4 * n**2 * d
    pool = 0.0
    if v.pool in ("map", "nomic"):  # one query: keys and values of all tokens, then one row
        pool_mlp = {"map": 2, "nomic": 3}[v.pool]
        pool = 4 * n * d**2 + 4 * n * d + 2 * (d**2 + pool_mlp * d * v.pool_mlp_dim)
    projects = v.embed_dim != 0 and (v.embed_square or v.embed_dim != d)
    return {"patches": 2.0 * patches * v.patch_size**2 * 3 * d, "block": float(block), "pool": float(pool),
            "head": 2.0 * d * v.embed_dim if projects else 0.0}


def avoided(config: ConfigDict) -> float:
    """Of one picture, forward and backward: keys and values of all tokens, less what stands in for them."""
    v = config.vision
    if v.pool not in ("map", "nomic"):
        return 0.0
    n, d = tokens(config), v.width
    return 3.0 * (4 * n * d**2 + 4 * n * d - 4 * n * v.num_heads * d - 2 * d**2)


def tokens(config: ConfigDict) -> int:
    """Of one picture, after patch dropout, class token included."""
    v = config.vision
    patches = (v.image_size[0] // v.patch_size) * (v.image_size[1] // v.patch_size)
    kept = patches if v.patch_dropout == 0 else max(1, round(patches * (1 - v.patch_dropout)))
    return kept + int(v.class_token)


def text_forward(tower: Tower, length: int) -> float:
    """Of one caption of `length` tokens, padding included: the tower computes it."""
    spec, named = tower.spec, tree.flatten(tower.abstract())
    sizes = {name: leaf.shape[0] * leaf.shape[1] for name, leaf in named.items() if name.endswith("/kernel")}
    tokens = sum(size for name, size in sizes.items() if name.startswith("blocks/"))
    return 2.0 * length * tokens + 4.0 * length**2 * spec.width * spec.depth + 2.0 * (sum(sizes.values()) - tokens)


def loss(config: ConfigDict) -> float:
    """Of one picture's row of the loss: cosines with every text, and their gradient to its vector; text is frozen."""
    rows = config.global_batch + config.loss.extra_negatives + config.loss.text_bank * config.global_batch
    widths = (config.vision.embed_dim or config.vision.width, *config.loss.matryoshka_dims)
    return 4.0 * rows * sum(widths)
