"""The converter: strict reading, and writing that can be read again."""

import contextlib
import json
import tracemalloc
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimed.errors import InvalidJson
from runtimed.model.event import (
    Greeting,
    InFlight,
    Payload,
    Shutdown,
    Snapshot,
    SystemItem,
    TextBlock,
    TextDelta,
    TextSegment,
    ThinkingStart,
    ToolCallBlock,
    ToolResult,
    Usage,
    UserMessage,
)
from runtimed.model.execution import Execution
from runtimed.model.worker import BuiltinProfile, CreateWorkerRequest, RoleIntent
from runtimed.wire.converter import decode, encode, encode_payload, restore_payload
from runtimed.wire.json import MAX_DEPTH


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"profile":{"kind":"other"}}', "profile.kind"),
        (b'{"profile":{"kind":"named"}}', "profile.value"),
        (b'{"profile":{"kind":"named","value":3}}', "profile.value"),
        (b'{"profile":{"kind":"named","value":"a","more":1}}', "profile.more"),
        (b'{"profile":{"kind":"runtime_default","value":"a"}}', "profile.value"),
        (b'{"profile":{"kind":"builtin","kind":"named"}}', "profile.kind"),
        (b'{"profile":{}}', "profile.kind"),
        (b'{"profile":[]}', "profile"),
        (b'{"intent":{"kind":{}}}', "intent.kind"),
        (b'{"intent":{"kind":"task"}}', "intent.objective"),
        (b'{"intent":{"kind":"assistant","purpose":true}}', "intent.purpose"),
        (b'{"requested_capabilities":[{"name":"a"},{"name":1}]}', "requested_capabilities[1].name"),
        (b'{"requested_capabilities":[{"name":"a","name":"b"}]}', "requested_capabilities[0].name"),
        (b'{"requested_capabilities":{}}', "requested_capabilities"),
        (b'{"workspace_refs":"abc"}', "workspace_refs"),
        (b'{"config_bundle":{"id":"a"}}', "config_bundle.digest"),
        (b'{"intent":{"kind":"task","objective":"\\ud800"}}', "intent.objective"),
        (b'{"surprise":1}', "surprise"),
    ],
)
def test_an_error_names_the_path_of_the_wrong_field(body: bytes, path: str) -> None:
    with pytest.raises(InvalidJson) as refusal:
        decode(body, CreateWorkerRequest)
    assert refusal.value.path == path
    assert refusal.value.message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        b"[null]",
        b"null",
        b"3",
        b'"text"',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b"{'a':1}",
        b'{"a":1,}',
        b"\xff\xfe",
        b'\xef\xbb\xbf{"intent":{}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 5_000,
        b'{"a":' + b"1" * 5_000 + b"}",
        b'{"a":1.' + b"1" * 5_000 + b"}",
        b'{"a":"\x00"}',
    ],
)
def test_a_body_that_is_no_json_object_is_refused_in_one_line(body: bytes) -> None:
    with pytest.raises(InvalidJson) as refusal:
        decode(body, CreateWorkerRequest)
    assert "\n" not in refusal.value.message
    assert len(refusal.value.message) < 200


def test_nesting_is_accepted_up_to_the_limit_and_refused_beyond_it() -> None:
    deep = b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)
    with pytest.raises(InvalidJson, match="nested too deeply"):
        decode(deep, CreateWorkerRequest)
    with pytest.raises(InvalidJson, match="expected an object, got an array"):
        decode(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, CreateWorkerRequest)


@pytest.mark.parametrize("body", [b"[" + b"0," * 10_000 + b"0]", b"[" + b"[]," * 10_000 + b"[]]"])
def test_a_body_of_very_many_values_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson, match="too many values"):
        decode(body, CreateWorkerRequest)


def test_a_stored_payload_holds_on_to_no_more_memory_than_it_needs() -> None:
    """Only tracemalloc shows what an allocation really takes, and only for the whole process.

    The first call makes the permanent allocations; others are small next to so many payloads.
    """
    encode_payload(TextDelta("x"))
    tracemalloc.start()
    try:
        kept = [encode_payload(TextDelta("x")) for _ in range(20_000)]
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / len(kept) < 300


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused_as_invalid_json(body: bytes) -> None:
    with contextlib.suppress(InvalidJson):
        decode(body, CreateWorkerRequest)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "value", "purpose"]), inner)
        ),
        max_leaves=12,
    )
)
def test_any_json_is_decoded_or_refused_as_invalid_json(value: Any) -> None:
    with contextlib.suppress(InvalidJson):
        decode(json.dumps({"profile": value, "intent": value}).encode(), CreateWorkerRequest)


def test_null_means_unset_for_an_optional_field() -> None:
    assert decode(b'{"config_bundle":null,"intent":{"kind":"assistant","purpose":null}}', CreateWorkerRequest) == (
        CreateWorkerRequest()
    )


def test_a_member_of_a_union_is_written_with_its_tag() -> None:
    request = CreateWorkerRequest(intent=RoleIntent("reviewer"), profile=BuiltinProfile("builtin:echo"))
    assert encode(request) == (
        b'{"intent":{"kind":"role","role":"reviewer"},"profile":{"kind":"builtin","value":"builtin:echo"}}'
    )
    assert decode(encode(request), CreateWorkerRequest) == request


def test_fields_without_a_default_are_written_even_when_they_are_null() -> None:
    assert encode(Usage(None, 3)) == b'{"input_tokens":null,"output_tokens":3}'
    assert encode(Execution("unconnected", "unconnected")) == b'{"backend":"unconnected","run_state":"unconnected"}'


@pytest.mark.parametrize(
    "payload",
    [
        UserMessage((TextSegment("hi"), TextSegment("there"))),
        SystemItem({"kind": "plan", "steps": [1, {"done": None}]}),
        ThinkingStart(),
        Shutdown(),
        TextDelta("ünïcödé \N{SNAKE}"),
        ToolResult("a", "done", is_error=False, output="out", exit_status=0),
        Usage(None, 3),
        Snapshot(
            (),
            Greeting("w", "", "", "", "", ("shell",), 0, 0),
            "running",
            InFlight((TextBlock("x"), ToolCallBlock("1", "look", "{", "streaming_args"))),
        ),
    ],
)
def test_a_payload_survives_being_stored(
    payload: Shutdown | Snapshot | SystemItem | TextDelta | ThinkingStart | ToolResult | Usage | UserMessage,
) -> None:
    assert restore_payload(encode_payload(payload)) == payload


def test_every_payload_has_a_name_of_its_own() -> None:
    found = [member.event for member in get_args(Payload)]
    assert len(set(found)) == len(found) == 23
    assert all(attrs.has(member) for member in get_args(Payload))


@pytest.mark.parametrize(
    "field",
    [
        "intent",
        "profile",
        "config_bundle",
        "requested_capabilities",
        "workspace_refs",
        "mount_refs",
        "name",
        "labels",
    ],
)
def test_null_counts_as_unset_for_every_optional_field_of_a_create(field: str) -> None:
    assert decode(b'{"%b":null}' % field.encode(), CreateWorkerRequest) == CreateWorkerRequest()


@pytest.mark.parametrize(
    ("body", "unset"),
    [
        (b'{"profile":{"kind":"runtime_default","value":null}}', b"{}"),
        (
            b'{"intent":{"kind":"role","role":"r","purpose":null}}',
            b'{"intent":{"kind":"role","role":"r"}}',
        ),
        (
            b'{"requested_capabilities":[{"name":"read","reason":null}]}',
            b'{"requested_capabilities":[{"name":"read"}]}',
        ),
    ],
)
def test_null_counts_as_unset_at_any_depth(body: bytes, unset: bytes) -> None:
    assert decode(body, CreateWorkerRequest) == decode(unset, CreateWorkerRequest)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"profile":{"kind":"builtin","value":null}}', "profile.value"),
        (b'{"profile":{"kind":"runtime_default","value":"x"}}', "profile.value"),
        (b'{"intent":{"kind":"task","objective":null}}', "intent.objective"),
        (b'{"surprise":null}', "surprise"),
    ],
)
def test_null_is_refused_for_a_field_that_is_required_or_unknown(body: bytes, path: str) -> None:
    with pytest.raises(InvalidJson) as refused:
        decode(body, CreateWorkerRequest)

    assert refused.value.path == path
