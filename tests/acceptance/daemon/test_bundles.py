"""Contract section 5: bundles are declarations, checked in order, and Workers are made of them."""

from typing import Any

import pytest

from tests.acceptance.conftest import MakeBundle
from tests.acceptance.daemon.conftest import Answer, Daemon, one_store

KNOWN_ANSWER = "f1faffb46524a985fff79a4a3e9165e776187d2e3a67773995806ac557f3320a"
ECHO = {"kind": "builtin", "value": "builtin:echo"}
MISMATCH = "config_bundle_digest_mismatch"
SELECTOR = "invalid_profile_selector"
UNSUPPORTED = "unsupported_config_declaration"
INVALID = "invalid_request"
UNSUPPORTED_DECLARATION = {"kind": "unsupported", "name": "n", "reference": "r"}


def _post(daemon: Daemon, bundle: Any) -> Answer:
    return daemon.call("POST", "/v1/config-bundles", {"bundle": bundle})


def _stored(daemon: Daemon, bundle: Any) -> dict[str, str]:
    reference: dict[str, str] = _post(daemon, bundle).ok("availability", "Availability")["reference"]
    return reference


def _secret(**given: Any) -> dict[str, Any]:
    return {"kind": "secret_ref", "name": "key", "reference": "secret:key"} | given


def test_the_known_answer_is_the_digest_of_the_known_bundle(daemon: Daemon, bundle: MakeBundle) -> None:
    known = bundle(
        id="bundle-1",
        profiles=[{"selector": {"kind": "builtin", "value": "builtin:coder"}}],
        declarations=[_secret(name="credential", reference="secret:github-token")],
        digest=KNOWN_ANSWER,
    )
    found = daemon.curl("POST", "/v1/config-bundles", {"bundle": known}).ok("availability", "Availability")
    assert found["reference"] == {"id": "bundle-1", "digest": KNOWN_ANSWER}


def test_the_digest_covers_every_field_and_no_order(daemon: Daemon, bundle: MakeBundle) -> None:
    profiles = [
        {"selector": {"kind": "runtime_default"}, "label": "the default"},
        {"selector": ECHO},
        {"selector": {"kind": "named", "value": "é"}, "label": "日本"},
    ]
    declarations = [_secret(), _secret(name="b"), {"kind": "git_policy", "name": "g", "reference": "git:read-only"}]
    given = {"id": "order", "provenance": {"source": "s", "detail": "d"}}
    first = bundle(profiles=profiles, declarations=declarations, **given)
    turned = bundle(profiles=profiles[::-1], declarations=declarations[::-1], **given)
    assert _stored(daemon, first) == _stored(daemon, turned)
    for changed in (
        {"revision": "rev-2"},
        {"workspace_id": "w"},
        {"created_at": "then"},
        {"provenance": {"source": "s"}},
        {"profiles": profiles[:2]},
        {"profiles": [*profiles, {"selector": {"kind": "named", "value": "more"}}]},
        {"declarations": declarations[:2]},
        {"declarations": [_secret(reference="vault:key"), *declarations[1:]]},
    ):
        other = bundle(**({"profiles": profiles, "declarations": declarations} | given | changed))
        assert other["metadata"]["digest"] != first["metadata"]["digest"]
        other["metadata"]["digest"] = first["metadata"]["digest"]
        _post(daemon, other).refused(400, MISMATCH)


def test_the_same_id_replaces(daemon: Daemon, bundle: MakeBundle) -> None:
    first = bundle()
    bundle_id = first["metadata"]["id"]
    old = _stored(daemon, first)
    new = _stored(daemon, bundle(id=bundle_id, revision="rev-2", profiles=[{"selector": ECHO}]))
    assert [one["revision"] for one in daemon.bundles() if one["id"] == bundle_id] == ["rev-2"]
    path = f"/v1/config-bundles/{bundle_id}/availability?digest="
    assert daemon.curl("GET", path + new["digest"]).ok("availability")["summary"]["profile_count"] == 1
    daemon.curl("GET", path + old["digest"]).refused(400, MISMATCH)
    daemon.curl("POST", "/v1/workers", {"config_bundle": old, "profile": ECHO}).refused(400, MISMATCH)


def test_a_refused_replacement_leaves_the_bundle_as_it_was(daemon: Daemon, bundle: MakeBundle) -> None:
    made = bundle()
    _stored(daemon, made)
    with daemon.unchanged():
        _post(daemon, bundle(id=made["metadata"]["id"], digest="0" * 64)).refused(400, MISMATCH)


def test_the_availability_of_a_bundle_that_is_not_there_is_missing(daemon: Daemon) -> None:
    path = f"/v1/config-bundles/nowhere/availability?digest={'0' * 64}"
    daemon.curl("GET", path).refused(404, "config_bundle_missing")


def test_availability_wants_a_digest(daemon: Daemon, bundle: MakeBundle) -> None:
    bundle_id = _stored(daemon, bundle())["id"]
    assert "digest" in daemon.curl("GET", f"/v1/config-bundles/{bundle_id}/availability").refused(
        400, "invalid_query"
    )


RULE_1 = [
    ({"id": "-a"}, "id"),
    ({"id": ".a"}, "id"),
    ({"id": "a b"}, "id"),
    ({"id": "a/b"}, "id"),
    ({"id": "é"}, "id"),
    ({"id": "a" * 129}, "id"),
    ({"digest": "0" * 63}, "digest"),
    ({"digest": "0" * 65}, "digest"),
    ({"digest": "A" * 64}, "digest"),
    ({"digest": "g" * 64}, "digest"),
    ({"digest": ""}, "digest"),
    ({"revision": ""}, "revision"),
    ({"revision": " \t"}, "revision"),
    ({"workspace_id": "  "}, "workspace_id"),
    ({"created_at": ""}, "created_at"),
    ({"provenance": {"source": " "}}, "source"),
]


@one_store
@pytest.mark.parametrize(("given", "field"), RULE_1)
def test_rule_1_ids_digests_and_texts_are_well_formed(
    daemon: Daemon, bundle: MakeBundle, given: Any, field: str
) -> None:
    with daemon.unchanged():
        assert field in _post(daemon, bundle(**given)).refused(400, INVALID)


def test_rule_1_an_empty_id_is_refused(daemon: Daemon, bundle: MakeBundle) -> None:
    made = bundle()
    made["metadata"]["id"] = ""
    _post(daemon, made).refused(400, INVALID)


@pytest.mark.parametrize("bundle_id", ["a", "0", "A.b_c:d-9", "a" * 128])
def test_rule_1_an_id_of_the_accepted_characters_is_stored(
    daemon: Daemon, bundle: MakeBundle, bundle_id: str
) -> None:
    assert _stored(daemon, bundle(id=bundle_id))["id"] == bundle_id


HOST_LOCAL = [
    "/etc/passwd",
    "~/notes",
    "~",
    "\\server",
    "C:\\x",
    "a.cache/b",
    "A.CACHE",
    "x.yoi/sessions",
    "x.YOI\\Sessions",
    "a/sessions/b",
    "a\\sessions\\b",
    "var/run/x",
    "var\\RUN\\x",
    "agent.sock",
    "Agent.SOCK",
    "a/sock/b",
    "socket=x",
    "SOCKET=x",
    "session_path",
    "my cache_path",
]
CONTROLS = ["a\0b", "a\nb", "a\tb", "a\x1fb", "a\x7fb", "a\x85b", "\x1ca", "a\x1f"]


@one_store
@pytest.mark.parametrize("text", [*HOST_LOCAL, *CONTROLS, "x" * 2_049])
def test_rule_2_boundary_text_names_no_place_of_the_host(daemon: Daemon, bundle: MakeBundle, text: str) -> None:
    for field in ("revision", "workspace_id", "created_at"):
        assert field in _post(daemon, bundle(**{field: text})).refused(400, INVALID)
    for field in ("source", "detail"):
        made = bundle(provenance={"source": "s"} | {field: text})
        assert field in _post(daemon, made).refused(400, INVALID)


@pytest.mark.parametrize("bundle_id", ["a.sock", "a.cache", "session_path", "x.SOCK"])
def test_rule_2_an_id_is_boundary_text_too(daemon: Daemon, bundle: MakeBundle, bundle_id: str) -> None:
    assert "id" in _post(daemon, bundle(id=bundle_id)).refused(400, INVALID)


@pytest.mark.parametrize(
    "text", ["x" * 2_048, "é" * 2_048, "a/b", "a~b", "sessions", "running", "so ck", "C: x", "run"]
)
def test_rule_2_other_text_passes(daemon: Daemon, bundle: MakeBundle, text: str) -> None:
    label = [{"selector": {"kind": "runtime_default"}, "label": text}]
    _stored(daemon, bundle(revision=text, provenance={"source": text, "detail": text}, profiles=label))


@one_store
@pytest.mark.parametrize("text", [*HOST_LOCAL, *CONTROLS, "x" * 2_049])
def test_rule_5_a_name_is_boundary_text(daemon: Daemon, bundle: MakeBundle, text: str) -> None:
    assert "name" in _post(daemon, bundle(declarations=[_secret(name=text)])).refused(400, INVALID)


@one_store
@pytest.mark.parametrize("text", [*HOST_LOCAL, *CONTROLS, "x" * 2_049])
def test_rule_4_a_label_is_boundary_text(daemon: Daemon, bundle: MakeBundle, text: str) -> None:
    label = [{"selector": {"kind": "runtime_default"}, "label": text}]
    answer = _post(daemon, bundle(profiles=label))
    # Labels are boundary text of rule 2, though they are checked with the selectors of rule 4.
    assert "label" in answer.refused(400, "invalid_request")


def test_rule_3_the_digest_is_the_computed_one(daemon: Daemon, bundle: MakeBundle) -> None:
    with daemon.unchanged():
        _post(daemon, bundle(digest="0" * 64)).refused(400, MISMATCH)


@one_store
@pytest.mark.parametrize("value", ["", "  ", *HOST_LOCAL, *CONTROLS, "x" * 2_049])
def test_rule_4_a_selector_is_boundary_text(daemon: Daemon, bundle: MakeBundle, value: str) -> None:
    for kind in ("builtin", "named"):
        profiles = [{"selector": {"kind": "runtime_default"}}, {"selector": {"kind": kind, "value": value}}]
        _post(daemon, bundle(profiles=profiles)).refused(400, SELECTOR)


@one_store
@pytest.mark.parametrize(
    ("declaration", "code"),
    [
        (_secret(name=""), INVALID),
        (_secret(name=" "), INVALID),
        (UNSUPPORTED_DECLARATION, UNSUPPORTED),
        (_secret(reference=""), INVALID),
        (_secret(reference="  "), INVALID),
        (_secret(reference="secret:a b"), INVALID),
        (_secret(reference="secret:a/b"), INVALID),
        (_secret(reference="secret:é"), INVALID),
        (_secret(reference="secret:a\n"), INVALID),
        (_secret(reference="secret:a.sock"), INVALID),
        (_secret(reference="secret:a.CACHE"), INVALID),
        (_secret(reference="secret:session_path"), INVALID),
        (_secret(reference="secret:Cache_Path"), INVALID),
        (_secret(reference="key"), UNSUPPORTED),
        (_secret(reference="secret:"), UNSUPPORTED),
        (_secret(reference="Secret:key"), UNSUPPORTED),
        (_secret(reference="mount:key"), UNSUPPORTED),
    ],
)
def test_rule_5_a_declaration_is_a_reference_of_its_kind(
    daemon: Daemon, bundle: MakeBundle, declaration: Any, code: str
) -> None:
    with daemon.unchanged():
        _post(daemon, bundle(declarations=[_secret(name="fine"), declaration])).refused(400, code)


PREFIXES = {
    "secret_ref": ["secret:", "secret-ref:", "vault:", "keyring:"],
    "mount_grant": ["mount:", "mount-grant:"],
    "network_policy": ["network:", "network-policy:"],
    "shell_policy": ["shell:", "shell-policy:"],
    "git_policy": ["git:", "git-policy:"],
    "capability_grant": ["capability:", "capability-grant:"],
}


@one_store
@pytest.mark.parametrize("kind", PREFIXES)
def test_rule_5_each_kind_takes_its_own_prefixes_alone(daemon: Daemon, bundle: MakeBundle, kind: str) -> None:
    for owner, prefixes in PREFIXES.items():
        for prefix in prefixes:
            made = bundle(declarations=[{"kind": kind, "name": "n", "reference": f"{prefix}A-z0:9_.@+"}])
            answer = _post(daemon, made)
            if owner == kind:
                assert answer.ok("availability")["summary"]["declaration_count"] == 1
            else:
                answer.refused(400, UNSUPPORTED)
            bare = bundle(declarations=[{"kind": kind, "name": "n", "reference": prefix}])
            _post(daemon, bare).refused(400, UNSUPPORTED)


BLANK_SELECTOR = {"profiles": [{"selector": {"kind": "named", "value": " "}}]}


@one_store
@pytest.mark.parametrize(
    ("given", "code", "named", "silent"),
    [
        ({"revision": " ", "provenance": {"source": "/etc"}}, INVALID, "revision", "source"),
        ({"id": "a.sock", "created_at": " "}, INVALID, "created_at", "sock"),
        ({"digest": "0", "workspace_id": "~"}, INVALID, "digest", "workspace_id"),
        ({"workspace_id": "~", "digest": "0" * 64}, INVALID, "workspace_id", "digest"),
        ({"digest": "0" * 64, **BLANK_SELECTOR}, MISMATCH, "", "profiles"),
        ({"digest": "0" * 64, "declarations": [UNSUPPORTED_DECLARATION]}, MISMATCH, "", "declarations"),
        (BLANK_SELECTOR | {"declarations": [UNSUPPORTED_DECLARATION]}, SELECTOR, "", "declarations"),
        (BLANK_SELECTOR | {"declarations": [_secret(name=" ")]}, SELECTOR, "", "declarations"),
        ({"declarations": [UNSUPPORTED_DECLARATION | {"name": " "}]}, INVALID, "name", "unsupported"),
        ({"declarations": [UNSUPPORTED_DECLARATION | {"reference": " "}]}, UNSUPPORTED, "", "reference:"),
        ({"declarations": [_secret(reference="nothing at all")]}, INVALID, "reference", "unsupported"),
        ({"declarations": [_secret(reference="x"), _secret(name=" ")]}, UNSUPPORTED, "declarations[0]", "[1]"),
    ],
)
def test_the_first_failure_answers(
    daemon: Daemon, bundle: MakeBundle, given: Any, code: str, named: str, silent: str
) -> None:
    message = _post(daemon, bundle(**given)).refused(400, code)
    assert named in message
    assert silent not in message


def test_a_worker_is_made_of_a_bundle_that_offers_its_profile(daemon: Daemon, bundle: MakeBundle) -> None:
    profiles = [{"selector": {"kind": "runtime_default"}}, {"selector": ECHO}]
    reference = _stored(daemon, bundle(profiles=profiles))
    for profile in (ECHO, {"kind": "runtime_default"}):
        request = {"config_bundle": reference, "profile": profile}
        worker = daemon.curl("POST", "/v1/workers", request).ok("worker", "WorkerDetail")
        assert (worker["config_bundle"], worker["profile"]) == (reference, profile)
        assert worker["execution"]["run_state"] == "idle"
    assert daemon.curl("POST", "/v1/workers", {"config_bundle": reference}).ok("worker")["profile"] == profile


def test_a_create_with_a_bundle_that_is_not_there_is_missing(daemon: Daemon) -> None:
    reference = {"id": "nowhere", "digest": "0" * 64}
    with daemon.unchanged():
        answer = daemon.curl("POST", "/v1/workers", {"config_bundle": reference})
        answer.refused(404, "config_bundle_missing")


def test_a_create_with_another_digest_is_a_mismatch(daemon: Daemon, bundle: MakeBundle) -> None:
    reference = _stored(daemon, bundle(profiles=[{"selector": ECHO}])) | {"digest": "0" * 64}
    with daemon.unchanged():
        # The profile is not offered either: the digest is looked at first.
        daemon.curl("POST", "/v1/workers", {"config_bundle": reference}).refused(400, MISMATCH)


@pytest.mark.parametrize(
    "profile",
    [
        {"kind": "runtime_default"},
        {"kind": "named", "value": "builtin:echo"},
        {"kind": "builtin", "value": "builtin:x"},
    ],
)
def test_a_create_with_a_profile_that_the_bundle_does_not_offer_is_refused(
    daemon: Daemon, bundle: MakeBundle, profile: Any
) -> None:
    reference = _stored(daemon, bundle(profiles=[{"selector": ECHO}]))
    with daemon.unchanged():
        request = {"config_bundle": reference, "profile": profile}
        daemon.curl("POST", "/v1/workers", request).refused(400, SELECTOR)


def test_a_bundle_without_profiles_offers_none(daemon: Daemon, bundle: MakeBundle) -> None:
    reference = _stored(daemon, bundle())
    daemon.curl("POST", "/v1/workers", {"config_bundle": reference}).refused(400, SELECTOR)


def test_a_named_profile_without_a_bundle_is_refused(daemon: Daemon) -> None:
    with daemon.unchanged():
        request = {"profile": {"kind": "named", "value": "reviewer"}}
        daemon.curl("POST", "/v1/workers", request).refused(400, SELECTOR)
