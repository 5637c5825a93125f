"""What XLA runs under in the tests: so many CPU devices, and programs that are quick to compile.

Imported by conftest.py before jax, and by tests that start processes of their own.
"""

import os
import re
from importlib import metadata

COUNT = "--xla_force_host_platform_device_count"
# The tests are mostly compiles of small programs. Without LLVM's optimisations these take half the time; without the
# newer emitters of fusions as well, a seventh (jax 0.12 has those emitters only, and no such flag).
QUICK = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if metadata.version("jaxlib").startswith("0.10."):
    QUICK.append("--xla_cpu_use_fusion_emitters=false")


def flags(devices: int) -> str:
    """XLA_FLAGS of a process with so many CPU devices: otherwise those of this process, if it has any, else QUICK."""
    own = os.environ.get("XLA_FLAGS") or " ".join(QUICK)
    return f"{re.sub(rf'{COUNT}=[0-9]+', '', own)} {COUNT}={devices}".strip()
