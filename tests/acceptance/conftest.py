"""What the contract says, as data: the shape of every object, and how a bundle is made."""

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

Shaped = Callable[[Any, str], None]
MakeBundle = Callable[..., dict[str, Any]]

CURSOR = re.compile(r"wo_[0-9a-f]{16}")
WORKER_ID = re.compile(r"worker-[0-9a-f]{8}")
DIGEST = re.compile(r"[0-9a-f]{64}")
NOTHING = type(None)

REF = {"runtime_id": str, "worker_id": WORKER_ID}
RUN_STATE = {"unconnected", "idle", "busy", "rejected", "errored", "stopped"}
SANDBOX = {
    "mechanism": {"bubblewrap", "landlock", "none"},
    "network": {"none", "public", "host", "allow-list"},
}
EXECUTION = {
    "backend": {"unconnected", "connected"},
    "run_state": RUN_STATE,
    "last_result?": {
        "operation": {"spawn", "input", "stop", "cancel"},
        "outcome": {"accepted", "busy", "rejected", "errored", "unsupported"},
        "run_state": RUN_STATE,
        "message?": str,
    },
    "sandbox?": SANDBOX,
}
INTENTS = {
    "assistant": {"kind": {"assistant"}, "purpose?": str},
    "task": {"kind": {"task"}, "objective": str},
    "role": {"kind": {"role"}, "role": str, "purpose?": str},
}
PROFILES = {
    "runtime_default": {"kind": {"runtime_default"}},
    "builtin": {"kind": {"builtin"}, "value": str},
    "named": {"kind": {"named"}, "value": str},
}
WORKER = {
    "worker_ref": REF,
    "runtime_id": str,
    "worker_id": WORKER_ID,
    "status": {"running", "stopped", "cancelled"},
    "execution": EXECUTION,
    "intent": lambda value: INTENTS[value["kind"]],
    "profile": lambda value: PROFILES[value["kind"]],
    "transcript_len": int,
    "last_event_id": int,
    "last_cursor": CURSOR,
    "created_at_ms": int,
    "name?": str,
    "labels?": lambda value: dict.fromkeys(value, str),
    "title?": str,
    "tenant?": str,
}
REFS = [{"name": str, "reference": str}]
ITEM = {
    "sequence": int,
    "worker_ref": REF,
    "role": {"user", "assistant", "system"},
    "content": str,
    "event_id": int,
    "cursor": CURSOR,
    "timestamp_ms": int,
}
PROVENANCE = {"source": str, "detail?": str}
BUNDLE_SUMMARY = {
    "id": str,
    "digest": DIGEST,
    "digest_algorithm": {"sha256"},
    "revision": str,
    "workspace_id": str,
    "created_at": str,
    "provenance": PROVENANCE,
    "profile_count": int,
    "declaration_count": int,
    "tenant?": str,
}
BLOCKS = {
    "text": {"kind": {"text"}, "text": str, "finished?": bool, "truncated?": bool},
    "thinking": {"kind": {"thinking"}, "text": str, "finished?": bool, "truncated?": bool},
    "tool_call": {
        "kind": {"tool_call"},
        "id": str,
        "name": str,
        "args": str,
        "state?": {"pending", "streaming_args", "done"},
        "truncated?": bool,
    },
}
GREETING = {
    "worker_name": str,
    "cwd": {""},
    "provider": str,
    "model": str,
    "scope_summary": str,
    "tools": [str],
    "context_window": int,
    "context_tokens": int,
}
STATUS = {"idle", "running", "paused"}
ERRORS = {
    "already_running",
    "not_running",
    "not_paused",
    "provider_error",
    "tool_error",
    "invalid_request",
    "internal",
}
LOSSES = {"exit", "oom", "processes", "cpu", "disk", "output", "timeout", "silence", "protocol", "unresponsive"}
PERMISSION = {
    "request_id": str,
    "title": str,
    "tool_call_id": (str, NOTHING),
    "options": [
        {"option_id": str, "name": str, "kind": {"allow_once", "allow_always", "reject_once", "reject_always"}}
    ],
    "expires_at": str,
    "session_id?": str,
    "tool_kind?": str,
    "schema?": dict,
}
PAYLOADS: dict[str, Any] = {
    "user_message": {"segments": [{"kind": {"text"}, "content": str}]},
    "system_item": {"item": dict},
    "invoke_start": {"kind": {"user_send", "notify", "worker_event", "system_reminder", "wakeup"}},
    "turn_start": {"turn": int},
    "turn_end": {"turn": int, "result": {"finished", "paused"}},
    "llm_call_start": {"llm_call": int},
    "llm_call_end": {"llm_call": int},
    "text_delta": {"text": str},
    "text_done": {"text": str},
    "thinking_start": None,
    "thinking_delta": {"text": str},
    "thinking_done": {"text": str},
    "tool_call_start": {"id": str, "name": str},
    "tool_call_args_delta": {"id": str, "json": str},
    "tool_call_done": {"id": str, "name": str, "arguments": str},
    "tool_result": {"id": str, "summary": str, "output?": str, "is_error": bool, "exit_status?": int},
    "usage": {
        "input_tokens": (int, NOTHING),
        "output_tokens": (int, NOTHING),
        "cache_read_input_tokens?": (int, NOTHING),
        "source?": {"agent", "provider"},
        "context_tokens?": int,
        "context_window?": int,
        "cost?": {"amount": float, "currency": str},
    },
    "run_end": {"result": {"finished", "paused", "limit_reached", "rolled_back"}},
    "error": {"code": ERRORS, "message": str, "reason?": LOSSES},
    "snapshot": {
        "entries": [ITEM],
        "greeting": GREETING,
        "status": STATUS,
        "in_flight?": {"blocks": [lambda value: BLOCKS[value["kind"]]]},
        "permissions?": [PERMISSION],
    },
    "status": {"status": STATUS},
    "alert": {
        "level": {"warn", "error"},
        "source": {"worker", "engine", "compactor", "agents_md"},
        "message": str,
        "timestamp_ms": int,
    },
    "shutdown": None,
}


def _payload(value: dict[str, Any]) -> dict[str, Any]:
    data = PAYLOADS[value["event"]]
    return {"event": str} | ({"data": data} if data else {})


FRAMES = {
    "event": {
        "kind": str,
        "envelope": {
            "cursor": CURSOR,
            "event_id": str,
            "worker_id": WORKER_ID,
            "timestamp_ms": int,
            "payload": _payload,
        },
    },
    "diagnostic": {"kind": str, "diagnostic": {"code": re.compile(r"runtime\.[a-z_]+"), "message": str}},
    "heartbeat": {"kind": str, "head": CURSOR},
}
SHAPES: dict[str, Any] = {
    "RuntimeSummary": {
        "runtime_id": str,
        "display_name": (str, NOTHING),
        "backend": {"memory", "fs_store"},
        "store?": {"memory", "fs"},
        "sandbox?": SANDBOX,
        "status": {"running", "stopped"},
        "worker_count": int,
        "active_worker_count": int,
        "stopped_worker_count": int,
        "cancelled_worker_count": int,
        "diagnostic_count": int,
        "limits": {"max_transcript_projection_items": int, "max_event_batch_items": int},
    },
    "WorkerDetail": WORKER
    | {
        "config_bundle?": {"id": str, "digest": DIGEST},
        "requested_capabilities?": [{"name": str, "reason?": str}],
        "workspace_refs?": REFS,
        "mount_refs?": REFS,
        "oldest_cursor?": CURSOR,
        "queued_inputs?": int,
        "commands?": [{"name": str, "description?": str, "hint?": str}],
    },
    "WorkerSummary": WORKER | {"requested_capability_count": int, "has_config_bundle": bool},
    "InteractionAck": {
        "worker_ref": REF,
        "status": WORKER["status"],
        "transcript_sequence": int,
        "event_id": int,
        "cursor": CURSOR,
        "queued?": bool,
    },
    "LifecycleAck": {"worker_ref": REF, "status": WORKER["status"], "event_id": int, "cursor": CURSOR},
    "TranscriptProjection": {
        "worker_ref": REF,
        "start": int,
        "limit": int,
        "total_items": int,
        "items": [ITEM],
        "next_start": (int, NOTHING),
    },
    "ConfigBundleSummary": BUNDLE_SUMMARY,
    "Availability": {"reference": {"id": str, "digest": DIGEST}, "summary": BUNDLE_SUMMARY},
    "RuntimeEvent": {
        "id": int,
        "kind": {
            "runtime_started",
            "runtime_stopped",
            "worker_created",
            "worker_input_accepted",
            "worker_stopped",
            "worker_cancelled",
        },
        "timestamp_ms": int,
        "worker_id?": WORKER_ID,
        "event_id?": int,
        "cursor?": CURSOR,
        "tenant?": str,
        "by?": str,
    },
    "StoreCheck": {
        "workers": int,
        "entries": int,
        "events": int,
        "findings": [{"problem": str, "worker_id?": WORKER_ID}],
    },
    "Diagnostic": {
        "code": str,
        "severity": {"info", "warning", "error"},
        "message": str,
        "worker_id?": WORKER_ID,
    },
    "Drain": {"runs": int, "deadline_ms": int},
    "Error": {"error": {"code": re.compile(r"[a-z_]+"), "message": str}},
    "Frame": lambda value: FRAMES[value["kind"]],
}


def check(value: Any, shape: Any, path: str = "$") -> None:
    """Decode as strictly as clients do: exact keys (`name?` may be left out), exact types, closed sets."""
    if isinstance(shape, dict):
        _check_object(value, shape, path)
    elif isinstance(shape, list):
        assert isinstance(value, list), path
        for index, item in enumerate(value):
            check(item, shape[0], f"{path}[{index}]")
    elif isinstance(shape, set):
        assert value in shape, path
    elif isinstance(shape, re.Pattern):
        assert isinstance(value, str), path
        assert shape.fullmatch(value), path
    elif isinstance(shape, type | tuple):
        assert type(value) in (shape if isinstance(shape, tuple) else (shape,)), path
    else:
        check(value, shape(value), path)


def _check_object(value: Any, shape: Mapping[str, Any], path: str) -> None:
    assert isinstance(value, dict), path
    shapes = {name.removesuffix("?"): inner for name, inner in shape.items()}
    assert {name for name in shape if not name.endswith("?")} <= set(value) <= set(shapes), path
    for name, inner in value.items():
        check(inner, shapes[name], f"{path}.{name}")


@pytest.fixture(scope="session")
def shaped() -> Shaped:
    """Assert that a value has one of the contract's shapes, by name."""
    return lambda value, name: check(value, SHAPES[name])


@pytest.fixture(scope="session")
def bundle() -> MakeBundle:
    """Make config bundles; `digest` is computed unless given."""
    return make_bundle


def make_bundle(**given: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "id": given.pop("id", None) or f"bundle-{secrets.token_hex(6)}",
        "revision": "rev-1",
        "workspace_id": "workspace-1",
        "created_at": "2026-06-26T00:00:00Z",
        "provenance": {"source": "test"},
    }
    lists: dict[str, Any] = {name: given.pop(name) for name in ("profiles", "declarations") if name in given}
    metadata |= given
    metadata.setdefault("digest", digest_of(metadata, **lists))
    return {"metadata": metadata, **lists}


def digest_of(metadata: Mapping[str, Any], profiles: Sequence[Any] = (), declarations: Sequence[Any] = ()) -> str:
    """The digest of contract section 5, written from its text alone."""
    lines: list[tuple[str, ...]] = [
        (name, metadata[name]) for name in ("id", "revision", "workspace_id", "created_at")
    ]
    lines += [(f"provenance.{name}", metadata["provenance"].get(name) or "") for name in ("source", "detail")]
    lines += [
        (
            "profile",
            *(one["selector"][key] for key in ("kind", "value") if key in one["selector"]),
            one.get("label") or "",
        )
        for one in profiles
    ]
    lines += [("declaration", one["kind"], one["name"], one["reference"]) for one in declarations]
    encoded = sorted("\0".join(line).encode("utf-8", "surrogatepass") for line in lines)
    return hashlib.sha256(b"".join(line + b"\n" for line in encoded)).hexdigest()
