"""What is wrong with the JobSets that are given as YAML on standard input: a list of lines for each, as JSON.

Run by a Python that has the descriptions of the API (test_launch_tools.py), which the tests' own need not have. What a
JobSet may hold is told by kubeflow-trainer-api, whose models are made from JobSet's own OpenAPI description; what is in
its Jobs and pods by kubernetes-validate, which ships Kubernetes's schemas. Limits and lists of values that only the
server checks are not among them.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from pydantic import ValidationError


def main() -> None:
    """Print what is wrong."""
    pages = map(without_none, yaml.safe_load_all(sys.stdin))
    json.dump([[*of_jobset(page), *of_jobs(page)] for page in pages], sys.stdout)


def without_none(value: Any) -> Any:
    """The same without keys that have no value: the server takes them for absent."""
    if isinstance(value, dict):
        return {key: without_none(one) for key, one in value.items() if one is not None}
    return [without_none(one) for one in value] if isinstance(value, list) else value


def of_jobset(page: dict[str, Any]) -> Iterator[str]:
    """What JobSet's models say."""
    try:
        known = JobsetV1alpha2JobSet.from_dict(page).to_dict()
    except ValidationError as error:
        yield from (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return
    yield from lost(page, known, "")


def lost(given: Any, known: Any, place: str) -> Iterator[str]:
    """What the models did not take: they leave out keys that they do not know, and add defaults."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            yield from lost(value, known[key], f"{place}.{key}") if key in known else [f"{place}.{key}: unknown"]
    elif isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        for number, pair in enumerate(zip(given, known, strict=True)):
            yield from lost(*pair, f"{place}[{number}]")
    elif given != known:
        yield f"{place}: expected {known!r}, found {given!r}"


def of_jobs(page: dict[str, Any]) -> Iterator[str]:
    """What Kubernetes's schema of a Job says of each template, keys that it does not know included."""
    for replicated in page["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **replicated["template"]}
        try:
            kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{replicated['name']}: {error.message}"


if __name__ == "__main__":
    main()
