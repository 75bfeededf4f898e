"""Requests out of what is typed."""

from typing import Any

from runtimectl.errors import UsageProblem

Json = dict[str, Any]


def create_request(
    *,
    profile: str | None,
    task: str | None,
    role: str | None,
    purpose: str | None,
    bundle: str | None,
    capabilities: tuple[str, ...],
    workspaces: tuple[str, ...],
    mounts: tuple[str, ...],
    name: str | None,
    labels: tuple[str, ...],
) -> Json:
    """A CreateWorkerRequest; what was not said is left out. Raises UsageProblem."""
    found: Json = {
        "intent": _intent(task, role, purpose),
        "profile": None if profile is None else _profile(profile),
        "config_bundle": None if bundle is None else bundle_reference(bundle),
        "requested_capabilities": [{"name": name} for name in capabilities],
        "workspace_refs": [_reference("--workspace", given) for given in workspaces],
        "mount_refs": [_reference("--mount", given) for given in mounts],
        "name": name,
        "labels": check_labels(labels),
    }
    return {field: value for field, value in found.items() if value or value == ""}


def check_labels(given: tuple[str, ...]) -> dict[str, str]:
    """Labels, each as K=V. Raises UsageProblem."""
    labels: dict[str, str] = {}
    for label in given:
        key, equals, value = label.partition("=")
        if not key or not equals or labels.setdefault(key, value) != value:
            raise UsageProblem(f"--label: expected K=V, each K once, got {label!r}")
    return labels


def bundle_reference(given: str) -> Json:
    """`ID@DIGEST` as a reference. Raises UsageProblem."""
    bundle_id, at, digest = given.rpartition("@")
    if not (bundle_id and at and digest):
        raise UsageProblem(f"bundle: expected ID@DIGEST, got {given!r}")
    return {"id": bundle_id, "digest": digest}


def _intent(task: str | None, role: str | None, purpose: str | None) -> Json | None:
    if task is not None:
        if role is not None or purpose is not None:
            raise UsageProblem("--task: expected alone, without --role and --purpose")
        return {"kind": "task", "objective": task}
    said = {} if purpose is None else {"purpose": purpose}
    if role is not None:
        return {"kind": "role", "role": role, **said}
    return {"kind": "assistant", **said} if said else None


def _profile(selector: str) -> Json:
    if selector == "default":
        return {"kind": "runtime_default"}
    return {"kind": "builtin" if selector.startswith("builtin:") else "named", "value": selector}


def _reference(option: str, given: str) -> Json:
    name, equals, reference = given.partition("=")
    if not (name and equals and reference):
        raise UsageProblem(f"{option}: expected NAME=REF, got {given!r}")
    return {"name": name, "reference": reference}
