"""Contract section 4: a body that is not what a route takes is refused, its field named, and nothing is changed."""

import json
from typing import Any

import pytest

from tests.acceptance.daemon.conftest import Daemon, one_store

BUNDLE: dict[str, Any] = {
    "metadata": {
        "id": "bundle-1",
        "digest": "0" * 64,
        "revision": "r",
        "workspace_id": "w",
        "created_at": "c",
        "provenance": {"source": "s"},
    }
}


def _bundle(**given: Any) -> dict[str, Any]:
    return {"bundle": BUNDLE | given}


def _metadata(**given: Any) -> dict[str, Any]:
    return _bundle(metadata={name: value for name, value in (BUNDLE["metadata"] | given).items() if value is not ...})


WORKERS = [
    ({"surprise": 1}, "surprise"),
    ({"intent": "assistant"}, "intent"),
    ({"intent": {}}, "intent.kind"),
    ({"intent": {"kind": "butler"}}, "intent.kind"),
    ({"intent": {"kind": 1}}, "intent.kind"),
    ({"intent": {"kind": None}}, "intent.kind"),
    ({"intent": {"kind": ["task"]}}, "intent.kind"),
    ({"intent": {"kind": "task"}}, "intent.objective"),
    ({"intent": {"kind": "task", "objective": 5}}, "intent.objective"),
    ({"intent": {"kind": "task", "objective": None}}, "intent.objective"),
    ({"intent": {"kind": "role", "purpose": "p"}}, "intent.role"),
    ({"intent": {"kind": "role", "role": True}}, "intent.role"),
    ({"intent": {"kind": "assistant", "purpose": ["p"]}}, "intent.purpose"),
    ({"intent": {"kind": "assistant", "objective": "o"}}, "intent.objective"),
    ({"profile": "builtin:echo"}, "profile"),
    ({"profile": {"value": "builtin:echo"}}, "profile.kind"),
    ({"profile": {"kind": "Builtin", "value": "builtin:echo"}}, "profile.kind"),
    ({"profile": {"kind": "builtin"}}, "profile.value"),
    ({"profile": {"kind": "builtin", "value": 7}}, "profile.value"),
    ({"profile": {"kind": "named", "value": {"x": 1}}}, "profile.value"),
    ({"profile": {"kind": "runtime_default", "value": "x"}}, "profile.value"),
    ({"profile": {"kind": "builtin", "value": "builtin:echo", "extra": 0}}, "profile.extra"),
    ({"config_bundle": "bundle-1"}, "config_bundle"),
    ({"config_bundle": {"id": "bundle-1"}}, "config_bundle.digest"),
    ({"config_bundle": {"id": 1, "digest": "0" * 64}}, "config_bundle.id"),
    ({"requested_capabilities": {}}, "requested_capabilities"),
    ({"requested_capabilities": "shell"}, "requested_capabilities"),
    ({"requested_capabilities": [None]}, "requested_capabilities[0]"),
    ({"requested_capabilities": ["shell"]}, "requested_capabilities[0]"),
    ({"requested_capabilities": [{"name": "a"}, {"reason": "r"}]}, "requested_capabilities[1].name"),
    ({"requested_capabilities": [{"name": "a", "reason": 1.5}]}, "requested_capabilities[0].reason"),
    ({"workspace_refs": [{"name": "a"}]}, "workspace_refs[0].reference"),
    ({"mount_refs": [{"name": "a", "reference": "b", "mode": "rw"}]}, "mount_refs[0].mode"),
    ({"mount_refs": [{"name": "a", "reference": "b"}, {"name": 0, "reference": "b"}]}, "mount_refs[1].name"),
]
INPUTS = [
    ({}, "kind"),
    ({"kind": "user"}, "content"),
    ({"content": "x"}, "kind"),
    ({"kind": "assistant", "content": "x"}, "kind"),
    ({"kind": "USER", "content": "x"}, "kind"),
    ({"kind": None, "content": "x"}, "kind"),
    ({"kind": "user", "content": 5}, "content"),
    ({"kind": "user", "content": None}, "content"),
    ({"kind": "user", "content": ["x"]}, "content"),
    ({"kind": "user", "content": "x", "surprise": 1}, "surprise"),
]
BUNDLES = [
    ({}, "bundle"),
    ({"bundle": None}, "bundle"),
    ({"bundle": {}}, "bundle.metadata"),
    (_bundle() | {"more": 1}, "more"),
    (_bundle(secrets=[]), "bundle.secrets"),
    (_metadata(id=...), "bundle.metadata.id"),
    (_metadata(digest=5), "bundle.metadata.digest"),
    (_metadata(digest_algorithm="sha256"), "bundle.metadata.digest_algorithm"),
    (_metadata(provenance="test"), "bundle.metadata.provenance"),
    (_metadata(provenance={}), "bundle.metadata.provenance.source"),
    (_metadata(provenance={"source": "s", "detail": 1}), "bundle.metadata.provenance.detail"),
    (_bundle(profiles=[{}]), "bundle.profiles[0].selector"),
    (_bundle(profiles=[{"selector": {"kind": "other"}}]), "bundle.profiles[0].selector.kind"),
    (_bundle(profiles=[{"selector": {"kind": "named"}}]), "bundle.profiles[0].selector.value"),
    (_bundle(profiles=[{"selector": {"kind": "runtime_default"}, "label": 1}]), "bundle.profiles[0].label"),
    (_bundle(declarations=[{"kind": "x", "name": "n", "reference": "r"}]), "bundle.declarations[0].kind"),
    (_bundle(declarations=[{"kind": "secret_ref", "name": "n"}]), "bundle.declarations[0].reference"),
    (
        _bundle(
            declarations=[
                {"kind": "secret_ref", "name": "n", "reference": "vault:a"},
                {"kind": "secret_ref", "name": "n", "reference": "vault:a", "value": "hidden"},
            ]
        ),
        "bundle.declarations[1].value",
    ),
]
DUPLICATES = [
    ("/v1/workers", '{"intent":{"kind":"assistant"},"intent":{"kind":"assistant"}}', "intent"),
    ("/v1/workers", '{"profile":{"kind":"builtin","kind":"named","value":"builtin:echo"}}', "profile.kind"),
    (
        "/v1/workers",
        '{"requested_capabilities":[{"name":"a"},{"name":"b","name":"c"}]}',
        "requested_capabilities[1].name",
    ),
    ("/v1/workers", '{"intent":{"kind":"task","objective":"a","\\u006fbjective":"b"}}', "intent.objective"),
    ("/v1/config-bundles", '{"bundle":{"metadata":{"provenance":{"source":"a","source":"a"}}}}', "provenance.source"),
]


@one_store
@pytest.mark.parametrize(("body", "path"), WORKERS)
def test_a_wrong_field_of_a_create_is_named_by_its_path(daemon: Daemon, body: Any, path: str) -> None:
    with daemon.unchanged():
        assert path in daemon.curl("POST", "/v1/workers", body).refused(400, "invalid_json")


@one_store
@pytest.mark.parametrize(("body", "path"), INPUTS)
def test_a_wrong_field_of_an_input_is_named_by_its_path(daemon: Daemon, body: Any, path: str) -> None:
    worker_id = daemon.echo()
    with daemon.unchanged():
        assert path in daemon.curl("POST", f"/v1/workers/{worker_id}/input", body).refused(400, "invalid_json")


@one_store
@pytest.mark.parametrize(("body", "path"), BUNDLES)
def test_a_wrong_field_of_a_bundle_is_named_by_its_path(daemon: Daemon, body: Any, path: str) -> None:
    with daemon.unchanged():
        message = daemon.curl("POST", "/v1/config-bundles", body).refused(400, "invalid_json")
    assert path in message
    assert "hidden" not in message


@one_store
@pytest.mark.parametrize(("path", "body", "field"), DUPLICATES)
def test_a_duplicate_field_is_named_by_its_path(daemon: Daemon, path: str, body: str, field: str) -> None:
    with daemon.unchanged():
        assert field in daemon.curl("POST", path, body).refused(400, "invalid_json")


def test_a_wrong_enum_value_is_told_what_is_accepted(daemon: Daemon) -> None:
    message = daemon.curl("POST", "/v1/workers", {"profile": {"kind": "x"}}).refused(400, "invalid_json")
    assert all(name in message for name in ("runtime_default", "builtin", "named"))
    body = {"kind": "x", "content": "y"}
    message = daemon.curl("POST", f"/v1/workers/{daemon.echo()}/input", body).refused(400, "invalid_json")
    assert all(name in message for name in ("user", "system"))


def test_an_empty_content_of_an_input_is_refused(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    with daemon.unchanged():
        answer = daemon.curl("POST", f"/v1/workers/{worker_id}/input", {"kind": "user", "content": ""})
        assert "content" in answer.refused(400, json.loads(answer.body)["error"]["code"])


CONTENT = '{"kind":"user","content":%s}'
NOT_JSON = {
    "empty": b"",
    "blank": b"  ",
    "a word": b"hello",
    "half": b'{"kind":"user","content":"x"',
    "two values": b'{"kind":"user","content":"x"} {}',
    "single quotes": b"{'kind':'user','content':'x'}",
    "a trailing comma": b'{"kind":"user","content":"x",}',
    "a comment": b'{"kind":"user","content":"x"} // no',
    "a raw line feed": b'{"kind":"user","content":"a\nb"}',
    "a raw NUL": b'{"kind":"user","content":"a\0b"}',
    "NaN": CONTENT % "NaN",
    "Infinity": CONTENT % "Infinity",
    "minus Infinity": CONTENT % "-Infinity",
    "a huge exponent": CONTENT % "1e999",
    "a lone high surrogate": CONTENT % r'"a\ud800b"',
    "a lone low surrogate": CONTENT % r'"\udc00"',
    "surrogates the wrong way": CONTENT % r'"\udc00\ud800"',
    "a lone surrogate in a key": r'{"kind":"user","content":"x","\ud800":1}',
    "invalid UTF-8": b'{"kind":"user","content":"\xff\xfe"}',
    "overlong UTF-8": b'{"kind":"user","content":"\xc0\xaf"}',
    "UTF-8 of a surrogate": b'{"kind":"user","content":"\xed\xa0\x80"}',
    "UTF-16": '{"kind":"user","content":"x"}'.encode("utf-16"),
    "a 5,000-digit number": CONTENT % ("1" * 5_000),
    "a 5,000-digit fraction": CONTENT % ("0." + "1" * 5_000),
    "100,000 arrays": "[" * 100_000,
    "100,000 closed arrays": "[" * 100_000 + "]" * 100_000,
    "100,000 objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "100,000 arrays in a field": CONTENT % ("[" * 100_000 + "]" * 100_000),
    "null": b"null",
    "true": b"true",
    "a number": b"12",
    "a string": b'"user"',
    "an array": b"[]",
    "null in an array": b"[null]",
}


@one_store
@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_not_a_json_object_is_invalid_json_on_every_route(daemon: Daemon, name: str) -> None:
    worker_id = daemon.echo()
    with daemon.unchanged():
        for path in ("/v1/workers", "/v1/config-bundles", f"/v1/workers/{worker_id}/input"):
            daemon.call("POST", path, NOT_JSON[name]).refused(400, "invalid_json")
        if NOT_JSON[name] != b"":
            daemon.curl("POST", f"/v1/workers/{worker_id}/stop", NOT_JSON[name]).refused(400, "invalid_json")


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "é ü 日本語 🙂",
        "a\nb\r\n\tc",
        "\x00\x01\x1b[31m\x7f",
        "\u2028\u2029\ufeff\ufffd",
        '"quotes" and \\ backslashes',
        "x" * 100_000,
    ],
)
def test_any_text_comes_back_as_it_was_given(daemon: Daemon, text: str) -> None:
    worker_id = daemon.echo()
    daemon.run(worker_id, text)
    assert [one["content"] for one in daemon.items(worker_id)] == [text, text]


def test_a_pair_of_surrogates_is_one_character(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    answer = daemon.curl("POST", f"/v1/workers/{worker_id}/input", CONTENT % r'"\ud83d\ude42"')
    answer.ok("ack")
    daemon.idle(worker_id)
    assert daemon.items(worker_id)[0]["content"] == "🙂"
