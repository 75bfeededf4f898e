"""The tree of errors: each leaf can be answered, and stands in the drawing of the tree."""

import pytest

from runtimed import errors, exits
from runtimed.http import errors as http_errors
from runtimed.http.errors import status_of

CONTRACT = {
    400: "invalid_json invalid_query invalid_worker_id invalid_request limit_too_large config_bundle_digest_mismatch "
    "invalid_profile_selector unsupported_config_declaration wrong_runtime wrong_runtime_cursor",
    401: "unauthorized",
    403: "forbidden_origin",
    404: "worker_not_found config_bundle_missing not_found",
    405: "method_not_allowed",
    409: "runtime_stopped worker_execution_unavailable worker_execution_rejected",
    413: "payload_too_large",
    415: "unsupported_media_type",
    421: "misdirected_request",
    431: "request_head_too_large",
    500: "store_io store_missing store_corrupt state_poisoned internal",
    503: "unavailable",
    507: "store_full",
}


BEYOND = {
    ("worker_running", 409),
    ("permission_not_found", 404),
    ("idempotency_conflict", 409),
    ("rate_limited", 429),
    ("forbidden", 403),
    ("token_exists", 409),
    ("token_not_found", 404),
    ("wait_timeout", 408),
    ("wait_impossible", 409),
    ("workspace_dirty", 409),
    ("workspace_not_found", 404),
    ("workspace_unavailable", 409),
    ("backup_unavailable", 409),
}
"""Codes of routes that go beyond the contract."""


def leaves(kind: type[errors.RuntimedError] = errors.RuntimedError) -> list[type[errors.RuntimedError]]:
    below = kind.__subclasses__()
    return [leaf for child in below for leaf in leaves(child)] if below else [kind]


def answered() -> list[type[errors.RuntimedError]]:
    return [leaf for leaf in leaves() if not issubclass(leaf, errors.StartError | errors.FeedError)]


def test_the_codes_and_statuses_are_those_of_the_contract() -> None:
    assert {(leaf.code, status_of(leaf)) for leaf in answered()} == {
        (code, status) for status, codes in CONTRACT.items() for code in codes.split()
    } | BEYOND


def test_no_two_errors_share_a_code() -> None:
    codes = [leaf.code for leaf in leaves()]
    assert len(set(codes)) == len(codes)


def test_the_drawing_shows_the_tree() -> None:
    drawn = f"{errors.__doc__}{http_errors.__doc__}"
    assert all(f"─ {leaf.__name__}" in drawn for leaf in leaves())


def test_the_tree_without_http_draws_no_error_of_http() -> None:
    own = {leaf for leaf in leaves() if leaf.__module__ == http_errors.__name__}
    assert own
    assert not [leaf for leaf in own if f"─ {leaf.__name__}" in (errors.__doc__ or "")]


@pytest.mark.parametrize("leaf", leaves())
def test_every_error_says_what_it_is(leaf: type[errors.RuntimedError]) -> None:
    assert leaf.__doc__


def test_the_exit_codes_are_those_that_scripts_rely_on() -> None:
    assert (exits.OK, exits.FAILURE, exits.USAGE, exits.STORE_TAKEN, exits.STORE_FAILED) == (0, 1, 2, 3, 74)
