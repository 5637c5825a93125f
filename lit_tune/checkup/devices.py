"""Whether jax uses the accelerator that is there, and if not, why."""

from lit_tune.checkup.finding import Finding, problem, warning
from lit_tune.checkup.packages import installed
from lit_tune.checkup.probe import SECONDS, Seen
from lit_tune.checkup.system import LOCKFILE, System

PLATFORM_VARIABLES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")


def check(system: System, seen: Seen, present: dict[str, str]) -> list[Finding]:
    """What stands between jax and the devices.

    Args:
        system: the machine.
        seen: what a process with jax has found.
        present: {"tpu" or "gpu": what shows that it is there}.
    """
    if not seen.imported:
        return [_imports(seen)]
    if seen.late:
        return [_late(system, seen, present)]
    if not seen.devices:
        return [_none(system, seen)]
    found = [_unused(system, seen, kind, evidence) for kind, evidence in present.items()
             if kind not in seen.platforms and "tpu" not in seen.platforms]
    if system.gpu_without_driver():
        found.append(warning("devices", "NVIDIA card", expected="a driver (/proc/driver/nvidia)", found="none",
                             do="install NVIDIA's driver; in a container, start it with --gpus all"))
    return found


def _imports(seen: Seen) -> Finding:
    """Training cannot even be imported."""
    if seen.late:
        return problem("imports", "import lit_tune.train", expected="an answer within two minutes", found="none",
                       do="the disk with Python's packages may be slow or gone; try again")
    name = seen.words.partition("No module named ")[2].strip("'\"").partition(".")[0]
    do = f"type: pip install {name}" if name else "type: pip install --force-reinstall of the package it names"
    return problem("imports", "import lit_tune.train", expected="no error", found=seen.words or "an early end", do=do)


def _late(system: System, seen: Seen, present: dict[str, str]) -> Finding:
    """jax waits: for a TPU that another process has, or for the other hosts of a slice; or it hangs in a driver."""
    if seen.left:
        return problem("devices", "jax.devices()", expected=f"an answer within {SECONDS:.0f} s",
                       found=f"process {seen.left}, which asked, hangs in a driver and cannot be ended",
                       do="restart the machine")
    holders = system.tpu_holders()
    if holders or system.tpu_lock() == "held":
        return _in_use(holders, "no answer")
    do = ("on a slice of several hosts type it on all of them at once (each waits for the others); else restart the "
          "machine") if "tpu" in present else "look at the driver: nvidia-smi has to answer"
    return problem("devices", "jax.devices()", expected=f"an answer within {SECONDS:.0f} s", found="none", do=do)


def _none(system: System, seen: Seen) -> Finding:
    """jax ended with an error of its own."""
    holders = system.tpu_holders()
    if "already in use" in seen.words or (holders and "tpu" in seen.words.lower()):
        return _in_use(holders, seen.words)
    for name in PLATFORM_VARIABLES:
        if system.environ.get(name):
            return problem("devices", name, expected="a platform that is here", found=f"{system.environ[name]!r} "
                           f"({seen.words})", do=f"type: unset {name}")
    return problem("devices", "jax.devices()", expected="devices", found=seen.words or "an early end",
                   do="JAX_PLATFORMS=cpu shows whether the rest works")


def _in_use(holders: list[int], found: str) -> Finding:
    """Another process has the TPU: only one can."""
    who = f"process {', '.join(map(str, holders))} has it" if holders else "a process of another user has it"
    do = f"end it (kill {holders[0]})" if holders else "find it: sudo lsof -w /dev/accel* /dev/vfio/*"
    return problem("devices", "TPU", expected="one that no process uses", found=f"{who} ({found})", do=do)


def _unused(system: System, seen: Seen, kind: str, evidence: str) -> Finding:
    """An accelerator is there, and jax found the CPU only: the first reason that holds."""
    for name in PLATFORM_VARIABLES:
        value = system.environ.get(name, "")
        if value and not any(word in value for word in ((kind,) if kind == "tpu" else ("gpu", "cuda"))):
            return problem("devices", name, expected=f"nothing, or {kind}: there is {evidence}", found=repr(value),
                           do=f"type: unset {name}")
    return _no_tpu(system, seen, evidence) if kind == "tpu" else _no_gpu(system, seen, evidence)


def _no_tpu(system: System, seen: Seen, evidence: str) -> Finding:
    """Why jax does not use the TPU."""
    if not installed("libtpu"):
        return problem("devices", "TPU", expected="libtpu, which drives it", found=f"{evidence} and no such package",
                       do="type: pip install 'lit_tune[tpu]'")
    lock, holders = system.tpu_lock(), system.tpu_holders()
    if lock == "forbidden":
        return problem("devices", f"/{LOCKFILE}", expected="a file that this user may write", found="another user's",
                       do=f"once nobody uses the TPU: sudo rm /{LOCKFILE}")
    if lock == "held" or holders:
        return _in_use(holders, f"/{LOCKFILE} is {lock}")
    if "no chip" in evidence:
        return problem("devices", "TPU", expected="chips in /dev", found=evidence,
                       do="in a container: docker run --privileged --net=host")
    return problem("devices", "TPU", expected=f"jax to use it: there is {evidence}", found=seen.words or "the CPU only",
                   do="type: TPU_STDERR_LOG_LEVEL=0 TPU_MIN_LOG_LEVEL=0 python -c 'import jax; jax.devices()'")


def _no_gpu(system: System, seen: Seen, evidence: str) -> Finding:
    """Why jax does not use the GPU."""
    if not installed("jax-cuda13-plugin") and not installed("jax-cuda12-plugin"):
        return problem("devices", "GPU", expected="jax's CUDA plugin", found=f"{evidence} and no such package",
                       do="type: pip install 'lit_tune[cuda]' (jax[cuda12] for a driver older than CUDA 13)")
    hidden = system.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden in ("", "-1", "NoDevFiles"):
        return problem("devices", "CUDA_VISIBLE_DEVICES", expected="a number, or unset", found=repr(hidden),
                       do="type: unset CUDA_VISIBLE_DEVICES")
    return problem("devices", "GPU", expected=f"jax to use it: there is {evidence}", found=seen.words or "the CPU only",
                   do="compare the CUDA version that nvidia-smi shows with the plugin's: jax-cuda12-plugin or "
                   "jax-cuda13-plugin")
