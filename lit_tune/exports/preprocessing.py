"""How pictures are prepared, in transformers' words; and where another tool's preparation is not ours, with the reason.

The card of an export prints the differences. Plain RGB and grey pictures of every size and shape come out equal to the
last bit in timm, transformers, sentence-transformers and open_clip. What is left is below;
`tests/interop/test_exports_preprocessing.py` measures it and fails where this table says too much or too little.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_tune.errors import ConfigError, explain

FILE = "preprocessor_config.json"
FILTERS = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers, which CLIPImageProcessor files hold
# these want RGB pictures, so whoever calls them converts first; open_clip converts by itself, after resizing
RGB_FIRST = ("timm", "transformers", "sentence-transformers")
TOOLS = (*RGB_FIRST, "open_clip")


@dataclass(frozen=True)
class Difference:
    """One kind of picture that some tools see otherwise than we do.

    Attributes:
        policy: `decode` policy of the tower: reference | clean.
        kind: of picture.
        tools: that differ.
        levels: mean difference on the test's pictures, in grey levels of 0 to 255: how much is at stake, not a bound.
        why: in words.
    """

    policy: str
    kind: str
    tools: tuple[str, ...]
    levels: float
    why: str


_HIDDEN = "they drop alpha before resizing, we after it, so hidden colours spread"
_NO_MIX = "they resize real colours, the reference resizes without mixing them"
_WHITE = "they drop alpha, we lay the picture on white"
_SATURATES = "they cut 16-bit values off at 255, we scale them"
_IGNORED = "they ignore the orientation"
DIFFERENCES: tuple[Difference, ...] = (
    Difference("reference", "alpha", RGB_FIRST, 13.4, _HIDDEN),
    Difference("reference", "grey with alpha", RGB_FIRST, 10.7, _HIDDEN),
    Difference("reference", "palette", RGB_FIRST, 14.0, _NO_MIX),
    Difference("reference", "black and white", RGB_FIRST, 108.4, _NO_MIX),
    Difference("reference", "16-bit grey", RGB_FIRST, 1.7, "they cut values off at 255 before resizing, we after it"),
    Difference("reference", "CMYK", RGB_FIRST, 1.6, "they convert before resizing, we after it"),
    Difference("clean", "alpha", TOOLS, 87.0, _WHITE),
    Difference("clean", "grey with alpha", TOOLS, 86.0, _WHITE),
    Difference("clean", "palette", ("open_clip",), 14.0, "it resizes without mixing colours"),
    Difference("clean", "black and white", ("open_clip",), 108.4, "it resizes without mixing colours"),
    Difference("clean", "16-bit grey", TOOLS, 123.5, _SATURATES),
    Difference("clean", "CMYK", ("open_clip",), 1.6, "it converts after resizing, we before it"),
    Difference("clean", "EXIF turned", TOOLS, 48.9, _IGNORED),
)
NOT_SQUARE = ("at {height} x {width} all four round the longer side of the resized picture to the nearest pixel, "
              "we down: pictures of some shapes are a pixel off")  # fmt: skip


def differences(preprocess: Mapping[str, Any]) -> list[str]:
    """One line for each kind of picture that some tool sees otherwise than the exported tower was trained.

    Args:
        preprocess: of the tower's description.
    """
    found = [f"{row.kind}: {', '.join(row.tools)} differ; {row.why}"
             for row in DIFFERENCES if row.policy == preprocess["policy"]]  # fmt: skip
    height, width = preprocess["image_size"]
    if preprocess["resize"] == "shortest" and height != width:
        found.append(NOT_SQUARE.format(height=height, width=width))
    return found


def preprocessor_config(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """The object of preprocessor_config.json, as CLIPImageProcessor, fastembed and transformers.js read it.

    What they do otherwise than we: half an odd margin rounds down, so that their crop may lie one pixel further left or
    up (ours rounds as torchvision's); they convert to RGB before they resize; and they know neither policy, so that
    where ours is "clean" a picture with alpha, 16 bits or an EXIF rotation has to be prepared before. transformers'
    CLIPImageProcessorPil gives our pixels; its torchvision twin, CLIPImageProcessor, differs by up to 1 of 255.

    Args:
        preprocess: of the tower's description.

    Raises:
        ConfigError: "shortest" with an image that is not square: they bring the shorter side to a size, whichever it
            is, and would leave the rest of the crop black.
    """
    height, width = preprocess["image_size"]
    crop_pct = preprocess["crop_pct"] if "crop_pct" in preprocess else 1.0  # as `description.vision_description`
    tall, wide = (math.floor(side / crop_pct + 1e-9) for side in (height, width))
    shortest = preprocess["resize"] == "shortest"
    if shortest and height != width:
        raise ConfigError(explain(FILE, expected="a square picture, or resize squash",
                                  found=f"resize shortest at {height} x {width}", do="export --format=timm"))
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": tall} if shortest else {"height": tall, "width": wide},
        "resample": FILTERS[preprocess["interpolation"]],
        "do_center_crop": shortest or crop_pct < 1,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess["mean"]),
        "image_std": list(preprocess["std"]),
    }
