"""launch/constraints.txt: the versions that setup.py allows, of everything that machines of a run get."""

import ast
import importlib.metadata
import re
from pathlib import Path

import pytest
from fake_cloud import LAUNCH
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = LAUNCH.parent
EXTRAS = ("tpu", "gcs")  # what Dockerfile asks for; tpu_vm.py and cpu_vm.py ask for one of them
MACHINE = {"python_version": "3.12", "python_full_version": "3.12.12", "sys_platform": "linux", "os_name": "posix",
           "platform_machine": "x86_64", "platform_system": "Linux", "implementation_name": "cpython",
           "platform_python_implementation": "CPython"}


def pinned(text: str) -> dict[str, Version]:
    """{package: version} of a file of constraints."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[^\s=]+", line) for line in lines), lines
    found = {name: Version(version) for name, version in (line.split("==") for line in lines)}
    assert len(found) == len(lines)
    return found


PINNED = pinned((LAUNCH / "constraints.txt").read_text())


def asked(setup: Path = ROOT / "setup.py") -> list[str]:
    """The requirements of lit_tune[tpu,gcs]."""
    values = {ast.unparse(node.targets[0]): node.value for node in ast.parse(setup.read_text()).body
              if isinstance(node, ast.Assign)}
    keys, lists = values["EXTRAS"].keys, values["EXTRAS"].values
    extras = {ast.literal_eval(key): value for key, value in zip(keys, lists, strict=True)}
    return ast.literal_eval(values["REQUIRES"]) + [line for one in EXTRAS for line in ast.literal_eval(extras[one])]


def wrong(lines: list[str], extras: set[str], pins: dict[str, Version]) -> list[str]:
    """The requirements, as they hold on a machine of a run, that the pins leave out or do not satisfy."""
    found = []
    for one in map(Requirement, lines):
        holds = one.marker is None or any(one.marker.evaluate(MACHINE | {"extra": extra}) for extra in extras | {""})
        version = pins.get(canonicalize_name(one.name))
        if holds and (version is None or not one.specifier.contains(version, prereleases=True)):
            found.append(f"{one}: pinned to {version}")
    return found


def test_it_names_every_requirement_with_a_version_that_setup_py_allows() -> None:
    lines = asked()
    assert len(lines) > 25 and any(line.startswith("jax[tpu]") for line in lines)
    assert wrong(lines, set(), PINNED) == []


def test_what_the_requirements_ask_for_is_named_too() -> None:
    """As far as it can be told here: of packages that are installed in the version that is pinned (.ci/run: of all)."""
    extras: dict[str, set[str]] = {}
    for line in [*asked(), *(line for name in PINNED for line in requirements(name))]:
        one = Requirement(line)
        if one.marker is None or one.marker.evaluate(MACHINE | {"extra": ""}):
            extras.setdefault(canonicalize_name(one.name), set()).update(one.extras)
    told = {name: requirements(name) for name in PINNED}
    assert any(told.values())
    assert [line for name, lines in told.items() for line in wrong(lines, extras.get(name, set()), PINNED)] == []


def requirements(name: str) -> list[str]:
    """What a package asks for, if it is installed in the version that is pinned; else nothing."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return []
    return found.requires or [] if Version(found.version) == PINNED[name] else []


@pytest.mark.parametrize("change, says", [
    ({"jax": "0.10.1"}, "jax>=0.10.2: pinned to 0.10.1"), ({"optax": None}, "optax>=0.2.8: pinned to None"),
    ({"gcsfs": None, "etils": None}, "etils[epath-gcs]: pinned to None")])
def test_a_wrong_pin_would_be_found(change: dict[str, str | None], says: str) -> None:
    pins = {name: version for name, version in PINNED.items() if name not in change}
    pins |= {name: Version(version) for name, version in change.items() if version}
    assert says in wrong(asked(), set(), pins)


def test_the_machines_and_the_image_take_it() -> None:
    image, worker = (LAUNCH / "Dockerfile").read_text(), (LAUNCH / "worker.sh").read_text()
    assert f'--constraint=launch/constraints.txt ".[{",".join(EXTRAS)}]"' in image
    assert "FROM python:3.12." in image
    assert "!launch/constraints.txt\n" in (LAUNCH / "Dockerfile.dockerignore").read_text()
    assert '--constraint "$pins"' in worker and "pins=$clone/launch/constraints.txt" in worker
    assert "uv venv --quiet --clear --python 3.12" in worker


def test_its_head_is_the_line_that_makes_it_again() -> None:
    line = (LAUNCH / "constraints.txt").read_text().splitlines()[1].removeprefix("#").split()
    assert line[:4] == ["uv", "pip", "compile", "setup.py"] and "--output-file=launch/constraints.txt" in line
    assert {f"--extra={extra}" for extra in EXTRAS} <= set(line) and "--python-version=3.12" in line
