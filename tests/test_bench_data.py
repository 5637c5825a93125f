"""`lit-tune bench data`: its pictures, its arithmetic, and what it refuses; times themselves are never asserted."""

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from lit_tune import cli, config as config_lib, flops
from lit_tune.benching import cores, data, hosts, overhead, photos, resume
from lit_tune.data.order import PlainOrder
from lit_tune.data.sources import open_source
from lit_tune.errors import ConfigError, DataError


def shard(path: Path, forms: list[str]) -> str:
    """A tar of small pictures of these formats, with captions; cut is a JPEG whose end is missing."""
    with tarfile.open(path, "w") as tar:
        for number, form in enumerate(forms):
            out = io.BytesIO()
            picture = Image.new("RGB", (40, 30), (number, 90, 200))
            picture.save(out, "PNG" if form == "PNG" else "JPEG")
            encoded = out.getvalue()[:-9] if form == "cut" else out.getvalue()
            for name, content in ((f"{number}.{'png' if form == 'PNG' else 'jpg'}", encoded),
                                  (f"{number}.txt", b"a caption")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No processes of its own, an empty cache."""
    monkeypatch.setattr(cores, "cores_here", lambda: 1)
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))


def test_it_prints_every_way_its_ratios_and_the_cores_of_hosts(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", "data", "--images=2", "--repeats=1", "--pictures=made", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["source"] == photos.MADE and found["scaling"] == {} and found["record"]["us"] > 0
    first, small = found["kinds"]["512x384 q95"], found["kinds"][data.SMALL]
    for name, kind in found["kinds"].items():
        us = kind["us"]
        assert set(us) == set(cores.WAYS) and kind["pictures"] == 2
        assert kind["of_raw"]["host"] == pytest.approx(us["raw decode"] / us["host"])  # one turn: the same times
        assert kind["over_pillow"]["device"] == pytest.approx(us["pillow"] / us["device"])
        assert kind["over_first"]["host"] == pytest.approx(first["us"]["host"] / us["host"])
        assert kind["over_first_pillow"]["host"] == pytest.approx(first["us"]["pillow"] / us["host"])
        for host in found["hosts"].values():
            assert host["cores"][name]["host"] == pytest.approx(host["pictures_per_s"] * us["host"] / 1e6)
    assert small["canvas"] == 341 and small["mean_bytes"] < first["mean_bytes"]
    lines = "\n".join(data.show(found))
    assert "data.canvas=341" in lines and "512x384 q95: 2 JPEGs of " in lines and "there is one" in lines
    assert all(f"  {host}: " in lines for host in found["hosts"]) and "first index after " in lines


def test_shipped_rates_are_those_of_plans_of_one_host() -> None:
    chips = {"v5e:2x4": (8, 197e12), "v5p:2x2x1": (4, 459e12), "v6e:2x4": (8, 918e12)}  # Google's tables
    rates = hosts.planned()
    assert [rate.host for rate in rates] == list(chips)
    for rate in rates:
        count, peak = chips[rate.host]
        name, *changes = rate.config.split()
        pair = flops.per_pair(config_lib.load(name, [tuple(change.split("=")) for change in changes])).model
        assert rate.pictures_per_s == pytest.approx(count * peak * rate.mfu[1] / pair, rel=1e-3)
        assert rate.mfu[0] < rate.mfu[1] < 1 and name == "nomic_embed_vision_v1_5:best"


PLAN = {"topology": "v5e:16x16", "slices": 2, "hosts": 128, "images_per_s_per_host": 3000.0, "mfu_low": 0.4,
        "mfu_high": 0.5, "config": "mine", "libtpu": "1.2"}  # fmt: skip


def test_the_rate_is_the_plan_s_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    (rate,) = hosts.planned([str(tmp_path / "plan.json")])
    assert rate == hosts.Rate("v5e:16x16 x 2 slices, one of 128 hosts", 3000.0, (0.4, 0.5), "mine", "1.2")
    found = hosts.needed({"mine": dict.fromkeys(hosts.WAYS, 500.0)}, [rate])
    assert found[rate.host]["cores"]["mine"]["device"] == pytest.approx(1.5)
    for content, what in (("{}", "topology"), ("no", "JSONDecodeError"), ("[]", "TypeError"),
                          (json.dumps(PLAN | {"images_per_s_per_host": None}), "does not fit")):
        (tmp_path / "plan.json").write_text(content)
        assert cli.main(["bench", "data", f"--plans={tmp_path / 'plan.json'}"]) == 2
        told = capsys.readouterr()
        assert told.out == "" and what in told.err and told.err.count("\n") == 1
    assert cli.main(["bench", "data", f"--plans={tmp_path / 'absent.json'}"]) == 2
    assert "No such file" in capsys.readouterr().err


def test_the_first_index_deep_in_an_epoch_is_the_order_s_own() -> None:
    found = resume.measure(1)
    run = config_lib.load(resume.BASE)
    assert found["pairs"] == 1_547_277_668 and 0 < found["step"] < found["pairs"] // run.global_batch
    one = found["orders"]["all pairs mixed"]
    order = PlainOrder(found["pairs"], run.seed, run.global_batch)
    assert one["first"] == order.planned_ids(found["step"])[0]
    assert all(entry["first_s"] > 0 and entry["batch_s"] > 0 for entry in found["orders"].values())


def test_made_pictures_are_the_same_everywhere_and_as_large_as_photographs() -> None:
    files = photos.made(photos.KIND, 3)
    assert files == photos.made(photos.KIND, 3) and len(set(files)) == 3
    assert all(60_000 < len(one) < 80_000 for one in files)
    assert cores.canvas_of(files) == 512 and cores.canvas_of([overhead.filled(700)]) == cores.SIZE[0]
    height, width, _, sampling = simplejpeg.decode_jpeg_header(files[0])
    assert (height, width, sampling) == (384, 512, "420")


def test_photographs_are_windows_of_those_that_are_named() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    source, files = photos.pictures("photographs", 4)
    assert "china.jpg and flower.jpg" in source and "512x384 q95" in source and photos.pictures("", 4)[1] == files
    assert len(set(files)) == 4
    for number, name in enumerate(photos.PHOTOGRAPHS):
        whole = Image.fromarray(datasets.load_sample_image(name)).resize((16, 12), Image.Resampling.BOX)
        own = Image.open(io.BytesIO(files[number]))
        assert own.size == (512, 384)
        near = np.asarray(own.resize((16, 12), Image.Resampling.BOX), float).ravel()
        other = np.asarray(whole, float).ravel()
        assert np.corrcoef(near, other)[0, 1] > 0.7  # a window of most of it


def test_without_photographs_others_are_made_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos.importlib.util, "find_spec", lambda name: None)
    source, files = photos.pictures("", 2)
    assert files == photos.made(photos.KIND, 2) and "no photographs (scikit-learn is not installed" in source
    for asked, found in (("photographs", "scikit-learn is not installed"), ("cats", "'cats'")):
        with pytest.raises(ConfigError, match=found):
            photos.pictures(asked, 2)


def test_own_pictures_are_the_first_jpegs_and_others_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spec = shard(tmp_path / "a.tar", ["JPEG", "PNG", "cut", "JPEG", "JPEG"])
    source = open_source(spec, SimpleNamespace(caption_field="txt"))
    files, others = photos.own(source, 2)
    assert files == [source.pair(number, 1 << 20)[0] for number in (0, 3)]
    assert others == {"PNG": 1, "damaged JPEG": 1}
    assert data.run(spec, count=2, repeats=1) == 0
    told = capsys.readouterr().out
    assert "2 JPEGs" in told and "1 PNG passed over" in told
    with pytest.raises(DataError, match="expected JPEG pictures"):
        photos.own(open_source(shard(tmp_path / "b.tar", ["PNG"]), SimpleNamespace(caption_field="txt")), 2)
    assert cli.main(["bench", "data", spec, "--pictures=made"]) == 2
    assert "SHARDS or --pictures" in capsys.readouterr().err


@pytest.mark.parametrize("size", [700, 5_000, 69_000, 200_000])
def test_filled_up_pictures_have_the_size_and_decode_as_before(size: int) -> None:
    plain, filled = overhead.filled(0), overhead.filled(size)
    assert abs(len(filled) - size) <= 4
    assert np.array_equal(simplejpeg.decode_jpeg(filled), simplejpeg.decode_jpeg(plain))


def test_nothing_stays_in_the_cache(tmp_path: Path) -> None:
    overhead.measure([overhead.filled(700)], 1)
    assert not (tmp_path / "cache").exists()


def test_two_words_too_many_and_shards_that_are_not_there(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", "data", "a", "b"]) == 2
    assert cli.main(["bench", "data", "nowhere/*.tar"]) == 4
    told = capsys.readouterr()
    assert told.out == "" and "nowhere" in told.err and told.err.count("\n") == 2


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_cores_are_measured_in_threads_and_in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cores_here", lambda: 2)
    found = cores.scaling(photos.made(photos.KIND, 2), 1)
    assert set(found) == {"threads", "processes"} and all(part > 0 for part in found.values())
