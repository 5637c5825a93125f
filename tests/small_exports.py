"""Small towers with noise on every weight, to export; and pictures of all the kinds that loaders differ on."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from small_models import WORDS, write_text_tower, write_tokenizer

from lit_tune import description, tree
from lit_tune.convert import mapping, weights as weight_files
from lit_tune.exports.parts import Source
from lit_tune.model import Model, VisionEncoder
from lit_tune.models.eva02 import VARIANTS, Eva02Spec
from lit_tune.models.nomic_bert import NomicBertSpec
from lit_tune.models.two_towers import tower_of
from lit_tune.text import encode, weights
from lit_tune.text.encode import TextEncoder
from lit_tune.text.tokenizer import Tokenizer

NOMIC = NomicBertSpec(vocab_size=16, type_vocab=2, width=16, depth=2, num_heads=2, mlp_dim=256, norm_eps=1e-12,
                      rope_theta=1000.0, ntk_factor=0.0, ntk_length=0, pool="mean", layer_norm=True, dim=0)  # fmt: skip
SMALL = dataclasses.replace(
    VARIANTS["eva02_base_patch14_224"], image_size=(32, 32), patch_size=8, width=16, depth=2, num_heads=2, mlp_dim=40,
    pool="map", pool_mlp_dim=32, rope_reference_grid=(4, 4))  # fmt: skip
# Of SMALL: the tower of nomic-embed-vision, with its hidden widths.
NOMIC_HEAD: dict[str, Any] = {"pool": "nomic", "key_bias": True, "qkv_fused": True, "final_norm": False,
                              "sub_ln_eps": 1e-5, "mlp_dim": 256, "pool_mlp_dim": 256}  # fmt: skip
PREPROCESS = {"image_size": [32, 32], "resize": "shortest", "interpolation": "bicubic", "policy": "reference",
              "mean": [0.48, 0.45, 0.4], "std": [0.26, 0.26, 0.27]}  # fmt: skip
TEXTS = ["a cat", "big red dogs on the mat", "a", "the big cat query : a dog on the red mat a cat a dog a cat", "cats"]


def noisy(spec: Any, size: float = 0.3) -> tree.Tree:
    """Parameters with noise on all of them, as training leaves them."""
    rng = np.random.default_rng(3)
    named = tree.flatten(tower_of(spec).init(jax.random.key(0)))
    return tree.unflatten({n: np.asarray(a) + size * rng.standard_normal(a.shape, np.float32)
                           for n, a in named.items()})


def vision(policy: str = "reference", resize: str = "shortest", **changes: Any) -> VisionEncoder:
    """An image tower; `changes` of SMALL."""
    spec: Eva02Spec = dataclasses.replace(SMALL, **changes)
    preprocess = PREPROCESS | {"image_size": list(spec.image_size), "policy": policy, "resize": resize}
    return VisionEncoder(description.vision_description(spec, preprocess), noisy(spec))


def bert(folder: Path, prefix: str = "", **pooling: Any) -> TextEncoder:
    """A BERT text tower in a folder of transformers' layout, without a pooler."""
    return encoder(write_text_tower(folder), prefix, **pooling)


def nomic_bert(folder: Path, prefix: str = "query: ", **pooling: Any) -> TextEncoder:
    """A NomicBert text tower in the layout and with the config of the hub's files, remote code and all."""
    write_tokenizer(folder)
    save_file(mapping.to_peer(noisy(NOMIC), NOMIC, "nomic"), folder / "model.safetensors")
    page = {"model_type": "nomic_bert", "architectures": ["NomicBertModel"], "n_embd": 16, "n_layer": 2, "n_head": 2,
            "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
            "n_inner": 256, "vocab_size": len(WORDS), "pad_vocab_size_multiple": 16, "type_vocab_size": 2,
            "layer_norm_epsilon": 1e-12, "rotary_emb_base": 1000, "rotary_scaling_factor": None, "n_positions": 64,
            "prenorm": False, "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False,
            "activation_function": "swiglu", "rotary_emb_fraction": 1.0}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(page))
    return encoder(folder, prefix, **({"layer_norm": True} | pooling))


def encoder(folder: Path, prefix: str, pool: str = "mean", layer_norm: bool = False, dim: int = 0) -> TextEncoder:
    """The text tower in a folder; at most 16 tokens a text."""
    spec = encode.text_spec(weight_files.read_config(folder / "config.json"), "hf", pool=pool, layer_norm=layer_norm,
                            dim=dim)
    tokenizer = Tokenizer(folder, prefix, 16)
    page = encode.describe(spec, tokenizer, weights.sha256_of(folder / "model.safetensors"), "small")
    return TextEncoder(page, lambda: mapping.from_peer(weight_files.read(folder), spec, "hf"), tokenizer, folder)


def source(image: VisionEncoder, text: TextEncoder, **facts: Any) -> Source:
    """What a writer is given."""
    return Source(image, text, "small", facts)


def model(given: Source) -> Model:
    """Ours, of the same towers."""
    return Model(given.vision, lambda: given.text, given.text.tokenizer.prefix)


def photo(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture with smooth colours and fine grain, so that a wrong resize or crop shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 7 + c) + np.cos(y / 5 - c) for c in range(4)], -1) * 50 + 128
    full = np.clip(waves + rng.normal(0, 25, waves.shape), 0, 255).astype(np.uint8)
    full[..., 3] = np.where((x + y) % 9 < 3, 0, full[..., 3])  # holes in the alpha
    if mode == "RGBA":
        return Image.fromarray(full, "RGBA")
    rgb = Image.fromarray(full[..., :3].copy())
    if mode == "CMYK":
        return Image.fromarray(full, "CMYK")  # with black ink, which the conversion to RGB cuts off
    if mode == "P":
        return rgb.quantize(40)
    if mode == "LA":
        return Image.fromarray(full, "RGBA").convert("LA")
    if mode == "I;16":
        return Image.fromarray(full[..., 0].astype(np.uint16) * 257)
    return rgb.convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An encoded picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(picture: bytes) -> Image.Image:
    """A picture as Pillow opens it."""
    return Image.open(io.BytesIO(picture))


def turned() -> bytes:
    """A JPEG whose EXIF says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(photo(40, 70), "JPEG", quality=95, exif=exif)


# Kind of picture -> encoded. The first four are plain RGB.
PICTURES: dict[str, bytes] = {
    "non-square": saved(photo(70, 101), "PNG"),
    "tiny": saved(photo(3, 5), "PNG"),
    "wide 12:1": saved(photo(40, 480), "PNG"),
    "tall 1:12": saved(photo(480, 40), "JPEG"),
    "grey": saved(photo(50, 61, "L"), "PNG"),
    "alpha": saved(photo(60, 83, "RGBA"), "PNG"),
    "grey with alpha": saved(photo(60, 83, "LA"), "PNG"),
    "palette": saved(photo(60, 83, "P"), "PNG"),
    "black and white": saved(photo(60, 83, "1"), "PNG"),
    "16-bit grey": saved(photo(60, 83, "I;16"), "PNG"),
    "CMYK": saved(photo(60, 83, "CMYK"), "JPEG", quality=95),
    "EXIF turned": turned(),
}
