"""What happens to Workers on a host that has neither bubblewrap nor Landlock."""

import shutil
from typing import Any

import pytest

from tests.acceptance.daemon.conftest import Daemon
from tests.security.conftest import PYTHON, User, each_user, new_daemon, new_place

SHELL: dict[str, Any] = {
    "profile": {"kind": "builtin", "value": "builtin:shell"},
    "requested_capabilities": [{"name": "shell"}],
}
UNCONFINED = {"mechanism": "none", "network": "host"}


pytestmark = pytest.mark.skipif(shutil.which(PYTHON) is None, reason=f"{PYTHON} is not installed")


def _spawned(daemon: Daemon) -> dict[str, Any]:
    worker_id = daemon.create(**SHELL)
    execution: dict[str, Any] = daemon.worker(worker_id)["execution"]
    return execution


@each_user
def test_a_worker_that_must_be_confined_is_rejected_and_says_what_to_install(user: User) -> None:
    with new_place(user, absent=["bwrap"]) as place:
        wrapper = [PYTHON, str(place.shared / "without_landlock.py")]

        with new_daemon(place, "required", wrapper=wrapper) as daemon:
            execution = _spawned(daemon)

    assert execution["run_state"] == "rejected"
    assert "sandbox.mode is required" in execution["last_result"]["message"]
    assert "install bubblewrap" in execution["last_result"]["message"]


@each_user
def test_a_worker_that_is_confined_at_best_runs_without_and_the_log_says_why(user: User) -> None:
    with new_place(user, absent=["bwrap"]) as place:
        wrapper = [PYTHON, str(place.shared / "without_landlock.py")]

        with new_daemon(place, "best", wrapper=wrapper) as daemon:
            first, second = _spawned(daemon), _spawned(daemon)
            profiles = daemon.call("GET", "/v1/profiles").ok("profiles")
            warnings = [line for line in daemon.errors.splitlines() if "run unconfined" in line]

    assert (first["run_state"], first["sandbox"], second["sandbox"]) == ("idle", UNCONFINED, UNCONFINED)
    assert [one["sandbox"] for one in profiles if one["selector"] == "builtin:shell"] == [UNCONFINED]
    assert len(warnings) == 1
    assert "install bubblewrap" in warnings[0]
