"""The figures of a plan, the promises, the search for what fits, and the pages, on programs written by hand."""

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from lit_tune import config as config_lib
from lit_tune.errors import ConfigError
from lit_tune.models.attention import cost
from lit_tune.planning import (
    chips,
    command,
    compiling,
    estimate,
    fitting,
    kernels,
    page,
    picture,
    prices,
    promises,
    roofline,
    sweep,
    traffic,
)
from lit_tune.planning.chips import CHIPS, Slice, parse
from lit_tune.planning.collectives import Collective, Layout
from lit_tune.planning.compiling import GIB, Compiled, Compiler
from lit_tune.planning.hlo import Shape, read

SLICE = chips.parse("v5e:2x4")
LAYOUT = Layout({"data": 8, "fsdp": 1, "tensor": 1}, (0,) * 8)
WHOLE = "replica_groups=[1,8]<=[8], use_global_device_ids=true"
TRAINED = 600 * 1000
KEPT = """HloModule step

ENTRY %main (x: f32[1]) -> f32[1] {
  %x = bf16[128,768]{1,0} parameter(0)
  %g = f32[600,1000]{1,0} parameter(1)
  %text = bf16[1024,768]{1,0} all-gather(%x), channel_id=1, """ + WHOLE + """, dimensions={0}
  %columns = f32[1024]{0} all-reduce(%g), channel_id=2, """ + WHOLE + """, to_apply=%add
  %grads = f32[600,1000]{1,0} all-reduce(%g), channel_id=3, """ + WHOLE + """, to_apply=%add
  %work = f32[128,512]{1,0} fusion(%x), kind=kLoop, calls=%f, backend_config={"estimated_cycles":"1500000"}
  MORE
  ROOT %out = f32[1]{0} copy(%work)
}
"""


def small(**changes: Any) -> ConfigDict:
    """A config of 1,024 pairs."""
    values = {"text.source": "cached", "global_batch": 1024, "total_steps": 3600, "optim.warmup_steps": 10}
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return config_lib.load("nomic_embed_vision_v1_5:best", [(key, str(value)) for key, value in values.items()])


def compiled(more: str = "", **changes: Any) -> Compiled:
    """A program that fits, with another line in it."""
    values = dict(fits=True, peak=3 * GIB, arguments=GIB, temporaries=2 * GIB, code=GIB // 4,
                  text=KEPT.replace("MORE", more), flops=1e12, traffic=1e9, layout=LAYOUT, seconds=1.0, platform="tpu",
                  trained=TRAINED)
    return Compiled(**(values | changes))


def test_a_program_that_keeps_its_promises_breaks_none() -> None:
    assert promises.broken(small(), compiled()) == []
    # the v5p compiler's gather: every device adds its rows to zeros
    summed = compiled().text.replace("bf16[1024,768]{1,0} all-gather(%x)", "bf16[1024,768]{1,0} all-reduce(%x)")
    assert "all-gather" not in summed and promises.broken(small(), compiled(text=summed)) == []


@pytest.mark.parametrize("line, said", [
    ("%a = bf16[1024,768]{1,0} all-gather(%x), channel_id=7, " + WHOLE, "1024 x 768 text vectors: found 2"),
    ("%a = f32[1024,768]{1,0} all-gather(%x), channel_id=7, " + WHOLE, "text is gathered in bf16: found f32"),
    ("%a = u8[1024,224,224,3]{3,2,1,0} all-gather(%x), channel_id=7, " + WHOLE, "pictures are gathered"),
    ("%a = f32[600,1000]{1,0} all-reduce(%x), channel_id=7, " + WHOLE, "are reduced once: found 1201024"),
    ("%a = bf16[8,96]{1,0} all-to-all(%x), channel_id=7, " + WHOLE, "no all-to-all: found all-to-all of 1536 bytes"),
    ("%a = (u32[8]{0}, u32[8]{0}) ragged-all-to-all(%x), " + WHOLE, "found ragged-all-to-all"),
])
def test_each_broken_promise_is_told(line: str, said: str) -> None:
    assert any(said in told for told in promises.broken(small(), compiled(line)))


@pytest.mark.parametrize("dims", ["1024,8192", "8192,1024", "8,1024,1024"])
def test_a_table_of_logits_is_told_where_the_loss_walks_in_blocks(dims: str) -> None:
    said = f"no table of 1024 x 8192 logits: found f32[{dims.replace(',', ', ')}]"
    line = f"%a = (f32[2]{{0}}, f32[{dims}]{{1,0}}) fusion(%x), kind=kLoop, calls=%f"
    assert any(said in told for told in promises.broken(small(global_batch=8192), compiled(line)))
    # 1,024 texts are one block, which is the table
    assert promises.broken(small(), compiled("%a = f32[128,1024]{1,0} fusion(%x), kind=kLoop, calls=%f")) == []


def test_what_is_missing_or_no_table_is_told_apart_too() -> None:
    without = compiled().text.replace("all-gather", "copy")
    assert "found 0" in promises.broken(small(), compiled(text=without))[0]
    assert "found 1024 elements" in promises.broken(small(), compiled(text=KEPT.replace("%grads = f32[600,1000]{1,0} "
                                                                      "all-reduce", "%grads = f32[1]{0} copy")))[0]
    assert promises.broken(small(), compiled("%a = bf16[128,1024]{1,0} copy(%x)")) == []  # not float32
    assert promises.broken(small(), compiled("%a = f32[128,197,768]{2,1,0} copy(%x)")) == []  # activations
    assert promises.broken(small(), compiled(fits=False, peak=20 * GIB))[0].startswith("fits: the program wants 20.00")


def test_time_is_cycles_and_what_the_model_adds() -> None:
    found = estimate.of_program(small(), SLICE, compiled())
    chip = CHIPS["v5e"]
    ring = (1024 * 768 * 2 + 2 * 1024 * 4 + 2 * 600 * 1000 * 4) * 7 / 8 / (chip.link_rate / 2)
    assert found["est_ms_low"] == pytest.approx(1.0 + 1e3 * ring)  # 1.5 M cycles at 1.5 GHz
    assert found["est_ms_high"] == pytest.approx(1.0 + 2e3 * ring)
    assert [one["axis"] for one in found["collectives"]] == ["data"] * 3


def test_between_slices_each_chip_reduces_its_part_once() -> None:
    """Two slices of four: the network's lines stand beside the slice's, and each keeps its own promise."""
    def told(size: int) -> list[str]:
        line = f'%r = (f32[{size}], u32[], token[]) recv(%g), attributes={{_xla_megascale_transfer_type="ALL_REDUCE"}}'
        text = compiled(line).text.replace("[1,8]<=[8]", "[1,4]<=[4]").replace("step\n", "step, num_partitions=4\n", 1)
        return promises.broken(small(), compiled(text=text, layout=LAYOUT._replace(slice_of=(0,) * 4 + (1,) * 4)))

    assert told(TRAINED // 4) == []
    assert told(TRAINED) == [f"gradients of {TRAINED} parameters are reduced once between slices: found {TRAINED} "
                             f"elements reduced, of {TRAINED // 4} a chip"]
    assert len(told(8)) == 1


def test_the_run_follows_from_the_step() -> None:
    table = prices.Prices("2026-01-01", "here", {"v5e": 2.0})
    found = estimate.run(small(), SLICE, {"est_ms_low": 500.0, "est_ms_high": 1000.0, "flops_model": 197e12}, table)
    assert found["mfu_low"] == pytest.approx(1 / 8) and found["mfu_high"] == pytest.approx(1 / 4)
    assert found["run_hours_low"] == pytest.approx(0.5) and found["run_hours_high"] == pytest.approx(1.0)
    assert found["chip_hours_high"] == pytest.approx(8.0) and found["cost_usd_high"] == pytest.approx(16.0)
    assert found["pairs_per_s_per_chip_low"] == pytest.approx(128.0) and found["images_per_s_per_host"] == 2048.0
    assert found["price_date"] == "2026-01-01"


def test_a_chip_of_two_devices_has_their_peak_together_and_costs_once() -> None:
    table, slice_ = prices.Prices("2026-01-01", "here", {"tpu7x": 2.0}), parse("tpu7x-8")
    found = estimate.run(small(), slice_, {"est_ms_low": 500.0, "est_ms_high": 1000.0, "flops_model": 2307e12}, table)
    assert found["mfu_high"] == pytest.approx(2 * 2307 / (4 * 2307)) and found["chip_hours_high"] == pytest.approx(4.0)
    assert found["pairs_per_s_per_chip_low"] == pytest.approx(256.0) and found["cost_usd_high"] == pytest.approx(8.0)
    asked = estimate.about(small(), "small", slice_)
    assert (asked["chips"], asked["devices"], asked["device_batch"]) == (4, 8, 1024 // 8)


def test_the_kernel_model_gives_what_its_page_says() -> None:
    """128 images, one layer of 12 x 64 at 197 tokens, forward and backward, on a v5e."""
    rows = Shape("bf16", (128, 197, 768))
    passes = [kernels.Kernel("f", (rows,) * 3, (rows,), 1, 2, False),
              kernels.Kernel("b", (rows,) * 4, (rows,) * 3, 1, 5, False)]  # fmt: skip
    spans = [kernels.span(one, CHIPS["v5e"], heads=12) for one in passes]
    products = 128 * 12 * (4 * 2 * 208 * 256 * 128 + 3 * 2 * 64 * 256 * 256) / 197e12
    vector = 128 * 12 * (15 + 26) * 200 * 256 / (4096 * 1.5e9)
    assert sum(one.low for one in spans) == pytest.approx(products + vector)
    assert sum(one.high for one in spans) == pytest.approx(1.5 * (products + vector) + 11 * rows.bytes / 819e9)
    # what the compiler schedules: bundles of a third of a picture, one a cycle
    for one, bundles in zip(spans, (1757, 2965), strict=True):
        assert 0.85 < one.low / (128 * 3 * bundles / 1.5e9) < 1 < one.high / (128 * 3 * bundles / 1.5e9)
    slow = kernels.span(passes[0]._replace(operands=(Shape("f32", rows.dims),) * 3), CHIPS["v5e"], heads=12)
    assert slow.low > 3 * spans[0].low
    assert cost.passes(197, 12, 64, False, side=256)[0] == 12 * 2 * 2 * 208 * 256 * 256  # a v6e's matrix unit
    assert kernels.span(passes[0]._replace(products=0), CHIPS["v5e"], 12).low == 4 * rows.bytes / 819e9


def test_an_exchange_between_slices_pays_for_the_network() -> None:
    one = Collective("all-reduce", "data", (Shape("f32", (10**6,)),), 1, 8, True, False, False, "")
    chip = CHIPS["v5e"]
    found = traffic.time(read(KEPT), [one], chip, 2)
    assert found.inside.low == pytest.approx(8e6 * 3 / 4 / (chip.link_rate / 2))
    assert found.network.low == pytest.approx(8e6 / 4 / 2 / chip.network_rate) == found.network.high / 2
    hidden = traffic.time(read(KEPT), [one._replace(asynchronous=True, crosses_slices=False)], chip, 1)
    assert hidden.whole.low == 0 < hidden.inside.high == hidden.whole.high
    assert traffic.time(read(KEPT), [one._replace(crosses_slices=False)], CHIPS["h100"], 1).network == (0.0, 0.0)


@pytest.mark.parametrize("message, expected", [
    ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (47.11G) exceeds "
     "available HBM (15.75G).", 47.11 + 1),
    ("Ran out of memory in memory space hbm. Used 16.21G of 15.75G hbm. Exceeded hbm capacity by 472.00M.\n"
     "Total hbm usage >= 16.97G:\n    reserved 258.00M", 16.97),
    ("Used 17.50G of 15.75G hbm. Exceeded hbm capacity by 1.75G.", 17.5),
    ("out of memory while trying to allocate 21474836480 bytes", 20.0),
    ("no number at all", None),
])
def test_the_compilers_message_says_how_much_was_wanted(message: str, expected: float | None) -> None:
    found = compiling.wanted(message, arguments=GIB)
    assert found is None if expected is None else found == pytest.approx(expected * GIB, rel=1e-6)


class Pretended(Compiler):
    """A compiler whose programs need what a formula says; counts what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def step(self, config: ConfigDict, slice_: Slice) -> Compiled:
        """30 GiB of temporaries for 128 rows a chip without remat, a third with the save list, a tenth with full."""
        self.asked.append(f"{config.vision.remat} {config.micro_batches} {slice_.topology}")
        share = {"none": 1.0, "save": 1 / 3, "full": 0.1}[config.vision.remat] / config.micro_batches
        arguments = GIB // (8 if config.mesh.fsdp == -1 else 2 if config.optim.zero1 else 1)
        temporaries = round(30 * GIB * share * 8 / slice_.chips)
        peak, limit = arguments + temporaries, slice_.chip.hbm_gib * GIB
        return compiled(fits=peak <= limit, peak=peak, arguments=arguments, temporaries=temporaries)


def test_single_changes_that_fit_are_found_by_trying_cheapest_first() -> None:
    compiler, config = Pretended(), small(vision__remat="none")
    found = fitting.find(compiler, config, SLICE, compiler.step(config, SLICE))
    assert [one["change"] for one in found] == [
        "--config.vision.remat=save", "--config.vision.remat=full", "--config.micro_batches=4"]
    assert [one["hbm_peak_gib"] for one in found] == [11.0, 4.0, 8.5]
    assert len(compiler.asked) <= 1 + fitting.MOST and "none 1 v5e:2x4" not in compiler.asked[1:]


def test_a_larger_slice_is_offered_and_nothing_that_the_batch_does_not_divide_into() -> None:
    compiler, config = Pretended(), small(vision__remat="full", global_batch=8 * 3)
    wanting = compiled(fits=False, peak=17 * GIB, arguments=GIB, temporaries=16 * GIB)
    offered = [one.change for one in fitting.tries(config, SLICE, wanting)]
    assert offered == ["--config.optim.zero1=True", "--config.mesh.data=1 --config.mesh.fsdp=-1"]
    config = small(vision__remat="full", global_batch=16 * 3)
    assert [one.change for one in fitting.tries(config, SLICE, wanting)][2:] == [
        "--config.micro_batches=2", "--topology=v5e:4x4"]
    assert compiler.asked == []


def plans(config: ConfigDict, slice_: Slice) -> tuple[dict[str, Any], Compiled]:
    """The keys of the pretended compiler's plans."""
    return command.figures(Pretended(), config, "small", slice_, prices.load())


def test_what_the_cpu_stands_in_for_is_bounded_and_no_remat_is_tried() -> None:
    """A GPU that is not here: what a CPU's program wants is said as at most, and the time is told all the same."""
    class Elsewhere(Pretended):
        def step(self, config: ConfigDict, slice_: Slice) -> Compiled:
            peak = 93 * GIB // config.micro_batches
            return super().step(config, slice_)._replace(
                platform="cpu", fits=peak <= 75 * GIB, peak=peak, arguments=GIB, temporaries=peak - GIB)

    compiler = Elsewhere()
    found = command.plan(compiler, small(vision__remat="none"), "small", chips.parse("h100"), prices.load(), plain=True)
    text = "\n".join(page.show(found))
    assert "MAY NOT FIT    it wants 93.00 GiB at most, a chip has 75 GiB" in text and "MFU" in text
    assert [one["change"] for one in found["would_fit"]] == ["--config.micro_batches=2"] and found["memory_is_bound"]
    assert set(compiler.asked) == {"none 1 h100:1", "none 2 h100:1"}
    fits = command.plan(compiler, small(micro_batches=2), "small", chips.parse("h100"), prices.load(), plain=True)
    assert "FITS           at most 46.50 of 75 GiB" in "\n".join(page.show(fits))


def test_a_sweep_cuts_the_batch_until_each_policy_fits(tmp_path: Path) -> None:
    rows = sweep.find(plans, small(), [SLICE, chips.parse("v6e:2x4")])
    seen = [(one["topology"], one["remat"], one["micro_batches"], one["fits"]) for one in rows]
    assert seen == [("v5e:2x4", "none", 1, False), ("v5e:2x4", "none", 2, False), ("v5e:2x4", "none", 4, True),
                    ("v5e:2x4", "save", 1, True), ("v5e:2x4", "full", 1, True), ("v6e:2x4", "none", 1, True),
                    ("v6e:2x4", "save", 1, True), ("v6e:2x4", "full", 1, True)]
    lines = sweep.show(rows)
    assert len(lines) == 2 + len(rows) and "does not fit" in lines[2]
    drawing = ElementTree.fromstring(picture.draw(rows, "small & <fine>"))
    circles = drawing.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(rows) and sum(one.get("fill") == "#ffffff" for one in circles) == 2
    assert all(math.isfinite(float(one.get("cx"))) and 0 <= float(one.get("cx")) <= picture.WIDTH for one in circles)


def test_the_page_says_everything_that_json_holds_in_figures() -> None:
    found, _ = plans(small(vision__remat="full"), SLICE)
    found["est_cycles_plain"] = 3_000_000
    text = "\n".join(page.show(found))
    for said in ("FITS", "4.00 of 15.75 GiB", "all-gather", "bf16 1024x768", "FLOPs a step", "MFU", "chip-hours",
                 f"table of {found['price_date']}", "a second to decode", "factor of 1.5", "2.00 times this one's"):
        assert said in text, said
    assert max(map(len, text.splitlines())) <= 120


def test_a_plan_that_does_not_fit_says_what_would() -> None:
    compiler = Pretended()
    found = command.plan(compiler, small(vision__remat="none"), "small", SLICE, prices.load(), plain=False)
    text = "\n".join(page.show(found))
    assert not found["fits"] and "it wants 31.00 GiB, a chip has 15.75 GiB" in text
    assert "--config.vision.remat=save   (11.00 GiB)" in text
    json.dumps(found)


KEYS = """topology chips fits hbm_limit_gib hbm_peak_gib hbm_arguments_gib hbm_temporaries_gib collectives flops_model
flops_xla est_cycles est_ms_low est_ms_high mfu_low mfu_high est_cycles_plain pairs_per_s_per_chip_low
pairs_per_s_per_chip_high run_hours_low run_hours_high chip_hours_low chip_hours_high cost_usd_low cost_usd_high
price_date images_per_s_per_host compile_s libtpu jax would_fit"""


@pytest.mark.parametrize("remat", ["full", "none"], ids=["fits", "does-not-fit"])
def test_the_keys_that_scripts_rely_on_are_always_there(remat: str) -> None:
    found = command.plan(Pretended(), small(vision__remat=remat), "small", SLICE, prices.load(), plain=True)
    assert set(KEYS.split()) <= set(found)
    assert all({"kind", "axis", "bytes", "dtype", "shape"} <= set(one) for one in found["collectives"])
    assert all({"change", "hbm_peak_gib"} == set(one) for one in found["would_fit"])


def test_the_shipped_prices_are_of_our_chips_and_dated() -> None:
    table = prices.load()
    assert set(table.usd) <= set(CHIPS) and len(table.date.split("-")) == 3 and "https://" in table.source


@pytest.mark.parametrize("text, said", [
    ("{", "JSONDecodeError"), ("[]", "TypeError"), ('{"date": "2026-01-01"}', "KeyError"),
    ('{"date": "d", "region": "r", "source": "s", "prices": {"v5x": 1}}', "v5x: 1.0"),
    ('{"date": "d", "region": "r", "source": "s", "prices": {"v5e": -1}}', "v5e: -1.0"),
])
def test_a_price_table_that_is_none_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "prices.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match="--prices") as error:
        prices.load(str(file))
    assert said in str(error.value)
    with pytest.raises(ConfigError, match="No such file"):
        prices.load(str(tmp_path / "absent.json"))


def test_roofline_takes_each_instruction_by_itself() -> None:
    program = read("""HloModule step

%f (a: f32[64,32]) -> f32[64,16] {
  %a = f32[64,32]{1,0} parameter(0)
  %b = f32[32,16]{1,0} parameter(1)
  ROOT %d = f32[64,16]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: f32[64,32]) -> f32[64,16] {
  %x = f32[64,32]{1,0} parameter(0)
  %y = f32[32,16]{1,0} parameter(1)
  %q = bf16[4,8,100,32]{3,2,1,0} parameter(2)
  %fused = f32[64,16]{1,0} fusion(%x, %y), kind=kOutput, calls=%f
  %scores = bf16[4,8,100,100]{3,2,1,0} dot(%q, %q), lhs_batch_dims={0,1}, lhs_contracting_dims={3}
  %gemm = (f32[64,16]{1,0}, s8[8]{0}) custom-call(%x, %y), custom_call_target="__cublas$gemm", \
backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"lhs_batch_dimensions":[]}}
  ROOT %attention = bf16[4,8,100,32]{3,2,1,0} custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax"
}
""")
    known = {line.name: line.shapes for line in program.computations["main"]}
    counted = {line.name: roofline.flops(program, line, known) for line in program.computations["main"]}
    one = 2 * 64 * 32 * 16
    assert counted["fused"] == counted["gemm"] == pytest.approx(one)
    assert counted["scores"] == pytest.approx(2 * 4 * 8 * 100 * 100 * 32)
    assert counted["attention"] == pytest.approx(2 * counted["scores"])
    found, chip = roofline.time(program, CHIPS["h100"], "gpu"), CHIPS["h100"]
    moved = 2 * (64 * 32 + 32 * 16 + 64 * 16) * 4 + 8 + (2 * 4 * 8 * 100 * 32 + 4 * 8 * 100 * 100) * 2 + (
        4 * 4 * 8 * 100 * 32 * 2)
    total = sum(counted.values()) / chip.peak + moved / chip.hbm_rate
    assert found.high == pytest.approx(total) and found.low < found.high
    elsewhere = roofline.time(program, chip, "cpu")  # whose traffic says nothing of a GPU's
    assert elsewhere.high == found.high and elsewhere.low == pytest.approx(sum(counted.values()) / chip.peak)


def test_numbers_that_look_alike_are_said_once() -> None:
    assert page.spread(1.0, 1.2) == "1" and page.spread(1.0, 2.0) == "1 - 2" and page.spread(None, 1.0) == "-"
    assert [page.amount(10**n) for n in (0, 4, 8)] == ["1 B", "10 kB", "100 MB"]
    assert page.table([("a", "b"), ("ccc", "dd")], right=(1,)) == ["a     b", "---  --", "ccc  dd"]
