"""What happens to Workers on a host without bubblewrap, and on one that does not have Landlock either."""

import shutil
from collections.abc import Iterator

import pytest

from tests.security.conftest import PYTHON, USERS, FindSite, Site, User, each_user, new_daemon, new_place

UNCONFINED = {"mechanism": "none", "network": "host"}

pytestmark = pytest.mark.skipif(shutil.which(PYTHON) is None, reason=f"{PYTHON} is not installed")


@pytest.fixture(scope="module", params=USERS, ids=[f"as {user}" for user in USERS])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A daemon that finds neither."""
    with new_place(request.param, absent=["bwrap"]) as place:
        wrapper = [PYTHON, str(place.shared / "without_landlock.py")]
        with new_daemon(place, "best", wrapper=wrapper) as daemon:
            yield Site(place, daemon)


def test_a_worker_that_must_be_confined_is_rejected_and_says_what_to_install(site: Site) -> None:
    _, execution = site.spawn("strict")

    assert execution["run_state"] == "rejected"
    assert "sandbox.mode is required" in execution["last_result"]["message"]
    assert "install bubblewrap" in execution["last_result"]["message"]


def test_a_worker_that_is_confined_at_best_runs_without_and_the_log_says_why(site: Site) -> None:
    first, second = (site.spawn("shell")[1] for _ in range(2))
    profiles = site.daemon.call("GET", "/v1/profiles").ok("profiles")
    runtime = site.daemon.call("GET", "/v1/runtime").ok("runtime")
    warnings = [line for line in site.daemon.errors.splitlines() if "run unconfined" in line]

    assert (first["run_state"], first["sandbox"], second["sandbox"]) == ("idle", UNCONFINED, UNCONFINED)
    assert [one["sandbox"] for one in profiles if one["selector"] == "builtin:shell"] == [UNCONFINED]
    assert runtime["sandbox"] == UNCONFINED
    assert len(warnings) == 1
    assert "install bubblewrap" in warnings[0]


@each_user
def test_without_bubblewrap_landlock_confines_workers_but_required_demands_more_of_root(
    find_site: FindSite, user: User
) -> None:
    site = find_site(user, "landlock")

    strict, shell = (site.spawn(name)[1] for name in ("strict", "shell"))

    assert (shell["run_state"], shell["sandbox"]) == ("idle", {"mechanism": "landlock", "network": "public"})
    if user == "root":
        assert strict["run_state"] == "rejected"
        assert "run the daemon as an ordinary user" in strict["last_result"]["message"]
    else:
        assert strict["sandbox"] == shell["sandbox"]
