"""The same tower, loss and optimizer in PyTorch, by timm, where both are installed; torch is imported in here only.

timm's model gets our weights by the table that exports use, so both sides compute the same numbers.

Source: timm 1.0.31 models/eva.py; the loss as in open_clip's loss.py on one device, with text vectors given.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from lit_tune import optim, tree
from lit_tune.benching import machine
from lit_tune.convert import mapping
from lit_tune.convert.keymap import TABLES
from lit_tune.convert.peer_timm import NOMIC, architecture, timm_arguments
from lit_tune.exports import peers
from lit_tune.models import two_towers
from lit_tune.models.vision import VisionSpec

WAYS = {"torch eager": False, "torch.compile": True}  # name -> whether it is compiled
NO_DECAY = ("cls_token", "latent")  # beside biases and norms, which have one axis


def absent(platform: str, devices: int) -> str:
    """Why PyTorch cannot be measured beside us, "" if it can.

    Args:
        platform: of jax's devices.
        devices: how many of them.
    """
    timm = next(peer for peer in peers.PEERS if peer.package == "timm")
    if why := peers.absent(timm):
        return f"timm: {why}"
    import torch

    if devices > 1:
        return f"it is measured on one device, here are {devices}"
    if platform == "gpu" and not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU"
    if platform not in ("cpu", "gpu"):
        return f"not on a {platform}"
    return ""


def differs(config: ConfigDict) -> str:
    """The first setting of a training step that the PyTorch side does not have, "" if it has them all."""
    plain = {"micro_batches": 1, "loss.name": "softmax", "loss.mask_equal_captions": False, "loss.matryoshka_dims": (),
             "loss.text_bank": 0, "loss.extra_negatives": 0, "vision.patch_dropout": 0.0, "vision.freeze_blocks": 0,
             "data.resize_on": "host",
             "vision.remat": "none", "optim.layer_decay": 1.0, "optim.ema_decay": 0.0}  # fmt: skip
    for key, value in plain.items():
        section, _, name = key.rpartition(".")
        found = (config[section] if section else config)[name]
        if found != value:
            return f"its step has {key}={value!r}, not {found!r}"
    return ""


def tower(spec: VisionSpec, params: tree.Tree, platform: str) -> Any:
    """timm's model (torch.nn.Module) of a spec, with our weights, on the CPU or the GPU.

    Args:
        spec: of our tower.
        params: of our tower, numpy arrays.
        platform: cpu | gpu.

    Raises:
        ConfigError: timm cannot hold this tower.
    """
    import timm
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), machine.cores()))  # those that jax has, see machine.keep_to
    if architecture(spec) == NOMIC:  # timm itself has no such head: the model that our open_clip exports are read by
        from lit_tune.integrations import timm as nomic

        nomic.register()
        named = mapping.write_with(TABLES["eva02", "timm"], params, spec)
    else:
        named = mapping.to_peer(params, spec, "timm")
    model = timm.create_model(architecture(spec), pretrained=False, **timm_arguments(spec))
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in named.items()}, strict=True)
    return model.to(_place(platform))


def embedding(config: ConfigDict, params: tree.Tree, pixels: UInt8[np.ndarray, "b h w 3"], platform: str,
              *, compile: bool) -> Callable[[], Float[np.ndarray, "b d"]]:
    """A function that embeds the pictures and returns the unit vectors; `compile` by torch.compile, else eager."""
    import torch

    model = tower(two_towers.vision_spec(config), params, platform).eval()
    images = torch.from_numpy(pixels).to(_place(platform))
    run = _forward(model, config, platform)
    run = torch.compile(run) if compile else run

    def embed() -> Float[np.ndarray, "b d"]:
        with torch.inference_mode(), _quiet():
            return run(images).float().cpu().numpy()

    return embed


class TrainingStep:
    """AdamW on the softmax loss, a step a call; the weights start as ours do.

    Args:
        config: with nothing that `differs` names.
        params: of our image tower, numpy arrays.
        batch: image uint8 (b, h, w, 3), ztxt float32 (b, d).
        platform: cpu | gpu.
        compile: forward and loss by torch.compile, else eager.
    """

    def __init__(self, config: ConfigDict, params: tree.Tree, batch: dict[str, np.ndarray], platform: str, *,
                 compile: bool) -> None:
        import torch

        place, c = _place(platform), config.optim
        self._clip, self._max = c.clip_norm, config.loss.logit_scale_max
        self._model = tower(two_towers.vision_spec(config), params, platform).train()
        self._scale = torch.nn.Parameter(torch.tensor(config.loss.logit_scale_init, device=place))
        self._images = torch.from_numpy(batch["image"]).to(place)
        self._texts = torch.from_numpy(batch["ztxt"]).to(place)
        decay = {name: p.ndim > 1 and not name.endswith(NO_DECAY) for name, p in self._model.named_parameters()}
        groups = [{"params": [p for name, p in self._model.named_parameters() if decay[name]], "weight_decay": c.wd},
                  {"params": [p for name, p in self._model.named_parameters() if not decay[name]] + [self._scale],
                   "weight_decay": 0.0}]  # fmt: skip
        # one rate for all steps, a small one of the warm-up: what a step costs does not depend on it
        self._adam = torch.optim.AdamW(groups, lr=float(optim.make_schedule(config)(1)), betas=(c.b1, c.b2), eps=c.eps,
                                       fused=True)  # fmt: skip
        loss = _loss(_forward(self._model, config, platform))
        self._loss = torch.compile(loss) if compile else loss
        self._cuda = platform == "gpu"

    def __call__(self) -> tuple[Any, Any]:
        """(loss, norm of all gradients before the clip) of one step, once it is done; torch scalars."""
        import torch

        with _quiet():
            self._adam.zero_grad(set_to_none=True)
            loss = self._loss(self._images, self._texts, self._scale)
            loss.backward()
            parameters = [*self._model.parameters(), self._scale]
            norm = torch.nn.utils.clip_grad_norm_(parameters, self._clip or math.inf)
            self._adam.step()
            if self._max > 0:
                with torch.no_grad():
                    self._scale.clamp_(0.0, math.log(self._max))
            if self._cuda:
                torch.cuda.synchronize()
        return loss.detach(), norm


def failures() -> tuple[type[Exception], ...]:
    """What torch raises where its compiler or a device fails it; () without torch."""
    try:
        import torch
    except Exception:  # absent, or a broken install: then nothing of it can fail
        return ()
    return (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError, torch.OutOfMemoryError)


def versions() -> dict[str, str]:
    """{package: version} of what the PyTorch side is made of, and its threads."""
    import timm
    import torch

    return {"torch": torch.__version__, "timm": timm.__version__, "torch threads": str(torch.get_num_threads())}


def _forward(model: Any, config: ConfigDict, platform: str) -> Callable[[Any], Any]:
    """A function uint8 (b, h, w, 3) -> unit float32 vectors (b, d), pixels normalised as we do."""
    import torch

    place = _place(platform)
    mean, std = (torch.tensor(config.data[name], device=place).view(1, 3, 1, 1) for name in ("mean", "std"))
    lower = config.dtype == "bfloat16"

    def forward(images: Any) -> Any:
        pixels = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
        with torch.autocast(place, dtype=torch.bfloat16, enabled=lower):
            pooled = model(pixels)
        return torch.nn.functional.normalize(pooled.float(), dim=-1)

    return forward


def _loss(forward: Callable[[Any], Any]) -> Callable[..., Any]:
    """A function (images, texts, log of the scale) -> the softmax loss, both directions halved."""
    import torch

    def loss(images: Any, texts: Any, scale: Any) -> Any:
        logits = scale.exp() * forward(images) @ texts.T
        own = torch.arange(len(logits), device=logits.device)
        cross = torch.nn.functional.cross_entropy
        return (cross(logits, own) + cross(logits.T, own)) / 2

    return loss


def _place(platform: str) -> str:
    """torch's word for a platform."""
    return "cuda" if platform == "gpu" else "cpu"


class _quiet(warnings.catch_warnings):
    """What torch's compiler warns of is not about the measurement."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
