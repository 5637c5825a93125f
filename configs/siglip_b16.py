"""EVA02-B/16 with the sigmoid loss of SigLIP (arXiv 2303.15343); otherwise nomic_embed_vision_v1_5:best.

    lit-tune train --config=siglip_b16 --workdir=DIR --config.data.train='SHARDS/{00000..00099}.tar'

Not run yet.
"""

from ml_collections import ConfigDict

from lit_tune.configs import common


def get_config() -> ConfigDict:
    """The defaults (EVA02-B/16, pooling map, the published run's batch and schedule) with the sigmoid loss."""
    c = common.get_config()
    c.loss.name = "sigmoid"
    c.loss.logit_scale_init = 2.302585092994046  # ln 10, section 3.2 of the paper
    c.loss.logit_bias_init = -10.0  # the same place: the many negatives do not dominate the first steps
    c.text.source = "cached"  # execution only
    c.data.policy = "reference"
    c.data.min_side, c.data.max_aspect = 0, 0.0  # nothing is refused for its shape there
    return c
