"""Quick start: a small EVA02 tower, from random numbers, on shipped drawings; minutes on two CPU cores.

    lit-tune train --config=quickstart --workdir=runs/quickstart

Text: the real all-MiniLM-L6-v2, frozen, encoded once and cached. Pictures: five sets of emoji drawings. Scored on a
sixth set that is never trained: `unseen_set` (drawings of trained concepts) and `unseen_concept` (191 concepts that no
training picture shows). `--config=quickstart:dev` is the development split, on which these values were chosen.
"""

from ml_collections import ConfigDict

from lit_tune.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """The quick start; `arg` "dev" trains and scores on the development split."""
    if arg not in ("", "dev"):
        raise ValueError(f"quickstart takes no argument or dev, not {arg!r}")
    split = "emoji:dev/" if arg == "dev" else "emoji:"
    c = common.get_config()
    c.total_steps = 2_100  # 21 epochs; 590 to 1,200 CPU-seconds, by the cores
    c.global_batch = 64  # small: so few pairs need many updates
    c.dtype = "float32"  # CPUs gain nothing from bfloat16

    c.vision.image_size = (48, 48)
    c.vision.patch_size = 8  # 36 patches: 16 would leave 9
    c.vision.width = 192
    c.vision.depth = 4
    c.vision.num_heads = 3
    c.vision.mlp_dim = 512  # 8/3 of the width, as EVA02
    c.vision.pool_mlp_dim = 512
    c.vision.rope_reference_grid = (0, 0)  # no other size to stay compatible with
    c.vision.embed_dim = 384  # MiniLM's width
    c.vision.patch_dropout = 0.5  # twice the pictures for the time, and less to learn by heart

    c.text.model = "all-MiniLM-L6-v2"
    c.text.prefix = ""
    c.text.max_length = 128
    c.text.layer_norm = False
    c.text.source = "cached"

    c.loss.mask_equal_captions = True  # the five sets draw the same concepts
    c.loss.logit_scale_max = 30.0  # these pairs are learnt by heart before a sharper softmax would help

    c.optim.lr = 1e-3
    c.optim.lr_base_batch = 64
    c.optim.warmup_steps = 100
    c.optim.b2 = 0.98
    c.optim.wd = 0.1

    c.data.train = f"{split}train"
    c.data.caption_field = "captions"
    c.data.crop_scale = (0.6, 1.0)  # light augmentation: heavier cost more than it gave in this time
    c.data.crop_ratio = (0.87, 1.15)
    c.data.flip = 0.5
    c.data.color_jitter = 0.1
    c.data.cache_decoded_mib = 256  # 64 px drawings: all of them fit

    c.eval.every = 700 if arg == "dev" else 0  # the test is scored once, at the end
    c.eval.sets = (f"unseen_concept={split}unseen_concept", f"unseen_set={split}unseen_set")
    c.eval.caption_field = "txt"  # "label: keyword, keyword"
    c.eval.templates = ("{}", "an emoji of {}")
    c.eval.class_field = "label"
    c.checkpoint.every = 350
    c.log.every = 50
    c.log.block_stats_steps = 0
    return c
