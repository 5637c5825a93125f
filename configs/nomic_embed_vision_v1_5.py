"""The run of Nomic Embed Vision v1.5 (arXiv 2406.18587): EVA02-B/16 against the locked nomic-embed-text-v1.5.

    lit-tune train --config=nomic_embed_vision_v1_5 --workdir=DIR \
        --config.data.train='SHARDS/{00000000..00015444}.tar' --config.vision.init_from=EVA02_B_MIM

EVA02_B_MIM: weights of BAAI's eva02_B_pt_in21k_p14to16 in timm's layout, where the published run started. Published
result: ImageNet-1k zero-shot 71.0, DataComp-38 average 56.8. Not run with this code yet: neither the data nor a TPU was
at hand.

`:best` differs where we would not repeat the published run: pooling `map` after a final norm (exports to timm),
gradients clipped at 1.0, temperature clamped at 100.

"contrastors" below is nomic-ai/contrastors at 613ddfd, the code behind the paper.
"""

from ml_collections import ConfigDict

from lit_tune.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """The published run; `arg` "best" our variant of it."""
    if arg not in ("", "best"):
        raise ValueError(f"nomic_embed_vision_v1_5 takes no argument or best, not {arg!r}")
    c = common.get_config()
    # The released yaml says 16,384 pairs and an epoch of 330 M samples, which is not the paper's run; 65,536 pairs and
    # 70,848 steps are: 4.643 B pairs, 3.0008 epochs of the 1,547,277,668 that contrastors' loader counts.
    c.global_batch = 65_536
    c.total_steps = 70_848

    c.vision.rope_reference_grid = (14, 14)  # contrastors; BAAI's and timm's /16 models use 16 x 16
    c.vision.remat = "none"  # execution only: 256 pictures a chip fit a v5e (`lit-tune plan`); the reference recomputes

    c.text.model = "nomic-ai/nomic-embed-text-v1.5"
    c.text.prefix = "search_query: "  # contrastors, image_text_loader.py
    c.text.max_length = 77
    c.text.layer_norm = True
    c.text.source = "cached"  # execution only: saves 12 % of the step for a cache of 2.4 TB; live gives the same loss

    c.loss.mask_equal_captions = False

    c.optim.lr = 1e-3
    c.optim.lr_base_batch = 65_536
    c.optim.warmup_steps = 2_000
    c.optim.wd = 0.0  # the released yaml

    c.data.policy = "reference"
    c.data.min_side, c.data.max_aspect = 0, 0.0  # nothing is refused for its shape there
    c.data.crop_scale = (0.9, 1.0)

    if arg == "best":  # timm's layout (no key bias, every eps 1e-6), the defaults of common.py
        c.vision.pool, c.vision.final_norm = "map", True
        c.optim.clip_norm, c.loss.logit_scale_max = 1.0, 100.0
    else:
        c.vision.pool, c.vision.final_norm = "nomic", False
        c.vision.qkv_fused, c.vision.key_bias = True, True  # contrastors' Wqkv: its key bias is trained, from 0
        c.vision.sub_ln_eps = 1e-5  # contrastors leaves torch's default in this one norm
        # contrastors clips at 1.0 a loss that is multiplied by its 16 ranks; ours is the mean: 1 / 16.
        c.optim.clip_norm, c.loss.logit_scale_max = 0.0625, 0.0  # clamp_logits is off in the released yaml
    return c
