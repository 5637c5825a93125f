"""`lit_tune.load` gives the vectors of a run and of its export; descriptions are whole or refused."""

import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_models import picture, small_config, text_encoder, write_export, write_run, write_text_tower

import lit_tune
from lit_tune import description, tower, warm_start
from lit_tune.data import transforms
from lit_tune.errors import CheckpointError, ConfigError, DataError
from lit_tune.exports import timm
from lit_tune.model import Model
from lit_tune.models import two_towers

TEXTS = ["a cat", "the red dogs on the mat"]


@pytest.fixture
def config(tmp_path: Path):
    return small_config(write_text_tower(tmp_path / "text"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A loaded run, for the tests that only embed."""
    root = tmp_path_factory.mktemp("trained")
    write_run(root / "run", small_config(write_text_tower(root / "text")))
    return lit_tune.load(root / "run")


def direct(config, params, images: list[np.ndarray]) -> np.ndarray:
    """Unit vectors straight from the tower, transform by transform."""
    made = two_towers.vision_tower(config)
    rows = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        rows.append(transforms.eval_transform(buffer.getvalue(), (16, 16), "clean", "shortest"))
    pixels = np.stack(rows).astype(np.float32) / 255
    pooled = np.asarray(made.apply(params, jnp.asarray((pixels - config.data.mean) / config.data.std, jnp.float32)))
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def test_a_run_s_newest_checkpoint_embeds_pictures_and_texts(tmp_path: Path, config) -> None:
    state = write_run(tmp_path / "run", config, steps=(3, 5))
    model = lit_tune.load(tmp_path / "run")
    images = [picture(0), picture(1, 40, 16), picture(2, 16, 16)]
    np.testing.assert_allclose(
        model.embed_images(images), direct(config, state["params"]["image"], images), atol=1e-5
    )
    np.testing.assert_allclose(model.embed_texts(TEXTS), text_encoder(config).encode(TEXTS), atol=1e-6)
    assert (model.dim, model.image_size, model.prompt) == (16, (16, 16), "query: ")
    np.testing.assert_array_equal(model.embed_texts(["cat"]), model.embed_texts(["query: cat"], prompt=""))
    older = lit_tune.load(tmp_path / "run") and tower.load(tmp_path / "run", step=3)
    assert np.abs(older.embed_images(images) - model.embed_images(images)).max() > 1e-3


def test_a_relative_path_will_do(tmp_path: Path, config, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run", config)
    monkeypatch.chdir(tmp_path)
    assert lit_tune.load("run").embed_images([picture(0)]).shape == (1, 16)


def test_the_running_average_is_what_is_used_where_there_is_one(tmp_path: Path, config) -> None:
    state = write_run(tmp_path / "run", config, ema=True)
    found = lit_tune.load(tmp_path / "run").embed_images([picture(0)])
    np.testing.assert_allclose(found, direct(config, state["ema"]["image"], [picture(0)]), atol=1e-5)
    assert np.abs(found - direct(config, state["params"]["image"], [picture(0)])).max() > 1e-3


def test_an_export_gives_the_run_s_vectors_without_the_run_or_its_text_folder(tmp_path: Path, config) -> None:
    state = write_run(tmp_path / "run", config)
    model = lit_tune.load(tmp_path / "run")
    images, texts = model.embed_images([picture(0), picture(1)]), model.embed_texts(TEXTS)
    write_export(tmp_path / "export", config, state["params"]["image"])
    (tmp_path / "text").rename(tmp_path / "gone")
    (tmp_path / "run").rename(tmp_path / "gone too")
    exported = lit_tune.load(tmp_path / "export")
    np.testing.assert_allclose(exported.embed_images([picture(0), picture(1)]), images, atol=1e-6)
    np.testing.assert_allclose(exported.embed_texts(TEXTS), texts, atol=1e-6)
    assert exported.prompt == "query: "
    assert sorted(path.name for path in (tmp_path / "export" / "text").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip


def test_paths_bytes_arrays_and_pil_pictures_give_one_vector(tmp_path: Path, model: Model) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    kinds = [picture(0), Image.fromarray(picture(0)), tmp_path / "a.png", str(tmp_path / "a.png"),
             (tmp_path / "a.png").read_bytes()]  # fmt: skip
    vectors = model.embed_images(kinds)
    np.testing.assert_array_equal(vectors, np.repeat(vectors[:1], 5, axis=0))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "I;16", "CMYK"])
def test_a_pil_picture_in_memory_is_treated_like_its_file(mode: str, tmp_path: Path, model: Model) -> None:
    if mode == "I;16":
        image = Image.fromarray(picture(0)[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(np.dstack([picture(0), picture(1)[..., 0]]), "RGBA").convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    on_disk, loaded = model.vision.pixels(path), Image.open(path)
    loaded.load()
    np.testing.assert_array_equal(model.vision.pixels(loaded), on_disk)


def test_exif_orientation_of_a_picture_in_memory_is_followed(tmp_path: Path, model: Model) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(0)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        turned = model.vision.pixels(image)
    np.testing.assert_array_equal(turned, model.vision.pixels(tmp_path / "a.png"))
    assert np.any(turned != model.vision.pixels(picture(0)))


def test_vectors_do_not_depend_on_the_batch_and_none_give_none(model: Model) -> None:
    images = [picture(i) for i in range(37)]  # more than one batch, and not a multiple
    together = model.embed_images(images)
    np.testing.assert_allclose(model.embed_images(images[33:34]), together[33:34], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert model.embed_images([]).shape == (0, 16) and together.dtype == np.float32


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path, model: Model) -> None:
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(DataError, match=r"page.jpg: expected a picture that decodes, found unknown_format"):
        model.embed_images([picture(0), tmp_path / "page.jpg"])
    with pytest.raises(DataError, match=r"none.jpg: expected a picture that decodes, found unreadable"):
        model.embed_images([tmp_path / "none.jpg"])
    with pytest.raises(DataError, match="picture 1: expected a picture that decodes, found empty_image"):
        model.embed_images([picture(0), b""])
    with pytest.raises(ConfigError, match=r"expected uint8 \(h, w, 3\), found float32 \(4, 4, 3\)"):
        model.embed_images([np.zeros((4, 4, 3), np.float32)])


def test_attention_of_the_pooling_lies_where_its_patch_lies(model: Model) -> None:
    encoder = model.vision
    pixels = np.stack([encoder.pixels(picture(seed)) for seed in range(3)])[:, :8]  # one row of two patches
    found = encoder.pool_attention(pixels)
    assert found.patches.shape == (3, 2, 1, 2) and found.class_token.shape == (3, 2)
    np.testing.assert_allclose(found.patches.sum((2, 3)) + found.class_token, 1, atol=1e-6)
    image = two_towers.normalize_pixels(jnp.asarray(pixels), encoder.preprocess["mean"], encoder.preprocess["std"])
    direct = np.asarray(encoder.tower.apply(encoder.params, image, method="pool_attention"))
    np.testing.assert_allclose(found.patches[:, :, 0, 1], direct[:, :, 2], atol=1e-6)
    np.testing.assert_allclose(found.class_token, direct[:, :, 0], atol=1e-6)


def test_other_text_weights_than_the_run_s_are_refused(tmp_path: Path, config) -> None:
    write_run(tmp_path / "run", config)
    write_text_tower(tmp_path / "text", seed=1)
    model = lit_tune.load(tmp_path / "run")
    assert model.embed_images([picture(0)]).shape == (1, 16)  # pictures need no text weights
    with pytest.raises(ConfigError, match="text weights in .*: expected sha256"):
        model.embed_texts(["a cat"])


def test_other_text_weights_in_an_export_are_refused(tmp_path: Path, config) -> None:
    state = write_run(tmp_path / "run", config)
    export = write_export(tmp_path / "export", config, state["params"]["image"])
    write_text_tower(export / "text", seed=1)
    with pytest.raises(ConfigError, match="model.safetensors: expected sha256"):
        lit_tune.load(export).embed_texts(["a cat"])


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path, config) -> None:
    write_run(tmp_path / "run", config, steps=(3, 5))
    before = tower.load(tmp_path / "run", step=3).embed_images([picture(0)])
    largest = max((tmp_path / "run/checkpoints/5").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(b"x" + largest.read_bytes()[1:])
    np.testing.assert_array_equal(lit_tune.load(tmp_path / "run").embed_images([picture(0)]), before)
    with pytest.raises(CheckpointError):
        tower.load(tmp_path / "run", step=5)


def test_folders_that_are_no_model_are_one_line(tmp_path: Path, config) -> None:
    with pytest.raises(ConfigError, match=r"a run .* or an import or export \(vision_tower.json\), found neither"):
        lit_tune.load(tmp_path)
    with pytest.raises(ConfigError, match="found no such folder"):
        lit_tune.load(tmp_path / "none")
    write_run(tmp_path / "run", config)
    with pytest.raises(CheckpointError, match=r"no whole checkpoint of step 4; there are: \[3\]"):
        tower.load(tmp_path / "run", step=4)
    for path in (tmp_path / "run/checkpoints").rglob("digests.json"):
        path.unlink()
    with pytest.raises(CheckpointError, match="expected a whole checkpoint, found no checkpoint yet"):
        lit_tune.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "expected a tower description of format 1, found 2"),
        ({"kind": "sound"}, "found kind 'sound'"),
        ({"spec": None}, "expected the key 'spec'"),
        ({"preprocess": {"image_size": [16, 16]}}, "found no preprocess.resize"),
        ({"family": "resnet"}, "expected family eva02 or vit, found resnet"),
    ],
)
def test_descriptions_that_are_not_whole_are_refused(change: dict, message: str, config) -> None:
    page = description.of_run(config)
    page = {key: value for key, value in (page | change).items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        description.vision_tower(description.validate(page, "vision_tower.json"))


def test_a_description_with_another_resize_or_field_is_refused_and_a_good_one_survives_its_file(
    tmp_path: Path, config
) -> None:
    spec = two_towers.vision_spec(config)
    preprocess = description.preprocess_of(config)
    timm.export(two_towers.vision_tower(config).init(jax.random.key(0)), spec, preprocess, tmp_path)
    description.save_vision(tmp_path, description.of_run(config), tmp_path / "model.safetensors", "timm")
    page = description.read_description(tmp_path / "vision_tower.json")
    assert description.vision_tower(page).spec == spec
    assert page["preprocess"]["mean"] == list(config.data.mean)
    bad = page | {"preprocess": page["preprocess"] | {"resize": "stretch"}}
    with pytest.raises(ConfigError, match="resize: expected shortest or squash, found stretch"):
        description.validate(bad, "vision_tower.json")
    with pytest.raises(ConfigError, match="expected the fields of Eva02Spec"):
        description.vision_tower(page | {"spec": page["spec"] | {"gears": 5}})
    (tmp_path / "vision_tower.json").write_text("[]")
    with pytest.raises(ConfigError, match="expected a JSON object"):
        description.read_description(tmp_path / "vision_tower.json")


def test_a_run_may_start_from_a_run_an_export_or_a_timm_folder(
    tmp_path: Path, config, capsys: pytest.CaptureFixture[str]
) -> None:
    state = write_run(tmp_path / "run", config)
    write_export(tmp_path / "export", config, state["params"]["image"])
    made = two_towers.vision_tower(config)
    (tmp_path / "timm").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "timm" / name).write_bytes((tmp_path / "export" / name).read_bytes())
    for start in ("run", "export", "timm", "timm/model.safetensors"):
        params = warm_start.load_vision_params(str(tmp_path / start), made)
        jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(state["params"]["image"]))
    wider = two_towers.vision_tower(small_config(tmp_path / "text", vision__embed_dim=24))
    params = warm_start.load_vision_params(str(tmp_path / "run"), wider)
    assert params["head"]["kernel"].shape == (16, 24)
    assert "no head to start from: random numbers there" in capsys.readouterr().err


def test_another_trunk_to_start_from_is_refused(tmp_path: Path, config) -> None:
    write_run(tmp_path / "run", config)
    for change, message in ({"vision__num_heads": 1}, "expected num_heads 1, found num_heads 2"), (
        {"vision__rope_theta": 100.0}, "expected rope_theta 100.0, found rope_theta 10000.0"
    ):  # fmt: skip
        other = two_towers.vision_tower(small_config(tmp_path / "text", **change))
        with pytest.raises(ConfigError, match=message):
            warm_start.load_vision_params(str(tmp_path / "run"), other)
    with pytest.raises(ConfigError, match="vision.init_from: expected a run, an export, or timm's config.json"):
        warm_start.load_vision_params(str(tmp_path / "none"), two_towers.vision_tower(config))
