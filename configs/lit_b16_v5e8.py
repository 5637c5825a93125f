"""EVA02-B/16 against the locked nomic-embed-text-v1.5 on one host of eight TPU v5e chips: batch 4,096, 410 M pairs.

    lit-tune plan --config=lit_b16_v5e8 --topology=v5e:2x4
    lit-tune train --config=lit_b16_v5e8 --workdir=DIR --config.data.train='SHARDS/{00000..01242}.tar' \
        --config.vision.init_from=EVA02_B_MIM

The paper's run (nomic_embed_vision_v1_5:best) at the batch that fits eight chips without computing anything twice. The
learning rate follows the square root of the batch: 1e-3 at 65,536 becomes 2.5e-4. Not run yet.
"""

from ml_collections import ConfigDict

from lit_tune.configs import common


def get_config() -> ConfigDict:
    """512 pairs a chip in two parts, texts cached."""
    c = common.get_config()
    c.global_batch = 4_096
    c.micro_batches = 2  # 512 pictures a chip do not fit at once; 256 do
    c.total_steps = 100_000

    c.text.source = "cached"  # 12 M captions are 18 GB; a tower inside the step would cost 14 % of it

    c.loss.mask_equal_captions = True  # web captions repeat ("image", "photo"): they are no negatives of each other
    c.loss.logit_scale_max = 100.0

    c.optim.lr = 1e-3
    c.optim.lr_base_batch = 65_536  # the paper's
    c.optim.lr_scaling = "sqrt"  # Adam's noise scale: Malladi et al. 2022 (arXiv 2205.10287)
    c.optim.warmup_steps = 2_000
    return c
