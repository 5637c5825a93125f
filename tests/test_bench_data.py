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
from lit_tune.benching import cores, data, overhead, photos
from lit_tune.data.sources import open_source
from lit_tune.errors import DataError


def shard(path: Path, forms: list[str]) -> str:
    """A tar of small pictures of these formats, with captions."""
    with tarfile.open(path, "w") as tar:
        for number, form in enumerate(forms):
            out = io.BytesIO()
            Image.new("RGB", (40, 30), (number, 90, 200)).save(out, form)
            for name, content in ((f"{number}.{'jpg' if form == 'JPEG' else 'png'}", out.getvalue()),
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
    assert cli.main(["bench", "data", "--images=2", "--repeats=1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["source"] == "made here" and found["scaling"] == {} and found["record"]["us"] > 0
    pair = flops.per_pair(config_lib.load(cores.BASE, [("text.source", "cached")])).model
    for name, kind in found["kinds"].items():
        us = kind["us"]
        assert set(us) == set(cores.WAYS) and kind["pictures"] == 2
        assert kind["of_raw"]["host"] == pytest.approx(us["raw decode"] / us["host"])  # one turn: the same times
        assert kind["over_pillow"]["device"] == pytest.approx(us["pillow"] / us["device"])
        for host, peak in (("v5e-8", 197e12), ("v5p-8", 459e12), ("v6e-8", 918e12)):
            rate = found["hosts"][host]["pictures_per_s"]
            assert rate == pytest.approx(8 * peak * 0.5 / pair)
            assert found["hosts"][host]["cores"][name]["host"] == pytest.approx(rate * us["host"] / 1e6)
    lines = "\n".join(data.show(found))
    assert found["kinds"]["341x256 q90"]["canvas"] == 341 and "data.canvas=341" in lines
    assert "512x384 q95: 2 JPEGs of " in lines and "v6e-8: " in lines and "there is one" in lines


def test_made_pictures_are_the_same_everywhere_and_as_large_as_photographs() -> None:
    files = photos.made(photos.KINDS[0], 3)
    assert files == photos.made(photos.KINDS[0], 3) and len(set(files)) == 3
    assert all(60_000 < len(one) < 80_000 for one in files)
    assert cores.canvas_of(files) == 512 and cores.canvas_of([overhead.filled(700)]) == cores.SIZE[0]
    height, width, _, sampling = simplejpeg.decode_jpeg_header(files[0])
    assert (height, width, sampling) == (384, 512, "420")


def test_own_pictures_are_the_first_jpegs_and_others_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spec = shard(tmp_path / "a.tar", ["JPEG", "PNG", "JPEG", "JPEG"])
    source = open_source(spec, SimpleNamespace(caption_field="txt"))
    files, others = photos.own(source, 2)
    assert [np.asarray(Image.open(io.BytesIO(one)))[0, 0, 0] for one in files] == [0, 2] and others == {"PNG": 1}
    assert data.run(spec, pictures=2, repeats=1) == 0
    told = capsys.readouterr().out
    assert "2 JPEGs" in told and "1 PNG passed over" in told
    with pytest.raises(DataError, match="expected JPEG pictures"):
        photos.own(open_source(shard(tmp_path / "b.tar", ["PNG"]), SimpleNamespace(caption_field="txt")), 2)


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
    found = cores.scaling(photos.made(photos.KINDS[1], 2), 1)
    assert set(found) == {"threads", "processes"} and all(part > 0 for part in found.values())
