"""`lit-tune import`: PyTorch weights of a tower, or of two, into a folder that every other command reads."""

from lit_tune import cli

if __name__ == "__main__":
    cli.answer_help("import")  # before anything below imports jax

import sys
from collections.abc import Sequence

from lit_tune import config as config_lib, console, importing
from lit_tune.flags import ImportFlags


def main(argv: Sequence[str]) -> int:
    """Runs `lit-tune import`; returns the exit code."""
    flags: ImportFlags = config_lib.parse(argv, "import")
    console.quiet_dependencies()
    towers = importing.import_towers(flags)
    for tower in towers:
        console.say(importing.summary(tower))
    source = towers[0].page["source"]
    console.say(f"weights   {source['weights']}, sha256 {source['sha256'][:16]}..., written to {flags.out}")
    for line in _next_steps(flags.out, {tower.kind for tower in towers}):
        console.say(line)
    return 0


def _next_steps(out: str, kinds: set[str]) -> list[str]:
    """What to type next."""
    if "vision" in kinds:
        lines = [f"lit-tune embed --model={out} --images=PICTURES --out=pictures.npz",
                 f"lit-tune train --config=finetune --config.data.train=FOLDER --config.vision.init_from={out} "
                 "--workdir=runs/mine"]
    else:
        lines = [f"lit-tune embed --model={out} --texts=FILE --out=texts.npz"]
    return [f"{'next' if number == 0 else '':<9} {line}" for number, line in enumerate(lines)]


if __name__ == "__main__":
    sys.exit(cli.run(main))
