"""Each status of an answer is an error with its exit code, and an ApiError for programs."""

import json

import pytest

from runtimectl.errors import ApiError, error_from_response


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 5), (401, 4), (403, 4), (404, 3), (405, 5), (409, 5), (413, 5), (429, 5), (500, 7), (503, 7), (507, 7)],
)
def test_each_status_has_its_exit_code(status: int, code: int) -> None:
    error = error_from_response(status, json.dumps({"error": {"code": "some_code", "message": "why"}}).encode())

    assert error.exit_code == code
    assert isinstance(error, ApiError)
    assert (error.code, error.status, str(error)) == ("some_code", status, "some_code: why")
