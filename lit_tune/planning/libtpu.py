"""libtpu, the TPU's compiler, on a machine without a TPU: what is set before jax is imported, and its devices."""

import importlib.metadata
import importlib.util
import os
from typing import Any

from lit_tune.errors import ConfigError, explain
from lit_tune.planning.chips import Slice

# A user types nothing of this. The last two keep libtpu from looking for the machine it believes to be on.
SETTINGS = {
    "JAX_PLATFORMS": "cpu",  # our own arrays; the program is compiled for devices that are only described
    "TPU_SKIP_MDS_QUERY": "1",  # no metadata server to ask
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is opened: several plans may run at a time
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def prepare() -> None:
    """Nothing comes back: the variables above are set where the user has not; call it before jax is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def require() -> str:
    """The version of libtpu that is installed.

    Raises:
        ConfigError: none is.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(explain(
            "plan", expected="libtpu, the TPU's compiler", found="no such package",
            do="type: pip install 'lit_tune[tpu]' (jax[tpu] pins the libtpu that fits the installed jax; "
            "no TPU is needed)"))
    return version()


def version() -> str:
    """The installed libtpu's version, "" if there is none."""
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return ""


def devices(slice_: Slice) -> list[Any]:
    """The described devices of a slice, in libtpu's order.

    Raises:
        ConfigError: libtpu does not know the slice; its own words are in the message.
    """
    require()
    prepare()
    from jax.experimental import topologies  # only here: the variables come first

    options: dict[str, Any] = {"chip_config_name": slice_.chip.config} if slice_.chip.config else {}
    if slice_.slices > 1:
        options["num_slices"] = slice_.slices
    if slice_.chips // slice_.slices == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=slice_.topology, **options).devices)
    except Exception as error:  # libtpu raises what it likes
        raise ConfigError(explain(f"--topology {slice_.name}", expected="a slice that libtpu knows",
                                  found=str(error).splitlines()[0], do="take another grid")) from error
