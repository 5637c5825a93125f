"""Results of two small systems, as an evaluation leaves them behind: a run with two steps and a model folder."""

import json

from lit_tune.evals.catalog import TASKS
from lit_tune.evals.results import Result, write_results

SETTINGS = {"data_sha256": "d" * 64, "samples": 50_000, "classes": 1000, "classes_sha256": "c" * 64, "templates": 80,
            "templates_sha256": "e" * 64, "clean": True, "prompt": "search_query: ", "own_prompt": "search_query: ",
            "resize": "bicubic", "policy": "reference", "image_size": 224, "crop_pct": 1.0, "dtype": "bfloat16",
            "max_length": 77, "dim": 768, "versions": {"lit_tune": "0.1.0"}}  # fmt: skip
RETRIEVAL = {key: value for key, value in SETTINGS.items() if not key.startswith(("classes", "templates", "clean"))}


def result(name, value, half=None, settings=SETTINGS, **changed):
    """One task's record: its main metric with an interval of `half` both ways, some settings changed or (None) absent.
    """
    metric = TASKS[name].main_metric if name in TASKS else "acc1"
    metrics = {metric: value, "main_metric": value}
    if half is not None:
        metrics |= {f"{metric}_low": value - half, f"{metric}_high": value + half}
    every = {key: one for key, one in (settings | changed).items() if one is not None}
    key, title = (TASKS[name].key, TASKS[name].title) if name in TASKS else (name, name)
    return Result(name, key, title, metrics, every, system={"vision_sha256": "a1b2c3d4e5f6a7b8", "step": 200})


def _of_system(changed):
    """Those of the changed settings that belong to the system and not to the task."""
    return {key: value for key, value in changed.items() if key in ("prompt", "own_prompt", "resize", "dtype")}


def ours(shift=0.0, **changed):
    """ImageNet, the distribution shifts, Flickr and a task of the user's own."""
    zero_shot = {"imagenet": 0.702, "imagenet_sketch": 0.551, "imagenetv2": 0.634, "imagenet-a": 0.447,
                 "imagenet-o": 0.421, "imagenet-r": 0.798, "objectnet": 0.559}  # fmt: skip
    every = [result(name, value + shift, 0.004, **changed) for name, value in zero_shot.items()]
    every += [result("flickr30k", 0.731 + shift, 0.018, RETRIEVAL, samples=1000, **_of_system(changed)),
              result("screws", 0.64 + shift, 0.03, **_of_system(changed))]  # fmt: skip
    return every


def write_run(folder):
    """A run whose newest step with results is 200; its eval/300.json is of a step without figures."""
    (folder / "eval" / "200").mkdir(parents=True)
    write_results(folder / "eval" / "200" / "eval_results.jsonl", ours())
    flat = {"val/unseen/zeroshot/top1": 0.5, "val/unseen/zeroshot/top1_low": 0.4, "val/unseen/zeroshot/top1_high": 0.6,
            "val/imagenet/zeroshot/top1": 0.1}  # fmt: skip
    (folder / "eval" / "200.json").write_text(json.dumps({"step": 200, **flat}))
    (folder / "eval" / "100.json").write_text(json.dumps({"step": 100, **flat}))
    (folder / "eval" / "300.json").write_text(json.dumps({"step": 300, "train/loss": 1.0}))
    return folder


def write_model(folder, results):
    """A model folder with results."""
    (folder / "eval").mkdir(parents=True)
    write_results(folder / "eval" / "eval_results.jsonl", results)
    return folder
