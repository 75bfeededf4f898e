"""Shells complete commands, options and the values of a running daemon."""

import json
from collections.abc import Callable

import pytest

from tests.runtimectl.conftest import Ctl, Daemon, NewWorker


@pytest.fixture
def completed(ctl: Ctl) -> Callable[[str], list[str]]:
    """Returns what bash offers at the end of a line."""

    def complete(line: str) -> list[str]:
        words = line.split(" ")
        variables = {
            "_RUNTIMECTL_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        found = ctl(extra=variables)
        assert found.stderr == ""
        return [offer.partition(",")[2] for offer in found.stdout.splitlines() if offer]

    return complete


def test_workers_are_completed_by_id_and_name(completed: Callable[[str], list[str]], new_worker: NewWorker) -> None:
    first, second = new_worker("--name", "builder"), new_worker("--name", "two words")
    for command in ("workers get", "workers wait", "transcript", "events tail", "permissions list"):
        assert completed(f"runtimectl {command} ") == ["@last", first, "builder", second]
    assert completed("runtimectl workers stop build") == ["builder"]


def test_profiles_and_event_names_are_completed(completed: Callable[[str], list[str]], new_worker: NewWorker) -> None:
    new_worker()
    assert completed("runtimectl run --profile builtin:s") == ["builtin:shell"]
    assert completed("runtimectl events tail --until run") == ["run_end"]
    assert completed("runtimectl workers create --bundle ") == []


def test_bundles_are_completed_with_their_digests(
    completed: Callable[[str], list[str]], ctl: Ctl, daemon: Daemon
) -> None:
    metadata = {"id": "bundle-1", "revision": "r", "workspace_id": "w", "created_at": "2026-06-26T00:00:00Z"}
    bundle = json.dumps({"metadata": {**metadata, "provenance": {"source": "test"}}})
    reference = ctl("bundles", "push", "-", "-o", "name", stdin=bundle).stdout.strip()
    assert reference.startswith("bundle-1@")
    for command in ("bundles check", "workers create --bundle", "run --bundle"):
        assert completed(f"runtimectl {command} bun") == [reference]


@pytest.mark.parametrize("url", ["", "--url http://127.0.0.1:9 ", "--url nonsense --timeout 0.001 "])
def test_without_a_daemon_nothing_is_completed(completed: Callable[[str], list[str]], url: str) -> None:
    assert completed(f"runtimectl {url}workers get ") == []
