"""The machine below Python, read from files: accelerators, memory, who holds the TPU. No jax, nothing that can hang."""

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# PCI numbers as jax looks for them (jax/_src/hardware_utils.py): other devices of Google's are network cards and disks.
GOOGLE, NVIDIA = "0x1ae0", "0x10de"
TPU_DEVICES = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
DISPLAY = "0x03"  # class of graphics and 3-D controllers
METADATA = "169.254.169.254"  # Google Cloud's metadata server, by number: a name look-up knows no timeout
METADATA_S = 1.0
SMI_S = 10.0
LOCKFILE = "tmp/libtpu_lockfile"  # held (lockf) by the process that uses the TPU


@dataclass(frozen=True)
class System:
    """What is attached to this machine, and what memory it has.

    Attributes:
        root: of the file system.
        environ: variables, PATH and GCE_METADATA_HOST among them.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def tpu(self) -> str:
        """What shows that there is a TPU, in words; "" if nothing does."""
        chips = sum(vendor == GOOGLE and device in TPU_DEVICES for vendor, device, _ in self._pci())
        nodes = sorted(path.name for path in (self.root / "dev").glob("accel[0-9]*"))
        if chips or nodes:
            return f"{chips or len(nodes)} chips ({'PCI' if chips else '/dev/' + nodes[0] + '...'})"
        kind = self.environ.get("TPU_ACCELERATOR_TYPE", "") or self._metadata("accelerator-type")
        groups = any((self.root / "dev/vfio").glob("[0-9]*"))
        return f"a TPU VM of type {kind}, {'/dev/vfio' if groups else 'no chip in /dev'}" if kind else ""

    def gpu(self) -> str:
        """What shows that there is an NVIDIA GPU with a driver, in words; "" if nothing does."""
        listed = self._smi()
        cards = listed or sorted(path.name for path in (self.root / "dev").glob("nvidia[0-9]*"))
        if cards:
            return f"{len(cards)} GPUs ({'nvidia-smi' if listed else '/dev/' + cards[0] + '...'})"
        return "a GPU (/dev/dxg)" if (self.root / "dev/dxg").exists() else ""  # WSL

    def gpu_without_driver(self) -> bool:
        """Whether there is an NVIDIA card and no driver of it."""
        card = any(vendor == NVIDIA and kind.startswith(DISPLAY) for vendor, _, kind in self._pci())
        return card and not (self.root / "proc/driver/nvidia/version").exists() and not self.gpu()

    def tpu_holders(self) -> list[int]:
        """Processes that have a chip open, as far as this user may see them."""
        found = set()
        for descriptor in (self.root / "proc").glob("[0-9]*/fd/*"):
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue  # closed meanwhile, or another user's
            if target.startswith(("/dev/accel", "/dev/vfio/")):
                found.add(int(descriptor.parts[-3]))
        return sorted(found - {os.getpid()})

    def tpu_lock(self) -> str:
        """absent | free | held | forbidden: the file by which libtpu keeps a second process away."""
        import fcntl  # not on Windows, where there is no TPU either

        path = self.root / LOCKFILE
        if not path.exists():
            return "absent"
        try:
            with path.open("r+") as file:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    return "held"
                return "free"  # closing gives it back
        except PermissionError:
            return "forbidden"

    def memory_available(self) -> int:
        """Bytes that a new process can have: what is free, or less where a control group allows less."""
        lines = self._text("proc/meminfo").splitlines()
        fields = {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}
        free = int(fields["MemAvailable"][0]) << 10 if "MemAvailable" in fields else 0
        limits = [self._limit("memory.max", "memory.current", "memory.stat", "inactive_file"),
                  self._limit("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
                              "total_inactive_file")]  # fmt: skip
        return min([limit for limit in limits if limit is not None] + ([free] if free else []), default=0)

    def shared_memory(self) -> int | None:
        """Bytes free in /dev/shm, where worker processes put their batches; None on systems without it."""
        folder = self.root / "dev/shm"
        return shutil.disk_usage(folder).free if folder.is_dir() else None

    def _limit(self, most: str, used: str, parts: str, cached: str) -> int | None:
        """What a control group leaves, None where there is no limit. Pages of files read long ago are given up."""
        ceiling, now = (self._text(f"sys/fs/cgroup/{name}").strip() for name in (most, used))
        if not (ceiling.isdecimal() and now.isdecimal()):
            return None
        lines = [line.split() for line in self._text(f"sys/fs/cgroup/{parts}").splitlines()]
        given_up = sum(int(line[1]) for line in lines if line[:1] == [cached])
        return max(0, int(ceiling) - int(now) + given_up)

    def _pci(self) -> Iterator[tuple[str, str, str]]:
        """(vendor, device, class) of what is on the bus."""
        for folder in sorted((self.root / "sys/bus/pci/devices").glob("*")):
            names = (folder / name for name in ("vendor", "device", "class"))
            yield tuple(self._text(str(name.relative_to(self.root))).strip() for name in names)

    def _metadata(self, name: str) -> str:
        """An attribute of this virtual machine; asked for only on a machine of Google's."""
        if "Google" not in self._text("sys/class/dmi/id/product_name"):
            return ""
        host = self.environ.get("GCE_METADATA_HOST", METADATA)
        url = f"http://{host}/computeMetadata/v1/instance/attributes/{name}"
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        try:
            with urllib.request.urlopen(request, timeout=METADATA_S) as answer:
                return answer.read(200).decode("utf-8", "replace").strip()
        except (urllib.error.URLError, OSError):
            return ""  # a machine without that attribute, or without the server

    def _smi(self) -> list[str]:
        """The cards that nvidia-smi lists; none where it is absent, fails or does not answer."""
        program = shutil.which("nvidia-smi", path=self.environ.get("PATH", ""))
        if program is None:
            return []
        try:
            done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=SMI_S)
        except (OSError, subprocess.TimeoutExpired):
            return []
        return [line for line in done.stdout.splitlines() if line.startswith("GPU ")] if done.returncode == 0 else []

    def _text(self, path: str) -> str:
        """A small file's text, "" if it is not there."""
        try:
            return (self.root / path).read_text(errors="replace")
        except OSError:
            return ""
