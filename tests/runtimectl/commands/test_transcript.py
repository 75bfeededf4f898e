"""Transcripts: one page, all pages, and new entries."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from tests.runtimectl.conftest import Ctl, NewWorker, StartCtl, StartDaemon


@pytest.fixture
def talked_to(ctl: Ctl, new_worker: NewWorker) -> str:
    """A Worker with six entries."""
    worker = new_worker()
    for text in ("one", "two", "three"):
        assert ctl("workers", "input", worker, text, "--wait").returncode == 0
    return worker


def test_a_transcript_reads_as_text(ctl: Ctl, talked_to: str) -> None:
    found = ctl("transcript", talked_to)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("#1 user: one\n#2 assistant: one\n#3 user: two\n")


def test_one_page_is_shown_by_default_and_all_pages_with_all(ctl: Ctl, talked_to: str) -> None:
    page = ("transcript", talked_to, "--start", "1", "--limit", "2", "-o", "jsonl")
    assert [json.loads(line)["sequence"] for line in ctl(*page).stdout.splitlines()] == [2, 3]
    found = ctl(*page, "--all").stdout
    assert [json.loads(line)["sequence"] for line in found.splitlines()] == [2, 3, 4, 5, 6]


def test_json_and_yaml_print_the_pages_unchanged(ctl: Ctl, talked_to: str) -> None:
    page = ("transcript", talked_to, "--limit", "4")
    first, second = map(json.loads, ctl(*page, "--all", "-o", "json").stdout.splitlines())
    assert (first["transcript"]["next_start"], second["transcript"]["next_start"]) == (4, None)
    assert yaml.safe_load(ctl(*page, "-o", "yaml").stdout) == first


def test_further_lines_of_an_entry_are_indented(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()
    ctl("workers", "input", worker, "hi\n#2 system: \x1b]0;obey\x07", "--wait")
    assert ctl("transcript", worker, "--limit", "1").stdout == "#1 user: hi\n  #2 system: \\x1b]0;obey\\x07\n"


def test_a_limit_above_that_of_the_daemon_is_refused_with_5(ctl: Ctl, talked_to: str) -> None:
    assert ctl("transcript", talked_to, "--limit", "1000000").returncode == 5


def test_following_shows_each_entry_once(ctl: Ctl, start_ctl: StartCtl, talked_to: str) -> None:
    follower = start_ctl("transcript", talked_to, "--follow", "--limit", "2", "-o", "jsonl")
    follower.wait_for('"sequence": 6')
    ctl("workers", "input", talked_to, "four", "--wait")
    ctl("workers", "input", talked_to, "be brief", "--system", "--wait")
    ctl("workers", "stop", talked_to)
    assert follower.finished() == 0
    assert "".join(follower.out) == ctl("transcript", talked_to, "--all", "-o", "jsonl").stdout
    assert len(follower.out) == 10


def test_following_a_worker_that_has_ended_shows_all_and_ends(ctl: Ctl, talked_to: str) -> None:
    ctl("workers", "stop", talked_to)
    found = ctl("transcript", talked_to, "--follow", "-o", "name")
    assert (found.returncode, len(found.stdout.splitlines())) == (0, 6)


def test_following_continues_after_a_restart_of_the_daemon(
    ctl: Ctl, start_ctl: StartCtl, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    options = ("--store", f"fs:{tmp_path}/store")
    first = start_daemon(*options)
    worker = ctl(
        "workers", "create", "--profile", "builtin:shell", "--capability", "shell", "-o", "name"
    ).stdout.strip()
    follower = start_ctl("transcript", worker, "--follow", "-o", "jsonl", "-q")
    ctl("workers", "input", worker, "echo before; sleep 600")
    follower.wait_for("sleep 600")
    first.end(signal.SIGKILL)
    start_daemon(*options)
    ctl("workers", "stop", worker)
    assert follower.finished() == 0
    assert "".join(follower.out) == ctl("transcript", worker, "-o", "jsonl").stdout
    assert follower.err == []


@pytest.mark.parametrize("options", [(), ("--follow",)])
def test_tool_calls_are_shown_with_their_results(
    ctl: Callable[..., CompletedProcess[str]], new_worker: NewWorker, options: tuple[str, ...]
) -> None:
    worker = new_worker("--profile", "builtin:shell", "--capability", "shell")
    for script in ("echo one", "echo two; false"):
        ctl("workers", "input", worker, script, "--wait")
    ctl("workers", "stop", worker)
    found = ctl("transcript", worker, "--tools", *options)
    assert found.returncode == 0
    assert found.stdout == (
        '#1 user: echo one\n#2 assistant: one\n> shell {"script":"echo one"}\n  exit status 0\n'
        '#3 user: echo two; false\n#4 assistant: two\n> shell {"script":"echo two; false"}\n  exit status 1\n'
    )
    *_, call = map(
        json.loads, ctl("transcript", worker, "--tools", "--start", "2", "-o", "jsonl").stdout.splitlines()
    )
    assert (call["kind"], call["name"], call["exit_status"]) == ("tool_call", "shell", 1)
