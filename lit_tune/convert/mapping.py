"""Weights through the table of names: a peer's arrays to our parameters and back, every name and shape checked."""

import math
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

import numpy as np

from lit_tune import tree
from lit_tune.convert.keymap import IGNORED, PREFIXES, SPELLINGS, TABLES, VIT_TRUNK
from lit_tune.convert.limits import fits_openai, refuse
from lit_tune.convert.rules import Rule
from lit_tune.convert.weights import check_names_and_shapes
from lit_tune.errors import ConfigError, explain
from lit_tune.models.two_towers import family_of, tower_of
from lit_tune.models.vision import VisionSpec

NATIVE = "lit_tune"  # the layout of files that hold our own names, "blocks/0/attn/q/kernel", as they are


def from_peer(weights: Mapping[str, np.ndarray], spec: Any, layout: str) -> tree.Tree:
    """Our parameters, float32 numpy arrays, from a peer's weights.

    Raises:
        ConfigError: no such table, or arrays missing, left over or of another shape than the spec says.
    """
    table, layout = _table(spec, layout, weights)
    key = family_of(spec), layout
    prefixes = PREFIXES[key] if key in PREFIXES else ()
    bare = tuple(replace(rule, peer=_bare(rule.peer, prefixes)) for rule in table)
    named = _without_ignored(
        {_bare(name, prefixes): array for name, array in weights.items()}, IGNORED[key] if key in IGNORED else ()
    )
    return read_with(bare, named, spec, what=f"{layout} weights")


def to_peer(params: tree.Tree, spec: Any, layout: str) -> dict[str, np.ndarray]:
    """The peer's {name: float32 array} from our parameters.

    Raises:
        ConfigError: the layout cannot hold this tower; the line says why.
    """
    refuse(spec, layout)
    return write_with(_table(spec, layout)[0], params, spec)


def read_with(rules: tuple[Rule, ...], weights: Mapping[str, np.ndarray], spec: Any, what: str) -> tree.Tree:
    """`from_peer` with rules of the caller's choice."""
    shapes = {name: leaf.shape for name, leaf in tree.flatten(tower_of(spec).abstract()).items()}
    rules = expand(rules, spec)
    check_names_and_shapes(weights, {r.peer: peer_shape(r, shapes) for r in rules}, what)
    found: dict[str, np.ndarray] = {}
    for rule in rules:
        if rule.how == "zeros":
            _check_zeros(rule, weights[rule.peer])
            continue
        parts = np.split(np.asarray(weights[rule.peer]), len(rule.ours), axis=0)
        found |= {name: _to_ours(part, rule.how) for name, part in zip(rule.ours, parts, strict=True)}
    return tree.unflatten(found)


def write_with(rules: tuple[Rule, ...], params: tree.Tree, spec: Any) -> dict[str, np.ndarray]:
    """`to_peer` with rules of the caller's choice."""
    named = tree.flatten(params)
    found = {}
    for rule in expand(rules, spec):
        arrays = [np.asarray(named[name]) for name in rule.ours]
        if rule.how == "zeros":
            found[rule.peer] = np.zeros(arrays[0].shape[1:], np.float32)
        else:
            joined = np.concatenate([_to_peer(array, rule.how) for array in arrays], axis=0)
            found[rule.peer] = np.ascontiguousarray(joined)  # safetensors writes a transposed array's memory as it lies
    return found


def expand(rules: tuple[Rule, ...], spec: Any) -> list[Rule]:
    """The rules that hold for this spec, with block numbers filled in."""
    true = _conditions(spec)
    kept = [r for r in rules if all((n[1:] not in true) if n[0] == "!" else (n in true) for n in r.needs.split())]
    return [
        replace(r, peer=r.peer.replace("{i}", str(i)), ours=tuple(o.replace("{i}", str(i)) for o in r.ours))
        for r in kept
        for i in range(r.first, spec.depth if "{i}" in r.peer else 1)
    ]


def _conditions(spec: Any) -> set[str]:
    fields = {name for name, value in vars(spec).items() if value}
    if not isinstance(spec, VisionSpec):
        return fields
    norm = {"norms_pooled" if spec.norm_after_pool else "norms_tokens"} if spec.final_norm else set()
    return fields | {spec.pool} | norm | ({"projects"} if spec.projects else set())


# Layouts of the families that come in two spellings under one name: without and with flash-attention's names.
_TWINS = {"nomic_bert": ("hf", "nomic"), "jina_bert": ("hf", "jina_clip")}


def _table(spec: Any, layout: str, weights: Mapping[str, Any] = ()) -> tuple[tuple[Rule, ...], str]:
    family = family_of(spec)
    if layout == NATIVE:
        return tuple(Rule(name, (name,), "same") for name in tree.flatten(tower_of(spec).abstract())), layout
    if family in _TWINS and layout in _TWINS[family] and weights:
        # transformers holds one spelling of nomic-bert in memory and writes the other: the file says which it is
        layout = _TWINS[family][any(name.endswith("emb_ln.weight") for name in weights)]
    for markers, rules in SPELLINGS[family, layout] if (family, layout) in SPELLINGS else ():
        if all(marker in weights for marker in markers):
            return rules, layout
    if (family, layout) == ("vit", "open_clip") and not weights and not fits_openai(spec):
        return VIT_TRUNK, layout
    if (family, layout) not in TABLES:
        layouts = " | ".join(name for fam, name in TABLES if fam == family)
        raise ConfigError(explain("layout", expected=f"{layouts} for {family}", found=layout, do="choose one of these"))
    return TABLES[family, layout], layout


def _without_ignored(weights: Mapping[str, np.ndarray], patterns: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {k: v for k, v in weights.items() if not any(fnmatch(k, pattern) for pattern in patterns)}


def _bare(name: str, prefixes: tuple[str, ...]) -> str:
    """The name without the first of the prefixes that it has."""
    return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)


def _check_zeros(rule: Rule, array: np.ndarray) -> None:
    if np.any(array):
        raise ConfigError(explain(rule.peer, expected="zeros", found="a trained bias", do="set vision.embed_bias=True"))


def _to_ours(array: np.ndarray, how: str) -> np.ndarray:
    if how == "patch":
        patch = math.isqrt(array.shape[1] // 3)
        array, how = array.reshape(-1, 3, patch, patch), "conv"
    if how == "conv":
        array = array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])  # (row * column * channel, out)
    elif how == "linear":
        array = array.T
    elif how in ("vector", "table"):
        array = array.reshape((1,) * (2 if how == "vector" else 1) + array.shape)
    return np.ascontiguousarray(array, dtype=np.float32)


def _to_peer(array: np.ndarray, how: str) -> np.ndarray:
    if how in ("conv", "patch"):
        patch = math.isqrt(array.shape[0] // 3)
        array = array.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)  # (out, channel, row, column)
        return array.reshape(array.shape[0], -1) if how == "patch" else array
    if how in ("vector", "table"):
        return array.reshape(array.shape[2 if how == "vector" else 1 :])
    return array.T if how == "linear" else array


def peer_shape(rule: Rule, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of a rule's array there, from the shapes of ours by name."""
    first = shapes[rule.ours[0]]
    if rule.how == "zeros":
        return first[1:]
    if rule.how == "conv":
        patch = math.isqrt(first[0] // 3)
        return first[1], 3, patch, patch
    if rule.how in ("vector", "table"):
        return first[2 if rule.how == "vector" else 1 :]
    shape = first if rule.how == "same" else first[::-1]
    return shape[0] * len(rule.ours), *shape[1:]
