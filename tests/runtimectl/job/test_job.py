"""`runtimectl run` ends with the status of a command, or with a code for how the run ended."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtimectl.conftest import DEADLINE_S
from tests.runtimectl.job.conftest import Jobs, wait_for

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.mark.parametrize(
    ("script", "code"), [("true", 0), ("exit 7", 7), ("kill -9 $$", 137), ("exit 124", 124), ("no-such-program", 127)]
)
def test_a_command_ends_with_its_own_status(jobs: Jobs, script: str, code: int) -> None:
    found = jobs.run("-o", "json", "--", "sh", "-c", script)

    result = json.loads(found.stdout)
    assert (found.returncode, result["outcome"], result["exit_status"]) == (code, "finished", code)


def test_a_command_prints_exactly_what_it_prints_elsewhere(jobs: Jobs) -> None:
    argument = "a  b'c\"$HOME *\\"
    found = jobs.run("--", "printf", r"%s|\033[1m\a|%s", argument, "--keep")
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{argument}|\x1b[1m\a|--keep", "")


def test_output_is_printed_as_it_comes_and_an_open_stdin_holds_nothing_up(
    jobs: Jobs, started: Start, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    script = f"echo first; while [ ! -e {gate} ]; do sleep 0.05; done; echo second"
    process = started("--", "sh", "-c", script, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"

    gate.touch()

    assert process.stdout.read() == "second\n"
    assert process.wait(DEADLINE_S) == 0


def test_a_text_from_stdin_is_the_input_of_an_agent(jobs: Jobs) -> None:
    found = jobs.run("-", "--profile", "builtin:echo", input="one\ntwo\n")
    assert (found.returncode, found.stdout, found.stderr) == (0, "one\ntwo\n", "")


@pytest.mark.parametrize(
    ("profile", "options", "outcome", "code"),
    [
        ("answering", (), "finished", 0),
        ("silent", (), "failed", 1),
        ("failing", (), "failed", 1),
        ("limited", (), "limit_reached", 1),
        ("dying", (), "lost", 1),
        ("missing", (), "refused", 125),
        ("denying", (), "denied", 123),
        ("denying", ("--on-denied", "continue"), "finished", 0),
        ("hasty", (), "denied", 123),
        ("hasty", ("--on-denied", "continue"), "finished", 0),
        ("asking", ("--allow", "all"), "finished", 0),
        ("asking", ("--allow", "read", "--allow", "edit"), "finished", 0),
        ("asking", ("--allow", "read", "--timeout", "2"), "timed_out", 124),
        ("stuck", ("--timeout", "0.5"), "timed_out", 124),
        ("stuck", ("--no-output-for", "0.5"), "timed_out", 124),
    ],
)
def test_each_outcome_has_its_exit_code(
    jobs: Jobs, profile: str, options: tuple[str, ...], outcome: str, code: int
) -> None:
    found = jobs.run("go", "--profile", f"builtin:{profile}", "-o", "json", *options)

    result = json.loads(found.stdout)
    assert (found.returncode, result["outcome"]) == (code, outcome)
    assert ("reason" in result) == (outcome != "finished")
    assert jobs.worker(result["worker_id"])["status"] == "stopped"


@pytest.mark.parametrize(
    ("profile", "options", "counts"),
    [("denying", (), (1, 1, 0)), ("hasty", (), (1, 0, 1)), ("asking", ("--allow", "all"), (1, 0, 0))],
)
def test_the_result_counts_permissions(
    jobs: Jobs, profile: str, options: tuple[str, ...], counts: tuple[int, int, int]
) -> None:
    result = json.loads(jobs.run("go", "--profile", f"builtin:{profile}", "-o", "json", *options).stdout)
    assert tuple(result["permissions"][name] for name in ("asked", "denied", "expired")) == counts


def test_an_agent_prints_its_answer_and_on_stderr_what_it_does(jobs: Jobs) -> None:
    found = jobs.run("go", "--profile", "builtin:answering")
    assert (found.returncode, found.stdout) == (0, "done\n")
    assert found.stderr == 'runtimectl: tool: Read notes.txt {"path":"notes.txt"}\n'
    assert jobs.run("go", "--profile", "builtin:answering", "-q").stderr == ""


def test_an_open_permission_request_says_how_to_answer_it(jobs: Jobs, started: Start) -> None:
    process = started("go", "--profile", "builtin:asking")
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "permission requested: edit notes.txt; answer with: runtimectl permissions answer worker-" in line
    worker, request = line.split(" permissions answer ", 1)[1].split()[:2]

    assert jobs.ctl("permissions", "answer", worker, request, "no").returncode == 0

    assert process.wait(DEADLINE_S) == 123
    assert "denied: a permission was denied: edit notes.txt" in process.stderr.read()


def test_the_usage_of_a_run_is_in_its_result(jobs: Jobs) -> None:
    result = json.loads(jobs.run("go", "--profile", "builtin:spending", "-o", "json").stdout)
    assert (result["usage"]["input_tokens"], result["usage"]["output_tokens"]) == (3, 4)


def test_jsonl_is_each_event_and_then_the_result(jobs: Jobs) -> None:
    found = jobs.run("-o", "jsonl", "--keep", "--", "echo", "hi")
    *events, result = map(json.loads, found.stdout.splitlines())
    exported = jobs.ctl("events", "export", result["worker_id"]).stdout
    assert events == [json.loads(line) for line in exported.splitlines()]
    assert (result["text"], result["cursor"]) == ("hi\n", events[-1]["cursor"])


@pytest.mark.parametrize(
    ("options", "script", "status"),
    [
        ((), "true", "stopped"),
        (("--keep",), "true", "running"),
        (("--keep-on-failure",), "true", "stopped"),
        (("--keep-on-failure",), "false", "running"),
        (("--rm",), "true", None),
    ],
)
def test_the_options_say_what_becomes_of_the_worker(
    jobs: Jobs, options: tuple[str, ...], script: str, status: str | None
) -> None:
    worker_id = json.loads(jobs.run("-o", "json", *options, "--", script).stdout)["worker_id"]
    found = jobs.ctl("workers", "get", worker_id, "-o", "json")
    assert (json.loads(found.stdout)["worker"]["status"] if status else None) == status
    assert found.returncode == (0 if status else 3)


@pytest.mark.parametrize(("script", "is_deleted"), [("cat file", True), ("echo two >file", False)])
def test_a_worktree_with_uncommitted_work_is_not_deleted_which_a_line_reports(
    jobs: Jobs, tmp_path: Path, script: str, is_deleted: bool
) -> None:
    result = tmp_path / "result"
    found = jobs.run("--rm", "--workspace", "cwd=ci:repo", "--result", str(result), "--", "sh", "-c", script)
    worker_id = json.loads(result.read_text())["worker_id"]
    assert found.returncode == 0
    assert (f"{worker_id} is not deleted: workspace_dirty: " in found.stderr) is not is_deleted
    assert (jobs.ctl("workers", "get", worker_id).returncode == 3) is is_deleted


def test_a_detached_run_prints_its_worker_and_goes_on(jobs: Jobs, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    found = jobs.run("--detach", "--", "sh", "-c", f"touch {gate}; sleep 600")
    worker_id = found.stdout.strip()
    wait_for(gate)
    assert jobs.worker(worker_id)["execution"]["run_state"] == "busy"
    jobs.ctl("workers", "cancel", worker_id)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "expected either TEXT"),
        (("text", "--", "true"), "expected either TEXT"),
        (("--",), "expected either TEXT"),
        ((" ",), "not blank"),
        (("-o", "table", "--", "true"), "table"),
        (("--detach", "--rm", "--", "true"), "--rm: cannot be combined with --detach"),
        (("--events", "/nonexistent/events", "--", "true"), "--events: cannot write /nonexistent/events"),
        (("--events", "same", "--result", "./same", "--", "true"), "--result: expected another file"),
        (("--allow", "everything", "--", "true"), "everything"),
    ],
)
def test_wrong_usage_is_exit_2_and_creates_nothing(jobs: Jobs, args: tuple[str, ...], message: str) -> None:
    before = jobs.ctl("workers", "list", "-o", "name").stdout
    found = jobs.run(*args, cwd=jobs.folder)
    assert (found.returncode, found.stdout) == (2, "")
    assert message in found.stderr
    assert jobs.ctl("workers", "list", "-o", "name").stdout == before


@pytest.mark.parametrize("kind", ["no daemon", "wrong token"])
def test_without_a_run_the_exit_code_is_125_and_the_result_says_why(jobs: Jobs, tmp_path: Path, kind: str) -> None:
    token, result = tmp_path / "token", tmp_path / "result.json"
    token.write_text("wrong-token-of-a-user")
    token.chmod(0o600)
    url = "unix:/nonexistent/socket" if kind == "no daemon" else jobs.daemon.url

    found = jobs.run("--url", url, "--token-file", str(token), "--result", str(result), "--", "true")

    assert found.returncode == 125
    told = json.loads(result.read_text())
    assert (told["outcome"], told["worker_id"], told["cursor"]) == ("refused", None, None)
    assert told["reason"] in found.stderr


def test_capabilities_of_the_profile_are_requested_by_themselves(jobs: Jobs) -> None:
    worker_id = json.loads(
        jobs.run("-o", "json", "--profile", "builtin:needy", "--capability", "more", "--", "true").stdout
    )["worker_id"]
    requested = [each["name"] for each in jobs.worker(worker_id)["requested_capabilities"]]
    assert sorted(requested) == ["more", "network", "shell"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_and_the_worker_and_completes_the_files(
    jobs: Jobs, started: Start, tmp_path: Path, number: signal.Signals
) -> None:
    names = ("events", "result", "transcript", "output-file")
    files = [part for name in names for part in (f"--{name}", str(tmp_path / name))]
    process = started(*files, "--", "sh", "-c", "echo begun; sleep 600")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"

    process.send_signal(number)

    assert process.wait(DEADLINE_S) == 128 + number
    result = json.loads((tmp_path / "result").read_text())
    assert (result["outcome"], result["text"]) == ("interrupted", "begun\n")
    assert jobs.worker(result["worker_id"])["status"] == "stopped"
    last = json.loads((tmp_path / "events").read_text().splitlines()[-1])
    assert last["payload"]["event"] == "shutdown"
    assert (tmp_path / "output-file").read_text() == "begun\n"
    assert "assistant: begun" in (tmp_path / "transcript").read_text()
    assert not list(tmp_path.glob(".*")), "no draft is left"


def test_a_second_signal_ends_the_command_at_once(jobs: Jobs, started: Start, tmp_path: Path) -> None:
    process = started(
        "--result", str(tmp_path / "result"), "--", "sh", "-c", "trap '' INT TERM; echo begun; sleep 600"
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert "a second signal" in process.stderr.readline()
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    assert process.returncode == 143
    assert not list(tmp_path.glob("*result*")), "no file and no draft is left"


def test_a_stdout_without_a_reader_ends_the_run_with_141(jobs: Jobs, started: Start) -> None:
    reading, writing = os.pipe()
    process = started("--", "sh", "-c", "echo begun; sleep 600", stdout=writing)
    os.close(writing)
    assert os.read(reading, 6) == b"begun\n"
    os.close(reading)
    assert process.wait(DEADLINE_S) == 141


def test_a_stdout_that_takes_nothing_does_not_keep_a_signal_from_ending_the_run(
    jobs: Jobs, started: Start, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    reading, writing = os.pipe()
    process = started("--", "sh", "-c", f"head -c 300000 /dev/zero; touch {gate}; sleep 600", stdout=writing)
    os.close(writing)
    wait_for(gate)
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 143
    os.close(reading)
