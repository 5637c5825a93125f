"""What gcloud says of queued resources and of the machines of a slice, for a `fake_cloud.Cloud` to play."""

import json

from fake_cloud import PLAN, Cloud

HOSTS = 4  # of v6e-16
NO_SUCH = {"code": 1, "error": "ERROR: NOT_FOUND: Resource 'projects/p/queuedResources/lit' was not found"}
QUOTA = "Quota limit 'TPUV6EPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 8 in zone us-east5-b."
STOCKOUT = "There is no more capacity in the zone \"us-east5-b\"; you can try in another zone"


def state(name: str, why: str = "") -> str:
    """What `describe` says of a request."""
    failed = {"failedData": {"error": {"code": 8, "message": why}}} if why else {}
    return json.dumps({"state": {"state": name, **failed}})


def workers(*states: str) -> str:
    """What `worker.sh state` says on machines 0, 1, ..."""
    return "".join(f"lit-tune-worker w-{i} {one}\n" for i, one in enumerate(states))


def well(states: list, **more: list) -> dict[str, list]:
    """A scenario with the answers of `describe`; `more` come first."""
    usual = {"^lit-tune plan": [json.dumps(PLAN)], "queued-resources describe": states,
             "buckets describe": ["US-EAST5\n"], "worker.sh state": [workers(*["ended 0"] * HOSTS)]}
    return more | {pattern: answers for pattern, answers in usual.items() if pattern not in more}


def creations(cloud: Cloud) -> int:
    """How often a request was made."""
    return len(cloud.calls("queued-resources", "create"))
