"""EVA02-B/16 against the locked nomic-embed-text-v1.5 on one GPU: batch 4,096 by gradient cache, 82 M pairs.

    lit-tune plan --config=lit_b16_1gpu --topology=h100
    lit-tune train --config=lit_b16_1gpu --workdir=DIR --config.data.train='SHARDS/{00000..01242}.tar' \
        --config.vision.init_from=EVA02_B_MIM

The batch is embedded in parts, so its size does not hang on the memory of the GPU: 512 pictures at a time should take
about 30 GB (a TPU's program keeps 52 MiB a picture); on a card of 24 GB add --config.micro_batches=16, on one of 12 GB
32. The learning rate follows the square root of the batch: 1e-3 at 65,536 becomes 2.5e-4. Not run yet.
"""

from ml_collections import ConfigDict

from lit_tune.configs import common


def get_config() -> ConfigDict:
    """512 pairs at a time, texts cached; `lit_b16_v5e8` is the same run on eight chips, five times as long."""
    c = common.get_config()
    c.global_batch = 4_096
    c.micro_batches = 8
    c.total_steps = 20_000

    c.text.source = "cached"

    c.loss.mask_equal_captions = True  # web captions repeat ("image", "photo"): they are no negatives of each other
    c.loss.logit_scale_max = 100.0

    c.optim.lr = 1e-3
    c.optim.lr_base_batch = 65_536  # the paper's
    c.optim.lr_scaling = "sqrt"  # Adam's noise scale: Malladi et al. 2022 (arXiv 2205.10287)
    c.optim.warmup_steps = 1_000
    return c
