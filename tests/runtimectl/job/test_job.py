"""`runtimectl run` ends with the status of a command, or with a code for how the run ended."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from runtimectl.job import files, job
from runtimectl.job.files import OutputFile
from runtimectl.job.inbox import Created, Event, Inbox
from runtimectl.job.job import SETTLE_S, Job, JobOptions
from tests.runtimectl.conftest import DEADLINE_S, REFUSAL, REFUSED, ServeRaw
from tests.runtimectl.job.conftest import Jobs, programs_with, wait_for

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("true", 0),
        ("exit 7", 7),
        ("kill -9 $$", 137),
        ("kill -9 $PPID; sleep 600", 137),
        ("exit 124", 124),
        ("no-such-program", 127),
    ],
)
def test_a_command_ends_with_its_own_status(jobs: Jobs, script: str, code: int) -> None:
    found = jobs.run("-o", "json", "--", "sh", "-c", script)

    result = json.loads(found.stdout)
    assert (found.returncode, result["outcome"], result["exit_status"]) == (code, "finished", code)


def test_a_command_prints_exactly_what_it_prints_elsewhere(jobs: Jobs) -> None:
    argument = "a  b'c\"$HOME *\\"
    found = jobs.run("--", "printf", r"%s|\033[1m\a|%s", argument, "--keep")
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{argument}|\x1b[1m\a|--keep", "")


def test_invalid_utf8_is_replaced(jobs: Jobs) -> None:
    found = jobs.run("-o", "json", "--", "printf", r"a\377b\303\n")
    assert json.loads(found.stdout)["text"] == "a\ufffdb\ufffd\n"
    assert jobs.run("--", "printf", r"a\377b\303\n").stdout == "a\ufffdb\ufffd\n"


def test_output_is_printed_as_it_comes_and_an_open_stdin_holds_nothing_up(jobs: Jobs, started: Start) -> None:
    gate = jobs.shared / "second"
    script = f"echo first; while [ ! -e {gate} ]; do sleep 0.05; done; echo second"
    process = started("--", "sh", "-c", script, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"

    gate.touch()

    assert process.stdout.read() == "second\n"
    assert process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_closed_streams_hold_nothing_up(jobs: Jobs, tmp_path: Path, closed: str) -> None:
    line = f"{sys.executable} -m runtimectl run --result {tmp_path}/result -- sh -c 'echo hi; exit 3' {closed}"
    found = subprocess.run(
        ["sh", "-c", line], env=jobs.env, stdout=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=False
    )
    assert (found.returncode, found.stdout) == (3, "hi\n")
    assert json.loads((tmp_path / "result").read_text())["exit_status"] == 3


def test_a_stdout_that_is_closed_from_the_start_creates_nothing(jobs: Jobs) -> None:
    before = jobs.ctl("workers", "list", "-o", "name").stdout
    line = f"{sys.executable} -m runtimectl run -- true >&-"
    found = subprocess.run(
        ["sh", "-c", line], env=jobs.env, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=False
    )
    assert (found.returncode, found.stderr) == (1, "runtimectl: cannot write the output: stdout is closed\n")
    assert jobs.ctl("workers", "list", "-o", "name").stdout == before


@pytest.mark.parametrize("args", [("run", "--timeout", "1", "-"), ("--timeout", "1", "run", "-")])
def test_a_stdin_that_does_not_end_is_a_time_out(jobs: Jobs, args: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "runtimectl", *args, "--profile", "builtin:echo"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=jobs.env, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(DEADLINE_S) == 124
    assert said == "runtimectl: timed_out: stdin has not ended within 1 s\n"


def test_a_timeout_in_front_of_the_command_counts_too(jobs: Jobs) -> None:
    found = jobs.ctl("--timeout", "1", "run", "-o", "json", "--", "sleep", "600")
    assert (found.returncode, json.loads(found.stdout)["outcome"]) == (124, "timed_out")


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
        ("stuck", ("--timeout", "2"), "timed_out", 124),
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
    ("profile", "script", "outcome"),
    [
        ("short", "sleep 600", "limit_reached"),
        ("narrow", "head -c 100000 /dev/zero", "limit_reached"),
    ],
)
def test_a_command_that_reaches_a_limit_of_its_profile_is_exit_1(
    jobs: Jobs, profile: str, script: str, outcome: str
) -> None:
    found = jobs.run("--profile", f"builtin:{profile}", "-o", "json", "--", "sh", "-c", script)

    result = json.loads(found.stdout)
    assert (found.returncode, result["outcome"]) == (1, outcome)
    assert result["reason"]


def test_an_agent_that_is_killed_is_lost(jobs: Jobs, started: Start) -> None:
    process = started("go", "--profile", "builtin:stuck", "-o", "json", "--name", "victim")
    until_busy(jobs, "victim")
    for agent in programs_with(str(jobs.folder / "stuck.json")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(agent, signal.SIGKILL)

    result = json.loads(process.communicate(timeout=DEADLINE_S)[0])

    assert (process.returncode, result["outcome"]) == (1, "lost")


@pytest.mark.parametrize("command", ["interrupt", "stop", "cancel"])
def test_a_run_that_another_client_ends_is_interrupted(jobs: Jobs, started: Start, command: str) -> None:
    process = started("-o", "json", "--name", f"of-{command}", "--", "sleep", "600")
    until_busy(jobs, f"of-{command}")

    assert jobs.ctl("workers", command, f"of-{command}").returncode == 0

    result = json.loads(process.communicate(timeout=DEADLINE_S)[0])
    assert (process.returncode, result["outcome"]) == (130, "interrupted")
    assert result["reason"]
    assert jobs.worker(result["worker_id"])["status"] == ("cancelled" if command == "cancel" else "stopped")


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


def test_a_refused_connection_is_a_line_on_stderr(jobs: Jobs) -> None:
    if json.loads(jobs.ctl("status", "-o", "json").stdout)["runtime"]["sandbox"]["mechanism"] == "none":
        pytest.skip("nothing can confine Workers here")

    found = jobs.run("--", "sh", "-c", REFUSED)

    assert "403" in found.stdout
    assert found.stderr.startswith(f"runtimectl: {REFUSAL}")
    assert found.stderr.count("\n") == 1
    assert jobs.run("-q", "--", "sh", "-c", REFUSED).stderr == ""


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


def test_a_detached_run_prints_its_worker_and_goes_on(jobs: Jobs) -> None:
    gate = jobs.shared / "detached"
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
        (("--keep", "--rm", "--", "true"), "--rm: cannot be combined with --keep"),
        (("--events", "/nonexistent/events", "--", "true"), "--events: cannot write /nonexistent/events"),
        (("--result", ".", "--", "true"), "--result: cannot write .: Is a directory"),
        (("--", "echo", "\udcff"), "arguments: expected valid UTF-8"),
        (("\udcff",), "arguments: expected valid UTF-8"),
        (("--name", "\udcff", "--", "true"), "arguments: expected valid UTF-8"),
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


@pytest.mark.parametrize("name", ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"])
def test_an_open_file_is_written_and_not_replaced(jobs: Jobs, tmp_path: Path, name: str) -> None:
    log = tmp_path / "log"
    with log.open("w") as opened:
        opened.write("before\n")
        opened.flush()
        process = jobs.start("--output-file", name, "--result", name, "--", "echo", "hi", stderr=opened)
        process.communicate(timeout=DEADLINE_S)
    before, said, result = log.read_text().splitlines()
    assert (process.returncode, before, said, json.loads(result)["text"]) == (0, "before", "hi", "hi\n")


@pytest.mark.parametrize("name", ["/dev/fd/99", "/dev/fd/x"])
def test_a_descriptor_that_is_not_open_is_a_usage_error(jobs: Jobs, name: str) -> None:
    found = jobs.run("--result", name, "--", "true")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith(f"runtimectl: --result: cannot write {name}: ")


def test_no_daemon_at_all_is_exit_125_at_once(jobs: Jobs, tmp_path: Path) -> None:
    elsewhere = {**jobs.env, "XDG_RUNTIME_DIR": str(tmp_path)}
    for options in ((), ("--detach",)):
        found = jobs.run(*options, "--", "true", env=elsewhere)
        assert (found.returncode, found.stdout) == (125, "")
        assert found.stderr.startswith("runtimectl: refused: no daemon is running here")


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_daemon_that_does_not_answer_is_a_time_out(jobs: Jobs, serve_raw: ServeRaw, output: str) -> None:
    def handle(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    token = jobs.folder / "any-token"
    token.touch(0o600)
    token.write_text("the-token-of-a-user")
    options = ("--url", serve_raw(handle), "--token-file", str(token), "--timeout", "0.5", "-o", output)

    found = jobs.run(*options, "--", "true", timeout=SETTLE_S - 5)

    assert found.returncode == 124
    assert "not done within 0.5 s" in (found.stderr if output == "text" else found.stdout)


def test_a_file_that_cannot_be_written_ends_the_run_and_is_named_and_the_others_are_whole(
    jobs: Jobs, tmp_path: Path
) -> None:
    files = ("--output-file", "/dev/full", "--events", str(tmp_path / "events"), "--result", str(tmp_path / "result"))
    found = jobs.run(*files, "--", "sh", "-c", "head -c 100000 /dev/zero; sleep 600")
    assert found.returncode == 125
    result = json.loads((tmp_path / "result").read_text())
    assert result["reason"] == "--output-file: cannot write /dev/full: No space left on device"
    assert found.stderr.splitlines()[-1] == f"runtimectl: interrupted: {result['reason']}"
    assert (tmp_path / "events").read_text() == jobs.ctl("events", "export", result["worker_id"]).stdout


def test_a_stdout_that_cannot_be_written_ends_the_run_and_the_files_are_whole(jobs: Jobs, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = jobs.start("--events", str(tmp_path / "events"), "--", "sh", "-c", "echo x; sleep 600", stdout=full)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 125
    assert "interrupted: cannot write the output: No space left on device" in err
    worker_id = json.loads((tmp_path / "events").read_text().splitlines()[0])["worker_id"]
    assert (tmp_path / "events").read_text() == jobs.ctl("events", "export", worker_id).stdout


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


def test_a_reader_that_is_slower_than_the_silence_that_ends_a_run_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(job, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    inbox, others = Inbox(), MagicMock()
    view = MagicMock(event=lambda *_: clock.__setitem__(0, clock[0] + 100))
    conversation = MagicMock(may_have_created=False, may_have_given=False)
    inbox.put(Created({"worker_id": "worker-00000001", "execution": {}}))
    payloads = [{"event": "text_delta", "data": {"text": "a"}}] * 2
    for number, payload in enumerate([*payloads, {"event": "run_end", "data": {"result": "finished"}}]):
        inbox.put(Event({"cursor": f"wo_{number:016x}", "payload": payload}))

    options = JobOptions(no_output_for_s=10, keep=True)
    result = Job(others, options, inbox, conversation, view, others, others).run()

    assert (result.end.outcome, str(result.progress.text)) == ("finished", "aa")


@pytest.mark.parametrize("output", ["text", "jsonl"])
def test_a_stdout_without_a_reader_ends_the_run_with_141(
    jobs: Jobs, started: Start, tmp_path: Path, output: str
) -> None:
    reading, writing = os.pipe()
    files = ("--result", str(tmp_path / "result"), "--events", str(tmp_path / "events"))
    process = started(*files, "-o", output, "--", "sh", "-c", "echo begun; sleep 600", stdout=writing)
    os.close(writing)
    assert os.read(reading, 1)
    os.close(reading)
    assert process.wait(DEADLINE_S) == 141
    result = json.loads((tmp_path / "result").read_text())
    assert (result["outcome"], jobs.worker(result["worker_id"])["status"]) == ("interrupted", "stopped")
    assert json.loads((tmp_path / "events").read_text().splitlines()[-1])["payload"]["event"] == "shutdown"


def test_a_command_that_is_killed_leaves_its_worker_running_and_no_draft_of_a_file(
    jobs: Jobs, started: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    process = started("--name", "orphan", "--events", str(folder / "events"), "--", "sleep", "600")
    until_busy(jobs, "orphan")

    process.kill()
    process.wait(DEADLINE_S)

    assert jobs.worker("orphan")["execution"]["run_state"] == "busy"
    assert jobs.ctl("workers", "cancel", "orphan").returncode == 0
    assert list(folder.iterdir()) == ([] if has_nameless_files(folder) else [folder / f".events.{process.pid}"])


def has_nameless_files(folder: Path) -> bool:
    """Return whether the file system has files without a name."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))
    except OSError:
        return False
    return True


def test_a_file_appears_whole_where_there_are_no_files_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_OPEN_FILES", "/nonexistent")
    folder = tmp_path / "files"
    folder.mkdir()
    written, discarded = (OutputFile("--result", str(folder / name)) for name in ("written", "discarded"))

    for file in (written, discarded):
        file.write("text")
    assert [path.name[0] for path in folder.iterdir()] == [".", "."]
    written.close()
    discarded.abandon()

    assert [path.name for path in folder.iterdir()] == ["written"]
    assert (folder / "written").read_text() == "text"


def test_a_stderr_without_a_reader_changes_nothing(jobs: Jobs, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = tmp_path / "result"

    process = jobs.start("--result", str(result), "--profile", "builtin:answering", "go", stderr=writing)
    refused = jobs.start("--url", "http://127.0.0.1:1", "--", "true", stderr=writing)
    os.close(writing)

    assert process.communicate(timeout=DEADLINE_S)[0] == "done\n"
    assert process.returncode == 0
    assert jobs.worker(json.loads(result.read_text())["worker_id"])["status"] == "stopped"
    assert (refused.communicate(timeout=DEADLINE_S)[0], refused.returncode) == ("", 125)


@pytest.mark.parametrize(("options", "code"), [((), 143), (("--timeout", "5"), 124)])
def test_a_stdout_that_takes_nothing_keeps_neither_a_signal_nor_a_timeout_from_ending_the_run(
    jobs: Jobs, started: Start, options: tuple[str, ...], code: int
) -> None:
    gate = jobs.shared / f"full-{code}"
    reading, writing = os.pipe()
    script = f"head -c 300000 /dev/zero; touch {gate}; sleep 600"
    process = started(*options, "--", "sh", "-c", script, stdout=writing)
    os.close(writing)
    if code == 143:
        wait_for(gate)
        process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == code
    os.close(reading)


def until_busy(jobs: Jobs, worker: str) -> None:
    """Wait until the Worker with this name is there and its run has begun."""
    deadline = time.monotonic() + DEADLINE_S
    while jobs.ctl("workers", "wait", worker, "--for", "busy", "--timeout", "30").returncode != 0:
        assert time.monotonic() < deadline
