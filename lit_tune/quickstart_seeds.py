"""The quick start with several seeds, scored together: the numbers that the README states.

    python -m lit_tune.quickstart_seeds --seeds=0,1,2 --out=runs/seeds

Trains the shipped config once for each seed (a finished run is not trained again), then prints the mean over seeds and
both directions with a 95 % interval over seeds and pictures, and each floor as it stands in the runs.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lit_tune import cli, config as config_lib, errors, rundir, tower
from lit_tune.evals.intervals import seeds_interval
from lit_tune.evals.retrieval import find
from lit_tune.evaluation import sets

KS = (1, 5, 10)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is missing and prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lit_tune.quickstart_seeds", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated whole numbers")
    parser.add_argument("--out", default="runs/seeds", help="folder of the runs, one a seed")
    parser.add_argument("--config", default="quickstart", help="quickstart or quickstart:dev")
    flags = parser.parse_args(argv)
    runs = [train(flags.config, int(seed), Path(flags.out) / f"seed-{seed}") for seed in flags.seeds.split(",")]
    cpu = [last_line(run)["perf/cpu_s"] for run in runs]
    print(f"\n{len(runs)} seeds, {min(cpu):.0f} to {max(cpu):.0f} CPU-seconds of training each")
    for line in table(runs):
        print(line)
    return 0


def train(config: str, seed: int, workdir: Path) -> Path:
    """The folder of a finished run of the config with this seed."""
    command = [sys.executable, "-m", "lit_tune.train", f"--config={config}", f"--workdir={workdir}",
               f"--config.seed={seed}"]
    print(" ".join(command[1:]), flush=True)
    code = subprocess.run(command, check=False).returncode
    if code or not (workdir / "final.json").is_file():
        raise errors.LitTuneError(f"{workdir}: the run ended with exit code {code}")
    return workdir


def last_line(run: Path) -> dict[str, float]:
    """The last training line of a run's metrics.jsonl."""
    return [line for line in rundir.read_metrics(run) if line["kind"] == "train"][-1]


def table(runs: Sequence[Path]) -> list[str]:
    """A line for each set and K: mean of seeds and directions, interval, floors."""
    config = config_lib.from_json((runs[0] / "config.json").read_text())
    _, meta = tower.read_state(runs[0])
    prepared = sets.prepare(config, tower.text_of_run(config, meta).encode, None)
    scores = json.loads((runs[0] / "final.json").read_text())["eval"]
    lines = []
    for one in prepared:
        answers = [answers_of(run, one) for run in runs]
        keeps = {"": np.ones(len(one.rows), bool)}
        if one.eval_set.strict is not None:
            keeps["_strict"] = one.eval_set.strict
        for suffix, keep in keeps.items():
            lines += set_lines(one.eval_set.name + suffix, np.stack([a[:, keep] for a in answers]), scores)
    return lines


def answers_of(run: Path, prepared: sets.Prepared) -> np.ndarray:
    """(KS, n) share of the two directions in which each picture of a set is a hit; every picture has one caption."""
    model = tower.load(run)
    pixels = list(sets.pictures(prepared.source, prepared.rows, prepared.picture))
    s = prepared.eval_set
    to_image, to_text = find(model.vision.embed_pixels(np.stack(pixels)), s.ztxt, s.owner, s.caption_group)
    return np.stack([(to_image.hits(k).astype(float) + to_text.hits(k)) / 2 for k in KS])


def set_lines(name: str, values: np.ndarray, scores: dict[str, float]) -> list[str]:
    """The lines of one set. `values` (seeds, KS, n)."""
    ends = seeds_interval(values, np.arange(values.shape[2]))
    lines = [f"{name} ({values.shape[2]} pictures)"]
    for i, k in enumerate(KS):
        beside = {suffix: np.mean([scores[f"val/{name}/{direction}_recall@{k}_{suffix}"]
                                   for direction in ("image_retrieval", "text_retrieval")])
                  for suffix in ("chance", "floor_pixels", "floor_group_oracle", "ceiling_text")
                  if f"val/{name}/image_retrieval_recall@{k}_{suffix}" in scores}
        each = " ".join(f"{100 * v:.1f}" for v in values.mean(axis=2)[:, i])
        floors = "  ".join(f"{suffix.removeprefix('floor_')} {100 * v:.1f}" for suffix, v in beside.items())
        lines.append(f"  R@{k:<3} {100 * values[:, i].mean():5.1f} [{100 * ends[i][0]:.1f}, {100 * ends[i][1]:.1f}]"
                     f"  seeds {each}  {floors}")
    return lines


if __name__ == "__main__":
    sys.exit(cli.run(main))
