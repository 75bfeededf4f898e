"""Make request bodies of arguments and stdin."""

import os
import sys
from typing import Any

from runtimectl.errors import UsageProblem

MAX_STDIN_BYTES = 64 << 20

Json = dict[str, Any]


def read_stdin() -> bytes:
    """Read all of stdin. Raises UsageProblem if it is closed or a terminal, and for more than MAX_STDIN_BYTES."""
    if sys.stdin is None:
        raise UsageProblem("stdin: expected a pipe or a file, but it is closed")
    if sys.stdin.isatty():
        raise UsageProblem("stdin: expected a pipe or a file, got a terminal")
    found = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(found) > MAX_STDIN_BYTES:
        raise UsageProblem(f"stdin: expected at most {MAX_STDIN_BYTES} bytes")
    return found


def create_request(
    *,
    profile: str | None,
    task: str | None,
    role: str | None,
    purpose: str | None,
    bundle: str | None,
    capabilities: tuple[str, ...],
    directory: str | None,
    workspaces: tuple[str, ...],
    mounts: tuple[str, ...],
    name: str | None,
    labels: tuple[str, ...],
) -> Json:
    """Return a CreateWorkerRequest of the options of `workers create`. Raises UsageProblem for an invalid one."""
    fields: Json = {
        "intent": _intent(task, role, purpose),
        "profile": None if profile is None else profile_selector(profile),
        "config_bundle": None if bundle is None else parse_bundle_reference(bundle),
        "requested_capabilities": [{"name": name} for name in capabilities],
        "workspace_refs": [*_directory(directory), *(_reference("--workspace", given) for given in workspaces)],
        "mount_refs": [_reference("--mount", given) for given in mounts],
        "name": name,
        "labels": parse_labels(labels),
    }
    return {field: value for field, value in fields.items() if value or value == ""}


def parse_labels(given: tuple[str, ...]) -> dict[str, str]:
    """Return labels by key. Raises UsageProblem if one is not K=V, or a key has two values."""
    labels: dict[str, str] = {}
    for label in given:
        key, equals, value = label.partition("=")
        if not key or not equals or labels.setdefault(key, value) != value:
            raise UsageProblem(f"--label: expected K=V with one value for each K, got {label!r}")
    return labels


def parse_bundle_reference(given: str) -> Json:
    """Return the reference that ID@DIGEST stands for. Raises UsageProblem for another form."""
    bundle_id, at, digest = given.rpartition("@")
    if not (bundle_id and at and digest):
        raise UsageProblem(f"bundle: expected ID@DIGEST, got {given!r}")
    return {"id": bundle_id, "digest": digest}


def _intent(task: str | None, role: str | None, purpose: str | None) -> Json | None:
    if task is not None:
        if role is not None or purpose is not None:
            raise UsageProblem("--task: cannot be combined with --role or --purpose")
        return {"kind": "task", "objective": task}
    optional = {} if purpose is None else {"purpose": purpose}
    if role is not None:
        return {"kind": "role", "role": role, **optional}
    return {"kind": "assistant", **optional} if optional else None


def profile_selector(selector: str) -> Json:
    """Return the profile that `default`, `builtin:NAME` or the NAME of a bundle's profile selects."""
    if selector == "default":
        return {"kind": "runtime_default"}
    return {"kind": "builtin" if selector.startswith("builtin:") else "named", "value": selector}


def _directory(given: str | None) -> list[Json]:
    """Return the workspace of `--dir`: its absolute path without links, which is what the daemon compares."""
    return [] if given is None else [{"name": "cwd", "reference": f"dir:{os.path.realpath(given)}"}]


def _reference(option: str, given: str) -> Json:
    name, equals, reference = given.partition("=")
    if not (name and equals and reference):
        raise UsageProblem(f"{option}: expected NAME=REF, got {given!r}")
    return {"name": name, "reference": reference}
