"""Your own pictures on one device.

    lit-tune train --config=finetune --config.data.train=FOLDER --workdir=runs/mine --config.vision.init_from=DIR

FOLDER holds pictures and a captions.csv or captions.jsonl (docs/data.md), or shards. DIR is a run, an import or an
export: its tower's architecture and preprocessing are taken over, whatever stands below. Without it the quick start's
tower starts from random numbers.
"""

from ml_collections import ConfigDict

from lit_tune.configs import common


def get_config() -> ConfigDict:
    """The quick start's tower and text encoder on a small data set of one's own."""
    c = common.get_config()
    c.total_steps = 1_000
    c.global_batch = 128  # pairs; a small set has few captions to tell apart
    c.dtype = "float32"  # bfloat16 on a GPU or TPU

    c.vision.image_size = (48, 48)  # this block equals quickstart.py's
    c.vision.patch_size = 8
    c.vision.width = 192
    c.vision.depth = 4
    c.vision.num_heads = 3
    c.vision.mlp_dim = 512
    c.vision.pool_mlp_dim = 512
    c.vision.rope_reference_grid = (0, 0)
    c.vision.embed_dim = 384  # MiniLM's width, whatever the tower
    c.vision.init_spec = True

    c.text.model = "all-MiniLM-L6-v2"
    c.text.prefix = ""
    c.text.max_length = 128
    c.text.layer_norm = False
    c.text.source = "cached"

    c.loss.mask_equal_captions = True
    c.loss.logit_scale_max = 100.0

    c.optim.lr = 5e-4
    c.optim.lr_base_batch = 128
    c.optim.warmup_steps = 100

    c.data.train = ""  # give it: --config.data.train=FOLDER
    c.data.crop_scale = (0.6, 1.0)
    c.data.cache_decoded_mib = 256

    c.eval.every = 200
    c.eval.sets = ()  # --config.eval.sets=mine=FOLDER scores held-out pictures
    c.checkpoint.every = 200
    return c
