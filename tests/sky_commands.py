"""Which commands SkyPilot's own parser takes, and the tasks that it makes of them; called in SkyPilot's environment.

Standard input: a list of commands as JSON, each a list of words. The last line of standard output: the tasks of those
that launch something. Nothing is launched, no server of SkyPilot is started. Fails at a word that `sky` does not know.
"""

import json
import sys

from click.testing import CliRunner
from sky.client.cli import command


def main() -> None:
    """See above."""
    launched = []
    command.managed_jobs.launch = lambda dag, *_, **__: launched.append(dag)
    command._async_call_or_wait = lambda *_: (1, None)
    for words in json.load(sys.stdin):
        if words[1:3] == ["jobs", "launch"]:
            done = CliRunner().invoke(command.cli, words[1:], catch_exceptions=False)
            assert done.exit_code == 0, done.output
            continue
        program, rest = command.cli, words[1:]
        while hasattr(program, "commands"):
            program, rest = program.commands[rest[0]], rest[1:]
        program.make_context(" ".join(words[:3]), rest)  # parses, runs nothing
    print(json.dumps([told(task) for dag in launched for task in dag.tasks]))


def told(task: object) -> dict[str, object]:
    """What a task is, as far as a launcher says it."""
    (resources,) = task.resources
    return {"name": task.name, "workdir": task.workdir, "words": task.envs["ARGS"], "chips": resources.accelerators,
            "runtime": resources.accelerator_args["runtime_version"], "place": [resources.region, resources.zone],
            "spot": resources.use_spot, "again": resources.job_recovery["recover_on_exit_codes"]}


main()
