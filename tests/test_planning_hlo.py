"""Reading the text of compiled programs: what TPU compilers write, cut short by hand, and what this CPU's does."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from lit_tune.planning import collectives, cycles, hlo, kernels, traffic
from lit_tune.planning.chips import CHIPS
from lit_tune.planning.hlo import Shape

LAYOUT = collectives.Layout({"data": 4, "fsdp": 2, "tensor": 1}, (0,) * 8)
RING = "source_target_pairs={{0,2},{2,4},{4,6},{6,0},{1,3},{3,5},{5,7},{7,1}}"
TRIPS = 'backend_config={"known_trip_count":{"n":"%s"}}'
PALLAS = 'custom_call_target="tpu_custom_call"'
THREE = ", ".join(["bf16[2,197,768]{2,1,0}"] * 3)
CONFIG = 'backend_config={"window_config":{"estimated_cycles":"%s"},"retry_config":{}}'


def program(*computations: str) -> hlo.Program:
    """The program of some computations, each its header's words and then its lines."""
    text = "HloModule jit_step, is_scheduled=true\n\n"
    for computation in computations:
        head, *lines = computation.strip().splitlines()
        text += f"{head} {{\n" + "".join(f"  {line.strip()}\n" for line in lines) + "}\n\n"
    return hlo.read(text)


LOOP = program("""%body.1 (p.1: (s32[], f32[8,128])) -> (s32[], f32[8,128])
    %p.1 = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
    %fusion.1 = f32[8,128]{1,0:T(8,128)} fusion(%p.1), kind=kOutput, calls=%fused.1, """ + CONFIG % 1000 + """
    ROOT %tuple.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%p.1, /*index=1*/%fusion.1)
""", """%condition.1 (p.2: (s32[], f32[8,128])) -> pred[]
    %p.2 = (s32[], f32[8,128]{1,0}) parameter(0)
    %constant.9 = s32[]{:T(128)} constant(7)
    ROOT %lt = pred[]{:T(512)} compare(%p.2, %constant.9), direction=LT
""", """%fused.1 (a: f32[8,128]) -> f32[8,128]
    %a = f32[8,128]{1,0:T(8,128)} parameter(0)
    ROOT %conv = f32[8,128]{1,0:T(8,128)} convolution(%a, %a), dim_labels=bf_io->bf
""", """%cheap (b: f32[8]) -> f32[8]
    ROOT %copy.1 = f32[8]{0} copy(%b), """ + CONFIG % 10 + """
""", """%dear (c: f32[8]) -> f32[8]
    ROOT %add.1 = f32[8]{0} add(%c, %c), """ + CONFIG % 500 + """
""", """ENTRY %main (x: f32[8,128]) -> f32[8,128]
    %x = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
    %while.1 = (s32[], f32[8,128]{1,0}) while(%x), condition=%condition.1, body=%body.1, """ + TRIPS % 12 + """
    %while.2 = (s32[], f32[8,128]{1,0}) while(%x), condition=%condition.1, body=%body.1
    %choice = f32[8]{0} conditional(%x, %x, %x), branch_computations={%cheap, %dear}
    %unknown = f32[8]{0} fusion(%x), kind=kCustom, calls=%fused.1, """ + CONFIG % 9223372036854775807 + """
    ROOT %kernel = bf16[2,197,128]{2,1,0} custom-call(%x), custom_call_target="tpu_custom_call"
""")


def test_cycles_count_loops_by_their_trips_and_branches_as_a_range() -> None:
    found = cycles.count(LOOP)
    assert (found.low, found.high) == (19 * 1000 + 10, 19 * 1000 + 500)  # 12 stated, 7 from the condition's constant
    assert found.kinds == {"matmul": 19_000, "elementwise": 500} and found.conditionals == 1
    assert found.unknown_loops == ()


def test_an_estimate_that_stands_for_none_is_none_and_layouts_do_not_disturb_shapes() -> None:
    entry = {line.name: line for line in LOOP.computations["main"]}
    assert entry["unknown"].cycles is None and entry["x"].shapes == (Shape("f32", (8, 128)),)
    assert entry["while.1"].shapes == (Shape("s32", ()), Shape("f32", (8, 128)))
    assert LOOP.computations["body.1"][2].operands == ("p.1", "fusion.1")
    assert Shape("bf16", (3, 5)).bytes == 30 and Shape("pred", ()).bytes == 1 and Shape("s4", (3,)).bytes == 2


def test_text_without_an_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.read("HloModule x\n")


@pytest.mark.parametrize("spelling, axis", [
    ("replica_groups={{0,2,4,6},{1,3,5,7}}", "data"), ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", "fsdp"),
    ("replica_groups=[4,2]<=[8]", "fsdp"), ("replica_groups=[2,4]<=[4,2]T(1,0)", "data"),
    ("replica_groups={{0,1,2,3,4,5,6,7}}", "all"), ("replica_groups={}", "all"), ("replica_groups=[1,8]<=[8]", "all"),
    ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", "data"),
    ("replica_groups=mesh['axis_0'=4,'axis_1'=2,'axis_2'=1] {'axis_1','axis_2'}", "fsdp"),
    ("replica_groups=mesh['a'=8] {'a':(1)4}", "data"), ("replica_groups=mesh['a'=8] {'a':(4)2}", "fsdp"),
    ("replica_groups={{0,1,2,3},{4,5,6,7}}", "?"),
    (RING, "data"),
])
def test_the_axis_of_an_exchange_is_read_from_every_spelling_of_its_groups(spelling: str, axis: str) -> None:
    found = collectives.groups(f", channel_id=1, {spelling}, use_global_device_ids=true", 8)
    assert collectives.axis_of(found, LAYOUT) == axis


WHOLE = "replica_groups=[1,8]<=[8]"
EXCHANGES = program("""%start (p: bf16[64,768]) -> (bf16[64,768], bf16[512,768])
    %p = bf16[64,768]{1,0} parameter(0)
    %ag.1 = bf16[512,768]{1,0} all-gather(%p), channel_id=1, """ + WHOLE + """, dimensions={0}
    ROOT %s = (bf16[64,768]{1,0}, bf16[512,768]{1,0}) custom-call(%ag.1), custom_call_target="AsyncCollectiveStart"
""", """%middle (q: bf16[64,768]) -> bf16[512,768]
    %q = bf16[64,768]{1,0} parameter(0)
    ROOT %ag.2 = bf16[512,768]{1,0} all-gather(%q), channel_id=1, """ + WHOLE + """, dimensions={0}
""", """%all-reduce-scatter.3 (r: f32[1024]) -> f32[128]
    %r = f32[1024]{0} parameter(0)
    %ar.3 = f32[1024]{0} all-reduce(%r), channel_id=7, """ + WHOLE + """, to_apply=%add
    ROOT %ds = f32[128]{0} dynamic-slice(%ar.3)
""", """%wrapped (t: f32[1024]) -> f32[128]
    %t = f32[1024]{0} parameter(0)
    ROOT %rs = f32[128]{0} reduce-scatter(%t), channel_id=9, """ + WHOLE + """, dimensions={0}, to_apply=%add
""", """%body (u: (s32[], f32[64])) -> (s32[], f32[64])
    %u = f32[64]{0} parameter(0)
    %cp = (f32[64]{0}, f32[64]{0}, u32[], u32[]) collective-permute-start(%u), """ + RING + """
    ROOT %cpd = f32[64]{0} collective-permute-done(%cp)
""", """ENTRY %main (x: f32[8,128]) -> f32[8,128]
    %x = bf16[64,768]{1,0} parameter(0)
    %g = f32[1024]{0} parameter(1)
    %f.1 = (bf16[64,768]{1,0}, bf16[512,768]{1,0}) fusion(%x), kind=kCustom, calls=%start
    %f.2 = bf16[512,768]{1,0} fusion(%x), kind=kCustom, calls=%middle
    %f.3 = bf16[512,768]{1,0} fusion(%x), kind=kCustom, calls=%middle
    %f.4 = f32[128]{0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.3
    %as = ((f32[1024]{0}), f32[128]{0}, u32[]) async-start(%g), calls=%wrapped
    %ad = f32[128]{0} async-done(%as)
    %w = (s32[], f32[64]{0}) while(%x), condition=%c, body=%body, """ + TRIPS % 3 + """
    %ags = (u32[8]{0}, u32[64]{0}) all-gather-start(%x), channel_id=3, """ + WHOLE + """, dimensions={0}
    %agd = u32[64]{0} all-gather-done(%ags)
    %a2a = (bf16[8,16]{1,0}, bf16[8,16]{1,0}) all-to-all(%x, %x), channel_id=4, replica_groups={{0,1},{2,3},{4,5},{6,7}}
    %big = (bf16[768,768]{1,0}, f32[768]{0}) all-reduce(%x, %g), channel_id=5, """ + WHOLE + """, to_apply=%add
    ROOT %alone = f32[4]{0} all-reduce(%g), channel_id=6, replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}
""")


def test_every_exchange_is_found_once_whatever_it_is_called() -> None:
    found = collectives.find(EXCHANGES, LAYOUT)
    assert {(one.kind, one.axis, one.bytes, one.times, one.asynchronous) for one in found} == {
        ("all-gather", "all", 512 * 768 * 2, 1, True),  # three pieces of one
        ("all-gather", "all", 64 * 4, 1, True),
        ("reduce-scatter", "all", 1024 * 4, 1, False),
        ("reduce-scatter", "all", 1024 * 4, 1, True),
        ("collective-permute", "data", 64 * 4, 3, True),
        ("all-to-all", "fsdp", 2 * 8 * 16 * 2, 1, False),
        ("all-reduce", "all", 768 * 768 * 2 + 768 * 4, 1, False),
    }


def test_an_exchange_between_slices_is_told() -> None:
    two = collectives.Layout({"data": 8, "fsdp": 1, "tensor": 1}, (0, 0, 0, 0, 1, 1, 1, 1))
    crossing = {one.kind: one.crosses_slices for one in collectives.find(EXCHANGES, two)}
    assert crossing["all-reduce"] and not crossing["all-to-all"]


HANDED = """channel_id=%d, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name=\
"xla_megascale_runtime",_xla_host_transfer_rendezvous="%s",_xla_megascale_target="{1,2}x{0:3}",\
_xla_megascale_transfer_type="%s"}, backend_config={"flag_configs":[]}"""
INSIDE = "channel_id=1, replica_groups={{0,1,2,3}}, use_global_device_ids=true"
# two slices of v5e:2x2, as libtpu 0.0.42 writes the program, fewer arrays
SLICES = hlo.read("HloModule jit_step, is_scheduled=true, num_partitions=4\n" + """
ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %text = bf16[2048,128]{1,0:T(8,128)(2,1)} parameter(0)
  %grads = bf16[256,128]{1,0:T(8,128)(2,1)} parameter(1)
  %start = token[] after-all(), frontend_attributes={MegascaleRendezvousKeyName="all-gather.41_0"}
  %send.3 = (bf16[2048,128]{1,0:T(8,128)(2,1)}, u32[], token[]) send(%text, %start), GATHER
  %recv.3 = (bf16[4096,128]{1,0:T(8,128)(2,1)}, u32[], token[]) recv(%start), GATHER
  %work = f32[8,128]{1,0} fusion(%text), kind=kLoop, calls=%f, backend_config={"estimated_cycles":"150000"}
  %send-done.3 = token[] send-done(%send.3), channel_id=10, is_host_transfer=true
  %recv-done.3 = (bf16[4096,128]{1,0:T(8,128)(2,1)}, token[]) recv-done(%recv.3), channel_id=9, is_host_transfer=true
  %half = bf16[4096,128]{1,0:T(8,128)(2,1)} get-tuple-element(%recv-done.3), index=0
  %all-gather.274 = bf16[2,8192,128]{1,0,2:T(2,128)(2,1)} all-gather(%half), INSIDE, dimensions={1}
  %reduce-scatter.43 = bf16[64,128]{1,0:T(8,128)(2,1)} reduce-scatter(%grads), INSIDE, dimensions={0}, to_apply=%add
  %bitcast.84 = bf16[8,8,128]{2,1,0:T(8,128)(2,1)} bitcast(%reduce-scatter.43)
  %send.40 = (bf16[8,8,128]{2,1,0:T(8,128)(2,1)}, u32[], token[]) send(%bitcast.84, %start), REDUCE
  %recv.40 = (bf16[8,8,128]{2,1,0:T(8,128)(2,1)}, u32[], token[]) recv(%start), REDUCE
  %send-done.40 = token[] send-done(%send.40), channel_id=12, is_host_transfer=true
  %recv-done.40 = (bf16[8,8,128]{2,1,0:T(8,128)(2,1)}, token[]) recv-done(%recv.40), channel_id=11
  %sum = bf16[8,8,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%recv-done.40), index=0
  ROOT %all-gather.9 = bf16[256,128]{1,0:T(8,128)(2,1)} all-gather(%sum), INSIDE, dimensions={0}
}
""".replace("GATHER", HANDED % (10, "all-gather.41_0", "ALL_GATHER")).replace(
    "REDUCE", HANDED % (12, "all-reduce.77_0", "ALL_REDUCE")).replace("INSIDE", INSIDE))
TWO = collectives.Layout({"data": 8, "fsdp": 1, "tensor": 1}, (0,) * 4 + (1,) * 4)


def test_a_program_of_several_slices_is_read_as_one_slices_part() -> None:
    found = collectives.find(SLICES, TWO)
    assert SLICES.partitions == 4 and all(one.axis == "data" for one in found)
    assert [(one.kind, one.bytes, one.group, one.crosses_slices, one.asynchronous) for one in found] == [
        ("all-gather", 16384 * 128 * 2, 4, False, False),
        ("all-gather", 4096 * 128 * 2, 2, True, True),  # half of it is the chip's own; the work stands between
        ("reduce-scatter", 256 * 128 * 2, 4, False, False), ("all-gather", 256 * 128 * 2, 4, False, False),
        ("all-reduce", 64 * 128 * 2, 2, True, False),  # the chip's part of the sum
    ]
    assert {one.source for one in found if one.crosses_slices} == {"all-gather.41_0", "all-reduce.77_0"}


@pytest.mark.parametrize("partitions, spelling, axis, crosses", [
    (4, "{{0,1},{2,3}}", "fsdp", False), (4, "{{0,2},{1,3}}", "data", False),
    (4, "[2,2]<=[2,2]T(1,0)", "data", False), (4, "[1,4]<=[4]", "data+fsdp", False),
    (8, "[4,2]<=[8]", "fsdp", False), (8, "[2,4]<=[4,2]T(1,0)", "data", True),
    (8, "{{0,1,2,3,4,5,6,7}}", "all", True), (8, "{{0,2},{1,3},{4,6},{5,7}}", "?", False),
])
def test_axes_of_a_hybrid_mesh_are_named_inside_a_slice_and_across(
        partitions: int, spelling: str, axis: str, crosses: bool) -> None:
    """Data 4, fsdp 2 over two slices: the groups number the devices of one slice, or of both."""
    text = f"HloModule x, num_partitions={partitions}\nENTRY %m (a: f32[4]) -> f32[4] {{\n" \
           f"  ROOT %r = f32[4]{{0}} all-reduce(%a), channel_id=1, replica_groups={spelling}, to_apply=%add\n}}\n"
    (one,) = collectives.find(hlo.read(text), LAYOUT._replace(slice_of=TWO.slice_of))
    assert (one.axis, one.crosses_slices) == (axis, crosses)


def test_the_network_takes_each_chips_bytes_less_what_runs_meanwhile() -> None:
    """By hand: the gather brings half of 1 MiB over, the sum of two 16 KiB goes over once; 100 us of work between."""
    chip, found = CHIPS["v5e"], collectives.find(SLICES, TWO)
    gather, total = 2**20 / 2 / 3.125e9, 2**14 / 3.125e9
    assert sum(traffic.network_bytes(one, 2) for one in found) == 2**19 + 2**14
    sent = traffic.time(SLICES, found, chip, 2)
    assert sent.network.low == pytest.approx(gather - 1e-4 + total) and gather > 1e-4
    assert sent.network.high == pytest.approx(2 * (gather + total))
    near = (16384 * 128 * 2 + 2 * 256 * 128 * 2) * 3 / 4 / (chip.link_rate / 2)
    assert sent.inside == pytest.approx((near, 2 * near))


def test_the_network_of_a_loop_counts_every_trip() -> None:
    body = [line for line in SLICES.computations["main"] if line.opcode != "parameter"]
    loop = hlo.read("ENTRY %m (x: f32[1]) -> f32[1] {\n  ROOT %w = f32[1]{0} while(%x), condition=%c, body=%b, "
                    + TRIPS % 3 + "\n}\n")
    looped = hlo.Program(loop.computations | {"b": body}, "m", 4)
    once, thrice = (traffic.time(one, collectives.find(one, TWO), CHIPS["v5e"], 2) for one in (SLICES, looped))
    assert thrice.network == pytest.approx((3 * once.network.low, 3 * once.network.high))


def test_pallas_calls_are_found_with_their_operands_and_how_often() -> None:
    text = program("""ENTRY %main (x: f32[8,128]) -> f32[8,128]
        %q = bf16[2,197,768]{2,1,0} parameter(0)
        %cos = f32[1,197,128]{2,1,0} parameter(1)
        %k.1 = bf16[2,197,768]{2,1,0} custom-call(%q, %q, %q, %cos, %cos), """ + PALLAS + """
        %k.2 = bf16[2,197,768]{2,1,0} custom-call(%q, %k.1, %q, %cos, %cos), """ + PALLAS + """
        ROOT %k.3 = (""" + THREE + """) custom-call(%q, %q, %q, %k.2, %cos, %cos), """ + PALLAS + """
    """)
    found = kernels.find(text)
    assert sorted((one.products, one.times) for one in found) in ([(2, 1), (2, 1), (5, 1)], [(2, 2), (5, 1)])
    assert {len(one.operands) for one in found} == {5, 6} and not any(one.estimated for one in found)


@pytest.fixture(scope="module")
def compiled_here() -> str:
    """A step with a loop, a reduction over each axis and a gather, by this machine's compiler on 4 x 2 devices."""
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

    def local(x: jax.Array) -> jax.Array:
        whole = lax.all_gather(x, "data", tiled=True)
        y = lax.fori_loop(0, 5, lambda _, y: lax.psum(jnp.tanh(y), "fsdp"), x)
        return lax.psum_scatter(y.sum() * whole, "data", tiled=True)

    function = jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    placed = jax.jit(function, in_shardings=NamedSharding(mesh, P("data")))
    return placed.lower(jax.ShapeDtypeStruct((64, 16), jnp.float32)).compile().as_text()


def test_what_this_machines_compiler_writes_is_read_too(compiled_here: str) -> None:
    found = collectives.find(hlo.read(compiled_here), LAYOUT)
    assert {(one.kind, one.axis, one.largest.size, one.times) for one in found} == {
        ("all-gather", "data", 64 * 16, 1), ("all-reduce", "fsdp", 16 * 16, 5), ("reduce-scatter", "data", 64 * 16, 1)}
