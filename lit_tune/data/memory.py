"""Memory of a host for the batches that are made ahead (docs/input-speed.md). No jax."""

from ml_collections import ConfigDict


def batches_ahead(data: ConfigDict) -> int:
    """Host batches that one decoding process keeps ready: `config.data.prefetch` is for all of them together."""
    return max(-(-data.prefetch // max(1, data.workers)), data.threads)


def batch_bytes(config: ConfigDict, rows: int) -> int:
    """Pictures of one host batch, bytes.

    Args:
        config: the run's.
        rows: pairs of the global batch that this host makes.
    """
    height, width = config.vision.image_size
    side = config.data.canvas
    return rows * 3 * (side * side if config.data.resize_on == "device" else height * width)


def host_bytes(config: ConfigDict, rows: int) -> int:
    """What a host holds at most for its input: batches ready, one in each thread, one on its way to the devices, a
    decoded picture a thread, and the cache of decoded pictures.

    Args:
        config: the run's.
        rows: pairs of the global batch that this host makes.
    """
    data = config.data
    decoders = max(1, data.workers)
    batches = decoders * (batches_ahead(data) + data.threads) + 1
    pictures = decoders * (data.threads * 3 * data.max_pixels + (data.cache_decoded_mib << 20))
    return batches * batch_bytes(config, rows) + pictures
