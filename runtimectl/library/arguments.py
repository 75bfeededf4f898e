"""Make request bodies of the arguments of the library."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runtimectl.client.paths import given
from runtimectl.client.requests import profile_selector
from runtimectl.client.session import MAX_TIMEOUT_S
from runtimectl.errors import UsageProblem

if TYPE_CHECKING:
    from runtimed.model.interaction import WorkerInput
    from runtimed.model.worker import CapabilityRequest, CreateWorkerRequest, NamedReference, ProfileSelector

Labels = Mapping[str, str] | Sequence[str]
"""Labels by key, or each as `K=V`."""

Decision = str | Mapping[str, Any] | None
"""What answers a permission request: the id of an option, the content of its form, or None to leave it to others."""

Json = dict[str, Any]
MAX_KEY = 255
"""The most characters of an Idempotency-Key."""


def new_key() -> str:
    """Return a new Idempotency-Key."""
    return os.urandom(16).hex()


def idempotency_key(given: str | None) -> str:
    """Return the key of a caller, or a new one. Raises UsageProblem if it is no value of a header."""
    if given is None:
        return new_key()
    if not 0 < len(given) <= MAX_KEY or not all("!" <= character <= "~" for character in given):
        raise UsageProblem(f"idempotency_key: expected 1 to {MAX_KEY} visible ASCII characters")
    return given


def check_times(timeout: float, reconnect_for: float) -> None:
    """Raise UsageProblem unless a client can wait for so many seconds."""
    if not 0 < timeout <= MAX_TIMEOUT_S:
        raise UsageProblem(f"timeout: expected a number of seconds above 0, at most {MAX_TIMEOUT_S}, got {timeout:g}")
    if not reconnect_for >= 0:
        raise UsageProblem(f"reconnect_for: expected a number of seconds, at least 0, got {reconnect_for:g}")


def label_filter(labels: Labels) -> tuple[str, ...]:
    """Return labels as the query of a list has them."""
    if isinstance(labels, str):
        raise UsageProblem("labels: expected an object of labels by key, or a list of K=V")
    return tuple(f"{key}={value}" for key, value in labels.items()) if isinstance(labels, Mapping) else tuple(labels)


def worker_input(
    text: str, kind: str = "user", when_busy: str | None = None, attachments: Sequence[Mapping[str, Any]] = ()
) -> Json:
    """Return a WorkerInput."""
    return {"kind": kind, "content": text, **given(when_busy=when_busy, attachments=tuple(attachments))}


def create_request(
    request: "CreateWorkerRequest | None",
    *,
    profile: "str | ProfileSelector | None",
    capabilities: "Sequence[str | CapabilityRequest]",
    workspaces: "Mapping[str, str] | Sequence[NamedReference]",
    labels: Mapping[str, str] | None,
    name: str | None,
    initial_input: "str | WorkerInput | None",
) -> Json:
    """Return a CreateWorkerRequest. What is given by name replaces the same field of `request`."""
    if isinstance(capabilities, str):
        raise UsageProblem("capabilities: expected a list of names, got a text")
    fields = {} if request is None else _encoded(request)
    named = given(
        profile=_profile(profile),
        requested_capabilities=tuple(map(_capability, capabilities)),
        workspace_refs=_references(workspaces),
        labels=None if labels is None else dict(labels),
        name=name,
        initial_input=worker_input(initial_input) if isinstance(initial_input, str) else _encoded(initial_input),
    )
    return {**fields, **named}


def _profile(profile: "str | ProfileSelector | None") -> Json | None:
    if isinstance(profile, str):
        return profile_selector(profile)
    if profile is None:
        return None
    value = getattr(profile, "value", None)
    return {"kind": profile.kind, **given(value=value)}


def _capability(capability: "str | CapabilityRequest") -> Json:
    return {"name": capability} if isinstance(capability, str) else _encoded(capability)


def _references(references: "Mapping[str, str] | Sequence[NamedReference]") -> tuple[Json, ...]:
    if isinstance(references, Mapping):
        return tuple({"name": name, "reference": reference} for name, reference in references.items())
    return tuple(map(_encoded, references))


def _encoded(value: Any) -> Any:
    from runtimectl.library.decoding import encoded

    return None if value is None else encoded(value)
