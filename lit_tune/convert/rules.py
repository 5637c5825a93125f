"""What a line of the table of names is: one array of a peer, and the arrays of ours that it is made of."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Rule:
    """One array of the peer and the array or arrays of ours that it is made of.

    Attributes:
        peer: its name there; {i} is the number of the block.
        ours: our names, in the order in which the peer joins them along its first axis.
        how: same | linear (transposed) | conv (out, channel, row, column) | patch (out, channel * row * column) |
            vector (ours has two leading axes of 1) | table (ours has one), or zeros (the peer has an array where we
            have none).
        needs: fields or properties of the spec that must be true for the array to exist, "!" negates.
        first: number of the first block that has the array.
    """

    peer: str
    ours: tuple[str, ...]
    how: str
    needs: str = ""
    first: int = 0


def pair(peer: str, ours: str | tuple[str, ...], how: str, needs: str = "") -> tuple[Rule, Rule]:
    """Weight and bias of a linear layer, or scale and bias of a norm (how = "same")."""
    names = (ours,) if isinstance(ours, str) else ours
    weight = "scale" if how == "same" else "kernel"
    return (
        Rule(f"{peer}.weight", tuple(f"{name}/{weight}" for name in names), how, needs),
        Rule(f"{peer}.bias", tuple(f"{name}/bias" for name in names), "same", needs),
    )


def prefixed(prefix: str, rules: tuple[Rule, ...], needs: str = "") -> tuple[Rule, ...]:
    """The rules for a peer that holds this part under `prefix`."""
    return tuple(replace(r, peer=prefix + r.peer, needs=f"{needs} {r.needs}".strip()) for r in rules)


_QKV = ("blocks/{i}/attn/q", "blocks/{i}/attn/k", "blocks/{i}/attn/v")
QKV_KERNELS = tuple(f"{name}/kernel" for name in _QKV)
QKV_BIASES = tuple(f"{name}/bias" for name in _QKV)
