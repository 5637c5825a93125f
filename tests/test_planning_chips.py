"""Names of slices as people write them."""

import pytest

from lit_tune.errors import ConfigError
from lit_tune.planning import chips


@pytest.mark.parametrize("name, topology, count, hosts", [
    ("v5e:16x16", "v5e:16x16", 256, 64), ("v5litepod-256", "v5e:16x16", 256, 64), ("v5e-256", "v5e:16x16", 256, 64),
    ("v5e-8", "v5e:2x4", 8, 1), ("v6e-256", "v6e:16x16", 256, 64), ("V6E:2x4", "v6e:2x4", 8, 1),
    ("v6e-32", "v6e:4x8", 32, 8), ("v5p:4x4x4", "v5p:4x4x4", 64, 16), ("v5p-128", "v5p:4x4x4", 64, 16),
    ("v5p-8", "v5p:2x2x1", 4, 1), ("v4-16", "v4:2x2x2", 8, 2), ("v4:2x2x2", "v4:2x2x2", 8, 2),
    ("tpu7x-16", "tpu7x:2x2x2", 8, 2), ("TPU7x:4x4x4", "tpu7x:4x4x4", 64, 16), ("tpu7x-8", "tpu7x:2x2x1", 4, 1),
])
def test_a_tpu_name_is_a_grid_of_chips(name: str, topology: str, count: int, hosts: int) -> None:
    found = chips.parse(name)
    assert (found.topology, found.chips, found.hosts) == (topology, count, hosts)


@pytest.mark.parametrize("name, count", [("h100", 1), ("h200x8", 8), ("H100-8", 8), ("a100", 1)])
def test_a_gpu_name_is_a_number_of_cards(name: str, count: int) -> None:
    found = chips.parse(name)
    assert found.chip.maker == "nvidia" and found.chips == count and found.hosts == 1


def test_a_chip_is_one_device_of_jax_but_for_two() -> None:
    assert {name for name, chip in chips.CHIPS.items() if chip.devices != 1} == {"tpu7x"}
    assert chips.parse("tpu7x:4x4x4", slices=2).devices == 256 and chips.parse("v5p-128").devices == 64


def test_slices_multiply_chips_and_hosts() -> None:
    found = chips.parse("v5e:4x4", slices=2)
    assert (found.chips, found.hosts, found.topology) == (32, 8, "v5e:4x4")


@pytest.mark.parametrize("name, said", [
    ("v7e-8", "did you mean v6e-8?"), ("h1000", "did you mean h100?"), ("nonsense!", "there are v4, v5e, v5p, v6e"),
    ("v5e", "for example v5e:2x4"), ("v5e:16", "for example v5e:4x4"), ("v5p:4x4", "for example v5p:2x2x4"),
    ("v5e-100", "use v5e-64"), ("v5p-7", "use v5p-8"), ("v5e:32x32", "at most 256 chips"), ("v5e:0x4", "unknown"),
    ("h100:2x2", "for example h100x8"),
])
def test_a_name_that_is_none_is_told_in_one_line_with_what_would_do(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        chips.parse(name)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_next_slice_is_twice_as_large_until_there_is_none() -> None:
    assert [chips.larger(chips.parse(name)) and chips.larger(chips.parse(name)).topology
            for name in ("v5e:4x4", "v6e:2x4", "v5p:4x4x4", "v5e:16x16")] == ["v5e:4x8", "v6e:4x4", "v5p:4x4x8", None]


def test_peak_is_clock_times_matrix_units_where_the_compiler_counts_cycles() -> None:
    units = {"v4": 8, "v5e": 4, "v5p": 8, "v6e": 4, "tpu7x": 4}  # of one device
    for name, count in units.items():
        chip = chips.CHIPS[name]
        assert chip.clock * count * chip.mxu**2 * 2 == pytest.approx(chip.peak, rel=0.01)
