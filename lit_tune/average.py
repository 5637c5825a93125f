"""`lit-tune average A B --alpha=0.5 --out=DIR`: a model whose image weights lie between those of two others."""

from lit_tune import cli

if __name__ == "__main__":
    cli.answer_help("average")  # before jax is imported

import sys
from collections.abc import Sequence
from pathlib import Path

from lit_tune import averaging, config as config_lib, console, errors, exports
from lit_tune.export import report

FORMAT = "lit_tune"  # our own names: every tower fits


def main(argv: Sequence[str]) -> int:
    """Writes the model, reads it back and says what to do with it; returns the exit code."""
    flags = config_lib.parse(argv, "average")
    if len(flags.args) != 2:
        raise errors.ConfigError(errors.explain("average", expected="two models, A and B", found=len(flags.args),
                                                do="name two runs (RUN or RUN@STEP), imports or exports"))
    out = Path(flags.out).expanduser()
    exports.refuse_used(out)  # before weights are read
    console.quiet_dependencies()
    a, b = (averaging.find(place) for place in flags.args)
    mean = averaging.average(a, b, flags.alpha, out.resolve().name)
    proof = exports.export(mean, FORMAT, out)
    console.say(f"average   {mean.facts['vision']['weights']}")
    for line in report(proof, out):
        console.say(line)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
