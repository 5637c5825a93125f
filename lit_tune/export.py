"""`lit-tune export`: towers as a folder that other packages load, every file of weights proved while it is written."""

from lit_tune import cli

if __name__ == "__main__":
    cli.answer_help("export")  # before jax is imported

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_tune import config as config_lib, console, errors, exports
from lit_tune.exports import card, source as sources
from lit_tune.exports.parts import Source
from lit_tune.flags import ExportFlags


def main(argv: Sequence[str]) -> int:
    """Writes the export, proves it and says what to do with it; returns the exit code."""
    flags = config_lib.parse(argv, "export")
    format, out = exports.known(flags.format), Path(flags.out).expanduser()
    exports.refuse_used(out)  # before weights are read
    console.quiet_dependencies()
    proof = exports.export(find(flags), format, out)
    for line in report(proof, out):
        console.say(line)
    return 0


def find(flags: ExportFlags) -> Source:
    """What the flags name.

    Raises:
        ConfigError: neither or both of --workdir and --model, or nothing of the kind there.
    """
    if (flags.workdir is None) == (flags.model is None):
        raise errors.ConfigError(errors.explain(
            "export", expected="--workdir=RUN or --model=DIR", found="both" if flags.workdir else "neither",
            do="name a run, or an import or export"))
    if flags.workdir is not None:
        return sources.of_run(Path(flags.workdir).expanduser(), flags.step, flags.name or "")
    if flags.step is not None:
        raise errors.ConfigError(errors.explain("--step", expected="--workdir=RUN beside it", found="--model",
                                                do="leave it out: only runs have steps"))
    return sources.of_folder(Path(flags.model).expanduser(), flags.name or "")


def report(proof: dict[str, Any], out: Path) -> list[str]:
    """The lines that say what was written, how far it is from our own vectors by whom, and what to type next."""
    lines = [f"export    {out}: {proof['format']}, {len(proof['files']) + 1} files, card in README.md"]
    for one in proof["checks"]:
        who = ", ".join(f"{c['who']} {c['max_difference']:.1e}" for c in one["checked_by"])
        lines.append(f"proved    {one['what']} ({one['file']}): largest difference {who}")
        lines += [f"          not asked: {name}, {why}" for name, why in one["not_asked"].items()]
    if "frozen_text" in proof:
        frozen = proof["frozen_text"]
        how = "unchanged" if frozen["unchanged"] else "compared by their vectors only"
        lines.append(f"text      frozen weights {how}, sha256 {frozen['params_sha256_before'][:16]}...")
    else:
        lines.append(f"text      none: {card.whose_space(proof)}")
    commands = card.commands(out, proof)
    return lines + [f"{'next' if i == 0 else '':<10}{command}" for i, command in enumerate(commands)]


if __name__ == "__main__":
    sys.exit(cli.run(main))
