"""A request may take as long as the daemon needs for it, whatever the client's timeout."""

import pytest

from runtimectl.client.api import SPAWN_TIMEOUT_S, WORKSPACE_TIMEOUT_S
from runtimectl.library.calls import create_worker


@pytest.mark.parametrize(
    ("body", "seconds"),
    [({}, SPAWN_TIMEOUT_S), ({"workspace_refs": [{"name": "cwd", "reference": "ci:repo"}]}, WORKSPACE_TIMEOUT_S)],
)
def test_the_creation_of_a_worker_with_a_workspace_may_take_as_long_as_git(
    body: dict[str, object], seconds: float
) -> None:
    assert create_worker(body, "key").least_timeout == seconds
