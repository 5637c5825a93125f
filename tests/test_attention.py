"""The attention kernels against plain attention: values, gradients, devices, and who is chosen where."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding

from lit_tune.errors import ConfigError
from lit_tune.models.attention import cost
from lit_tune.models.attention.choice import EINSUM, Kernel, choose
from lit_tune.models.attention.fused import cudnn_attention, pallas_attention
from lit_tune.models.attention.short import short_attention
from lit_tune.models.layers import Attention

INTERPRETED = Kernel("pallas", interpret=True)


def plain(q: np.ndarray, k: np.ndarray, v: np.ndarray, g: np.ndarray, rope: tuple | None, head_dim: int) -> tuple:
    """Output and gradients of q, k, v for the gradient g, float64, by the formulas."""
    half = head_dim // 2
    cut = lambda x: np.asarray(x, np.float64).reshape(*x.shape[:2], -1, head_dim).swapaxes(1, 2)  # noqa: E731
    join = lambda x: x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)  # noqa: E731

    def turn(x: np.ndarray, sign: int) -> np.ndarray:
        if rope is None:
            return x
        cos, sin = (np.asarray(t, np.float64)[:, None] for t in rope)
        first, second = x[..., :half], x[..., half:]
        return np.concatenate([first * cos - sign * second * sin, second * cos + sign * first * sin], -1)

    q, k, v, g = turn(cut(q), 1), turn(cut(k), 1), cut(v), cut(g)
    z = q @ k.swapaxes(-1, -2) * head_dim**-0.5
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = g @ v.swapaxes(-1, -2)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * head_dim**-0.5
    dq, dk, dv = turn(ds @ k, -1), turn(ds.swapaxes(-1, -2) @ q, -1), p.swapaxes(-1, -2) @ g
    return tuple(join(x) for x in (p @ v, dq, dk, dv))


def arrays(b: int, n: int, width: int, head_dim: int, dtype: jnp.dtype, tables: int, spread: float = 1.0) -> tuple:
    """q, k, v, the gradient of the output, and rotary tables for `tables` pictures (0: None)."""
    rng = np.random.default_rng(n)
    q, k, v, g = (jnp.asarray(rng.normal(size=(b, n, width)) * s, dtype) for s in (spread, spread, 1, 1))
    angles = rng.uniform(-6, 6, size=(tables, n, head_dim // 2))
    rope = (jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)) if tables else None
    return q, k, v, g, rope


def difference(found: jax.Array, expected: np.ndarray) -> float:
    """Of the norms, relative."""
    return float(np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected))


LIMIT = {jnp.float32: 1e-5, jnp.bfloat16: 5e-3}


@pytest.mark.parametrize("n, width, head_dim, tables, dtype", [
    (197, 256, 64, 1, jnp.float32),  # two groups of lanes
    (197, 128, 64, 1, jnp.bfloat16),
    (99, 128, 64, 2, jnp.bfloat16),  # each picture its own tokens
    (50, 128, 64, 0, jnp.float32),  # a tower without rotation
    (257, 128, 128, 1, jnp.float32),  # one head fills a group
    (33, 128, 32, 2, jnp.float32),
    (9, 128, 16, 1, jnp.bfloat16),
    (1, 128, 64, 0, jnp.float32),
])
def test_kernel_equals_the_formula_in_value_and_every_gradient(
    n: int, width: int, head_dim: int, tables: int, dtype: jnp.dtype
) -> None:
    q, k, v, g, rope = arrays(2, n, width, head_dim, dtype, tables)
    out, backward = jax.vjp(lambda q, k, v: short_attention(q, k, v, rope, head_dim, True), q, k, v)
    expected = plain(*(np.asarray(x, np.float64) for x in (q, k, v, g)), rope, head_dim)
    for name, a, b in zip(("out", "dq", "dk", "dv"), (out, *backward(g)), expected, strict=True):
        assert a.dtype == dtype, name
        assert np.linalg.norm(b) < 1e-9 or difference(a, b) <= LIMIT[dtype], (name, difference(a, b))


def test_large_logits_stay_finite_and_exact() -> None:
    q, k, v, g, rope = arrays(1, 21, 128, 64, jnp.float32, 1, spread=20.0)  # logits of some thousands
    out, backward = jax.vjp(lambda q, k, v: short_attention(q, k, v, rope, 64, True), q, k, v)
    expected = plain(*(np.asarray(x) for x in (q, k, v, g)), rope, 64)
    # one rounding of a logit of 3,000 to float32 is 1e-4 of its power
    for a, b in zip((out, *backward(g)), expected, strict=True):
        assert difference(a, b) <= 2e-3


def test_backward_keeps_q_k_v_and_the_tables_only() -> None:
    q, k, v, _, rope = arrays(1, 21, 128, 64, jnp.float32, 1)
    _, backward = jax.vjp(lambda q, k, v: short_attention(q, k, v, rope, 64, True), q, k, v)
    kept = [x.shape for x in jax.tree.leaves(backward) if x.size > 1]
    assert sorted(kept) == sorted([q.shape] * 3 + [rope[0].shape] * 2)


def test_kernel_runs_under_checkpoint_scan_and_value_and_grad() -> None:
    q, k, v, g, rope = arrays(3, 13, 128, 64, jnp.float32, 1)

    def loss(q: jax.Array, wrap: object) -> jax.Array:
        one = wrap(lambda x: short_attention(*x, rope, 64, True))
        _, out = jax.lax.scan(lambda c, x: (c, one(x)), None, tuple(x[:, None] for x in (q, k, v)))
        return jnp.sum(out[:, 0] * g)

    values = [jax.jit(jax.value_and_grad(partial(loss, wrap=wrap)))(q) for wrap in (lambda f: f, jax.checkpoint)]
    _, backward = jax.vjp(lambda q: short_attention(q, k, v, rope, 64, True), q)
    for _, dq in values:
        np.testing.assert_allclose(dq, backward(g)[0], rtol=1e-5, atol=1e-6)


def mesh_of(data: int, fsdp: int, tensor: int) -> Mesh:
    return jax.make_mesh((data, fsdp, tensor), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize("shape, tables", [((8, 1, 1), 1), ((2, 2, 2), 8)])
def test_eight_devices_equal_one(shape: tuple[int, int, int], tables: int) -> None:
    q, k, v, g, rope = arrays(8, 11, 256, 64, jnp.float32, tables)
    kernel = Kernel("pallas", mesh_of(*shape), interpret=True)

    def both(q: jax.Array, k: jax.Array, v: jax.Array, rope: tuple, kernel: Kernel) -> tuple:
        out, backward = jax.vjp(lambda q, k, v: pallas_attention(q, k, v, rope, 64, kernel), q, k, v)
        return out, *backward(g)

    cut = [jax.device_put(x, NamedSharding(kernel.mesh, kernel.tokens_spec())) for x in (q, k, v)]
    program = jax.jit(both, static_argnums=4).lower(*cut, rope, kernel).compile()
    found = program(*cut, rope)
    for a, b in zip(found, both(q, k, v, rope, INTERPRETED), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert "all-gather" not in program.as_text()


@pytest.mark.parametrize("interleaved, key_bias, norm_eps", [(True, False, 1e-6), (False, True, None)])
def test_module_with_the_kernel_equals_the_plain_one_in_every_parameter_gradient(
    interleaved: bool, key_bias: bool, norm_eps: float | None
) -> None:
    module = Attention(128, 2, biases=(True, key_bias, True, True), norm_eps=norm_eps, interleaved=interleaved,
                       rngs=nnx.Rngs(0))
    graph, params = nnx.split(module)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 19, 128)), jnp.float32)
    *_, rope = arrays(2, 19, 128, 64, jnp.float32, 1)

    def loss(params: nnx.State, x: jax.Array, kernel: Kernel) -> jax.Array:
        return jnp.sum(jnp.sin(nnx.merge(graph, params)(x, rope=rope, kernel=kernel, dtype=jnp.float32)))

    found, expected = (
        jax.value_and_grad(loss, argnums=(0, 1))(params, x, kernel) for kernel in (INTERPRETED, EINSUM)
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # a key bias shifts all logits of a query: its gradient is 0 up to rounding
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1.0, float(jnp.abs(b).max())))


def test_masks_and_biases_are_refused_by_kernels_that_take_none() -> None:
    module = Attention(128, 2, biases=(True,) * 4, rngs=nnx.Rngs(0))
    x = jnp.zeros((1, 3, 128))
    with pytest.raises(ValueError, match="pallas takes no mask"):
        module(x, mask=jnp.ones((1, 1, 3), bool), kernel=INTERPRETED, dtype=jnp.float32)
    with pytest.raises(ValueError, match="pallas takes no mask and no bias"):
        module(x, bias=jnp.zeros((2, 3, 3)), kernel=INTERPRETED, dtype=jnp.float32)


@pytest.mark.parametrize("tokens", [197, 50])
@pytest.mark.parametrize("devices", [1, 8])
def test_cudnn_is_called_forward_and_backward_in_the_program_for_cuda(
    tokens: int, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the program is made for a GPU that is not here; its cuDNN is asked for a version while it is traced
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    kernel = Kernel("cudnn", mesh_of(8, 1, 1) if devices == 8 else None)
    x = jax.ShapeDtypeStruct((8, tokens, 12, 64), jnp.bfloat16)

    def gradients(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array) -> tuple:
        return jax.vjp(partial(cudnn_attention, kernel=kernel), q, k, v)[1](g)

    text = jax.jit(gradients).trace(x, x, x, x).lower(lowering_platforms=("cuda",)).as_text()
    assert len(re.findall(r"custom_call @__cudnn\$fmhaSoftmax\(", text)) == 1, text[:300]
    assert len(re.findall(r"custom_call @__cudnn\$fmhaSoftmaxBackward\(", text)) == 1


BASE = {"width": 768, "num_heads": 12, "tokens": 197}


@pytest.mark.parametrize("platform, changes, name", [
    ("tpu", {}, "pallas"), ("cuda", {}, "cudnn"), ("gpu", {}, "cudnn"), ("cpu", {}, "einsum"),
    ("tpu", {"width": 1152, "num_heads": 16}, "einsum"),  # 72 channels a head
    ("tpu", {"width": 192, "num_heads": 3}, "einsum"),  # a group and a half
    ("tpu", {"tokens": 1025}, "einsum"),
    ("cuda", {"dtype": jnp.float32}, "einsum"),
    ("cuda", {"width": 1152, "num_heads": 16}, "cudnn"),
    ("cuda", {"width": 1408, "num_heads": 8}, "einsum"),  # 176 channels a head
])
def test_auto_takes_the_platforms_kernel_where_the_tower_fits(platform: str, changes: dict, name: str) -> None:
    mesh = mesh_of(8, 1, 1)
    kernel = choose("auto", platform, mesh, **(BASE | changes))
    assert kernel == (EINSUM if name == "einsum" else Kernel(name, mesh))
    assert hash(kernel) == hash(choose("auto", platform, mesh, **(BASE | changes)))


@pytest.mark.parametrize("requested, platform, changes, words", [
    ("pallas", "cpu", {}, "expected a TPU, found cpu"),
    ("cudnn", "tpu", {}, "expected an NVIDIA GPU, found tpu"),
    ("pallas", "tpu", {"num_heads": 16}, "found width=768, num_heads=16"),
    ("pallas", "tpu", {"width": 192, "num_heads": 3}, "multiple of 128, found width=192 over mesh.tensor=1"),
    ("pallas", "tpu", {"tokens": 1025}, "found 1025 tokens"),
    ("cudnn", "cuda", {"dtype": jnp.float32}, "expected bfloat16 or float16, found float32"),
    ("flash", "tpu", {}, "expected auto | einsum | pallas | cudnn, found flash"),
])
def test_a_kernel_asked_for_by_name_that_cannot_run_is_refused(
    requested: str, platform: str, changes: dict, words: str
) -> None:
    with pytest.raises(ConfigError) as error:
        choose(requested, platform, None, **(BASE | changes))
    assert words in str(error.value) and "config.vision.attention" in str(error.value)


def test_padded_work_of_a_picture_is_counted_from_the_shapes() -> None:
    # 197 rows are 208 on the matrix unit, 256 lanes; two products forward, two like them and three of 64 rows backward
    forward, backward = (cost.passes(197, 12, 64, backward)[0] for backward in (False, True))
    assert forward == 12 * 2 * (2 * 208 * 128 * 256)
    assert backward == 12 * (2 * (2 * 208 * 128 * 256) + 3 * (2 * 64 * 256 * 256))
    assert cost.passes(197, 12, 64, True)[1] == 12 * 26 * 200 * 256
    assert [cost.groups_a_step(197, 768, size, 7) for size in (2, 4)] == [6, 3]


def test_heads_cut_over_the_tensor_axis_stay_in_groups() -> None:
    mesh = mesh_of(2, 1, 4)
    assert choose("pallas", "tpu", mesh, width=1024, num_heads=16, tokens=197).mesh is mesh
    with pytest.raises(ConfigError, match="found width=768 over mesh.tensor=4"):
        choose("pallas", "tpu", mesh, **BASE)
    assert choose("einsum", "tpu", mesh, **BASE) == EINSUM


COMPILED = """
import json
import jax, jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lit_tune.models.attention.choice import choose
from lit_tune.models.layers import Attention

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = jax.make_mesh((4, 1, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices)
kernel = choose("auto", devices[0].platform, mesh, width=256, num_heads=4, tokens=197)
whole, cut = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
module = lambda: Attention(256, 4, biases=(True, False, True, True), interleaved=True, rngs=nnx.Rngs(0))
graph, params = nnx.split(nnx.eval_shape(module))
params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=whole), params)
x = jax.ShapeDtypeStruct((32, 197, 256), jnp.bfloat16, sharding=cut)
table = jax.ShapeDtypeStruct((1, 197, 32), jnp.float32, sharding=whole)

def gradients(params, x, cos, sin, g):
    layer = lambda params, x: nnx.merge(graph, params)(x, rope=(cos, sin), kernel=kernel, dtype=jnp.bfloat16)
    return jax.vjp(layer, params, x)[1](g)

text = jax.jit(gradients).lower(params, x, table, table, x).compile().as_text()
print(json.dumps({"kernel": kernel.name, "text": text}))
"""
MOVES = {"copy", "pad", "transpose", "slice", "concatenate", "reshape", "bitcast", "parameter", "constant"}


def opcodes(text: str) -> tuple[dict[str, str], dict[str, list[str]], dict[str, set[str]]]:
    """Of a compiled program: the opcode and the operands of every instruction, and the opcodes of every computation."""
    opcode, operands, inside, computation = {}, {}, {}, ""
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            computation = header[1]
        # the type is one word, or a tuple in round brackets
        found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (?:\((?:[^()]|\([^()]*\))*\)|\S+) ([\w\-]+)\((.*)", line)
        if found:
            name, op, rest = found.groups()
            inside.setdefault(computation, set()).add(op)
            called = re.search(r"calls=%?([\w.\-]+)", rest)
            opcode[name] = f"fusion:{called[1]}" if op == "fusion" else op
            operands[name] = re.findall(r"%([\w.\-]+)", rest.split("metadata=")[0].split("calls=")[0])
    return opcode, operands, inside


def moves_beside_kernels(text: str) -> list[str]:
    """Names of the operands and users of TPU kernels with (b, n, d) values that only move data."""
    opcode, operands, inside = opcodes(text)
    kernels = re.findall(r"%?([\w.\-]+) = .*custom_call_target=\"tpu_custom_call\"", text)
    assert len(kernels) == 2
    results = {name for name, op in opcode.items() if op == "get-tuple-element" and operands[name][0] in kernels}
    users = {name for name, of in operands.items() if {*of} & {*kernels, *results}} - results
    beside = {name for kernel in kernels for name in operands[kernel][:3]} | (users - {*kernels})
    only_move = lambda op: op in MOVES or (op.startswith("fusion:") and inside[op[7:]] <= MOVES)  # noqa: E731
    return [name for name in beside if only_move(opcode[name]) and opcode[name] != "bitcast"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed")
def test_program_compiled_for_a_tpu_moves_nothing_beside_the_kernel() -> None:
    environment = os.environ | {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    environment.pop("XLA_FLAGS", None)
    run = subprocess.run([sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["kernel"] == "pallas"
    assert moves_beside_kernels(found["text"]) == []


def test_a_copy_beside_a_kernel_is_seen() -> None:
    text = """
%moved (p: bf16[2,3,4]) -> bf16[2,3,4] {
  %p = bf16[2,3,4]{2,0,1} parameter(0)
  ROOT %c = bf16[2,3,4]{2,1,0} copy(%p)
}

ENTRY %main (x: bf16[2,3,4]) -> bf16[2,3,4] {
  %x = bf16[2,3,4]{2,0,1:T(8,128)(2,1)} parameter(0)
  %m = bf16[2,3,4]{2,1,0} fusion(%x), kind=kLoop, calls=%moved
  %d = bf16[2,3,4]{2,1,0} add(%m, %m)
  %first = (bf16[2,3,4]{2,1,0:T(8,128)(2,1)}, bf16[2,3,4]{2,1,0}) custom-call(%m, %d, %d), custom_call_target="tpu_custom_call"
  %got = bf16[2,3,4]{2,1,0} get-tuple-element(%first), index=1
  %second = bf16[2,3,4]{2,1,0} custom-call(%got, %d, %d), custom_call_target="tpu_custom_call"
  ROOT %out = bf16[2,3,4]{2,0,1} copy(%second)
}
"""  # noqa: E501
    assert sorted(moves_beside_kernels(text)) == ["m", "out"]
