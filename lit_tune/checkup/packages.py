"""Python and packages: what is installed, what is missing or does not fit, by what the packages say of themselves."""

import importlib.metadata
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import lit_tune
from lit_tune.checkup.finding import Finding, problem, warning

NAME = "lit_tune"
# Not asked for by every installation, but worth a line where they are there.
OPTIONAL = ("libtpu", "jax-cuda13-plugin", "jax-cuda12-plugin", "gcsfs", "s3fs", "aiohttp", "torch", "timm",
            "open_clip_torch", "onnxruntime")
# Extras of jax that bring a device's own packages: of these, what is installed has to be what this jax pins.
DEVICE_EXTRAS = {"tpu": "tpu", "cuda13": "cuda", "cuda12": "cuda"}
FIRST_SHOWN = ("jax", "jaxlib", "libtpu")
DAY = 86_400.0


def versions() -> dict[str, str]:
    """Version by name: Python, lit_tune, what it asks for, and what is worth a line beside that."""
    names = dict.fromkeys((*FIRST_SHOWN, *(one.name for one in _asked_for()), *OPTIONAL))
    found = {name: version for name in names if (version := installed(name))}
    return {"python": platform.python_version(), NAME: lit_tune.__version__, **found}


def installed(name: str) -> str:
    """The version of an installed package, "" if there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def check_python(version: str = platform.python_version()) -> list[Finding]:
    """Python is one that this version of lit_tune is made for."""
    if not installed(NAME):
        return [warning("python", NAME, expected="an installed package", found="a folder",
                        do="type: pip install -e . in the clone, which also brings what it needs")]
    wanted = importlib.metadata.metadata(NAME)["Requires-Python"]
    if SpecifierSet(wanted).contains(version):
        return []
    return [problem("python", "Python", expected=wanted, found=version, do="make the environment with another Python")]


def check_required() -> list[Finding]:
    """Everything that lit_tune asks for is there, in a version that it takes."""
    found = []
    for one in {str(one): one for one in _asked_for()}.values():
        version = installed(one.name)
        if not version:
            found.append(problem("packages", one.name, expected="an installed package", found="none",
                                 do=f"type: pip install '{one.name}{one.specifier}'"))
        elif not one.specifier.contains(version, prereleases=True):
            found.append(problem("packages", one.name, expected=one.specifier, found=version,
                                 do=f"type: pip install '{one.name}{one.specifier}'"))
    return found


def check_pinned(present: set[str]) -> list[Finding]:
    """libtpu and the CUDA plugins are those that the installed jax pins, and jaxlib is.

    Args:
        present: accelerators of this machine, "tpu" and "gpu" among them: there another version is in the way.
    """
    found = []
    for extra, one in _pins():
        version = installed(one.name)
        if not version or one.specifier.contains(version, prereleases=True):
            continue
        ours = DEVICE_EXTRAS.get(extra, "")
        do = f"type: pip install '{NAME}[{ours}]' (never {one.name} alone)" if ours else "type: pip install -U jax"
        blocks = extra == "" or {"tpu": "tpu", "cuda": "gpu"}[ours] in present
        say = problem if blocks else warning
        found.append(say("packages", one.name, expected=f"{one.specifier}, as jax {installed('jax')} pins",
                         found=version, do=do))
    return found


def check_copies(folder: Path | None = None) -> list[Finding]:
    """There is one lit_tune: `python -m lit_tune.train` in another clone would run that one's code.

    Args:
        folder: where commands are typed; the current one if None.
    """
    own = Path(lit_tune.__file__).resolve().parent
    places = [Path(place) / NAME for place in (str(folder or Path.cwd()), *sys.path)]
    others = sorted({str(place.resolve()) for place in places if (place / "__init__.py").is_file()} - {str(own)})
    if not others:
        return []
    return [warning("copies", NAME, expected=f"one copy, {own}", found=f"{', '.join(others)} too",
                    do="uninstall one, or type the commands in another folder")]


def check_clock(now: float | None = None) -> list[Finding]:
    """The clock is not behind the files of this program: signatures and certificates would be refused.

    Args:
        now: seconds since 1970; this machine's if None.
    """
    now = time.time() if now is None else now
    newest = max(path.stat().st_mtime for path in Path(lit_tune.__file__).parent.glob("*.py"))
    if now > newest - DAY:
        return []
    told = [time.strftime("%Y-%m-%d", time.gmtime(moment)) for moment in (newest, now)]
    return [warning("clock", "clock", expected=f"{told[0]} or later, when lit_tune was installed", found=told[1],
                    do="set it (timedatectl set-ntp true): https and the cloud refuse a wrong time")]


def _asked_for() -> Iterator[Requirement]:
    """What lit_tune asks for on this system, extras apart."""
    for line in importlib.metadata.requires(NAME) or () if installed(NAME) else ():
        one = Requirement(line)
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            yield one


def _pins() -> Iterator[tuple[str, Requirement]]:
    """(extra, requirement) of jax: jaxlib without an extra, and the packages of each kind of device."""
    for line in importlib.metadata.requires("jax") or () if installed("jax") else ():
        one = Requirement(line)
        if one.name == "jaxlib" and one.marker is None:
            yield "", one
        for extra in DEVICE_EXTRAS:
            device = one.name == "libtpu" or one.name.startswith("jax-cuda")
            if device and one.marker is not None and one.marker.evaluate({"extra": extra}):
                yield extra, one
