"""`lit-tune doctor`: what stands between this machine and a run, each in one line: what, expected, found, what to do.

Exit code 0 where nothing does, warnings or not, else 2. It needs no network, and ends whatever the devices do.
"""

import json
import shlex
import sys
from collections.abc import Sequence

from lit_tune import cli, config as config_lib, flag_reading
from lit_tune.flags import DoctorFlags
from lit_tune.redaction import redact


def main(argv: Sequence[str]) -> int:
    """Runs `lit-tune doctor`: prints a page, or JSON; returns the exit code."""
    flags: DoctorFlags = config_lib.parse(argv, "doctor")
    values, changes = flag_reading.read(argv, "doctor")
    name = ""
    if flags.config is not None:
        name = " ".join(shlex.quote(word) for word in
                        [values["config"], *(f"--config.{key}={text}" for key, text in changes)])
    from lit_tune.checkup import examine, probe  # only here: packages that are broken must not stop the help

    wait = probe.IMPORT_SECONDS + probe.SECONDS
    print(f"lit-tune doctor: asking jax for its devices, at most {wait:.0f} s", file=sys.stderr, flush=True)
    report = examine.examine(flags.config, name)
    page = json.dumps(report.as_json(), indent=1) if flags.json else "\n".join(report.lines())
    print(redact(page))
    return report.exit_code


if __name__ == "__main__":
    sys.exit(cli.run(main))
