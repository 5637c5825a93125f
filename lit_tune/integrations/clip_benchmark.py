"""clip_benchmark on our exports: its own command line, with open_clip taught to load them.

    python -m lit_tune.integrations.clip_benchmark eval --model local-dir:DIR --pretrained '' \
        --dataset wds/NAME --dataset_root 'ROOT/wds_{dataset_cleaned}' --task zeroshot_classification --no_amp

(`zeroshot_retrieval` likewise; `--no_amp` keeps float32.) All flags, data and metrics are clip_benchmark's. The prefix
is in the tokenizer of the export. clip_benchmark 1.6.2 calls `float()` on arrays of one element, which numpy 2.4 and
later refuse: `register()` gives its classification module a `float` that takes the element out first, as numpy
before 2.4 did. Its code is otherwise untouched, and so are its numbers.
"""

import builtins
import sys
from typing import Any

import numpy as np
from clip_benchmark import cli
from clip_benchmark.metrics import zeroshot_classification

from lit_tune.integrations import open_clip


def register() -> None:
    """Teach open_clip our exports and clip_benchmark numpy 2.4; again does nothing."""
    open_clip.register()
    zeroshot_classification.float = _float


def _float(value: Any = 0.0) -> float:
    """`float`, also of an array of one element."""
    return builtins.float(value.item() if isinstance(value, np.ndarray) else value)


def main() -> int | None:
    """Runs clip_benchmark's command line; returns what it does."""
    register()
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
