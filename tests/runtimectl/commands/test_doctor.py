"""The doctor reports a healthy installation, and each possible problem."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.runtimectl.conftest import Ctl, Daemon, ServeRaw, StartDaemon

RUNTIME = {"runtime_id": "r", "status": "running", "backend": "memory"}
SANDBOX = {
    "mode": "best",
    "mechanism": "bubblewrap",
    "network": "public",
    "mechanisms": [{"mechanism": "bubblewrap", "works": True}, {"mechanism": "landlock", "works": True}],
}
HEALTHY = {
    "/v1/runtime": {"runtime": RUNTIME},
    "/openapi.json": {"info": {"version": "0.1.0"}},
    "/v1/runtime/sandbox": {"sandbox": SANDBOX},
    "/v1/diagnostics": {"diagnostics": []},
    "/v1/runtime/check": {"check": {"workers": 1, "entries": 2, "events": 3, "findings": []}},
}


def findings(found: subprocess.CompletedProcess[str], status: str | None = None) -> dict[str, str]:
    """Return the messages by subject, a line each: those of one status, or all."""
    told: dict[str, str] = {}
    for finding in json.loads(found.stdout)["findings"]:
        if status in {None, finding["status"]}:
            told[finding["subject"]] = "\n".join([*told.get(finding["subject"], "").splitlines(), finding["message"]])
    return told


@pytest.fixture
def doctor(ctl: Ctl) -> Ctl:
    """Runs the doctor, again if a slow answer made the clocks look apart."""

    def examine(*options: str) -> subprocess.CompletedProcess[str]:
        for _ in range(10):
            found = ctl("doctor", *options)
            if " s apart" not in found.stdout:
                break
        return found

    return examine


Serve = Callable[[dict[str, Any]], str]


@pytest.fixture
def serve(serve_raw: ServeRaw) -> Serve:
    """Starts a server that answers each path with a JSON body, or with raw bytes."""

    def start(answers: dict[str, Any]) -> str:
        def handle(connection: socket.socket) -> None:
            answer = answers[connection.recv(65536).split()[1].decode()]
            raw = answer if isinstance(answer, bytes) else b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(answer).encode()
            connection.sendall(raw)

        return serve_raw(handle)

    return start


@pytest.mark.parametrize("store", ["memory", "fs"])
def test_a_healthy_daemon_is_all_ok(
    ctl: Ctl, doctor: Ctl, start_daemon: StartDaemon, tmp_path: Path, store: str
) -> None:
    daemon = start_daemon("--store", "memory" if store == "memory" else f"fs:{tmp_path}/store")
    worker = ctl("workers", "create", "-o", "name").stdout.strip()
    ctl("workers", "input", worker, "hello", "--wait")
    found = doctor()
    assert (found.returncode, found.stderr) == (0, "")
    heading, *rows = found.stdout.splitlines()
    assert heading.split() == ["STATUS", "SUBJECT", "FINDING"]
    of_host = {"agent", "sandbox"}
    assert {row.split()[0] for row in rows if row.split()[1] not in of_host} == {"ok"}
    told = findings(doctor("-o", "json"))
    assert told["daemon"] == f"{daemon.url}, named by the endpoint file"
    assert f"process {daemon.process.pid} serves {daemon.url}" in told["endpoint"]
    assert told["runtime"].startswith(f"{daemon.runtime_id}: status running, store ")
    assert told["clock"] == "within 5 s of the daemon's clock"
    assert told["diagnostics"] == "2 recorded, no warnings"
    assert told["store"] == "Workers: 1, entries: 2, events: 5; no problem found"


def test_every_format_has_the_same_findings(doctor: Ctl, daemon: Daemon) -> None:
    whole = json.loads(doctor("-o", "json").stdout)["findings"]
    assert yaml.safe_load(doctor("-o", "yaml").stdout)["findings"] == whole
    lines = doctor("-o", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == whole
    assert doctor("-o", "name").stdout.split() == [finding["subject"] for finding in whole]


def test_without_a_daemon_it_is_exit_6(ctl: Ctl) -> None:
    found = ctl("doctor", "-o", "json")
    assert found.returncode == 6
    assert findings(found, "fail")["daemon"].startswith("no daemon is running here")
    assert found.stderr.startswith("runtimectl: no daemon is running here")


def test_a_port_where_nobody_listens_is_exit_6(ctl: Ctl, dead_url: str) -> None:
    found = ctl("doctor", "--url", dead_url, "-o", "json")
    assert found.returncode == 6
    assert findings(found, "ok")["daemon"] == f"{dead_url}, named by --url"
    assert "Connection refused" in findings(found, "fail")["daemon"]


def test_the_findings_say_what_named_the_daemon_and_the_token(
    ctl: Ctl, daemon: Daemon, tmp_path: Path, env: dict[str, str]
) -> None:
    token = tmp_path / "a.token"
    token.touch(0o600)
    endpoint = next((tmp_path / "run" / "runtimed").glob("*.json"))
    token.write_text(json.loads(endpoint.read_text())["token"])
    ctl("context", "set", "lab", "--url", daemon.url, "--token-file", str(token))

    def named(*args: str, **extra: str) -> tuple[str, str]:
        told = findings(ctl("doctor", "-o", "json", *args, extra=extra), "ok")
        return told["daemon"].rpartition("named by ")[2], told["token"]

    kept = f"{token}: mode 0600, owned by this user; named by "
    assert named() == ("the endpoint file", "named by the token in the endpoint file")
    assert named("--context", "lab") == ("--context lab", f"{kept}--context lab")
    assert named("--token-file", str(token)) == ("the endpoint file", f"{kept}--token-file")
    assert named(RUNTIMECTL_URL=daemon.url) == ("RUNTIMECTL_URL", "named by the token in the endpoint file")
    assert named(RUNTIMECTL_CONTEXT="lab") == ("RUNTIMECTL_CONTEXT lab", f"{kept}RUNTIMECTL_CONTEXT lab")
    ctl("context", "use", "lab")
    assert named() == ("the current context lab", f"{kept}the current context lab")


def test_several_daemons_are_a_failure_that_says_how_to_choose(ctl: Ctl, start_daemon: StartDaemon) -> None:
    start_daemon(), start_daemon()
    found = ctl("doctor", "-o", "json")
    assert found.returncode == 1
    assert "--url" in findings(found, "fail")["daemon"]
    assert len(findings(found, "ok")["endpoint"].splitlines()) == 2


def test_the_endpoint_file_of_a_killed_daemon_is_a_warning(
    ctl: Ctl, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    start_daemon()
    killed = start_daemon()
    killed.end(signal.SIGKILL)
    found = ctl("doctor", "-o", "json")
    assert (found.returncode, found.stderr) == (0, "")
    warned = findings(found, "warn")["endpoint"]
    assert warned.startswith(str(tmp_path / "run" / "runtimed" / f"{killed.runtime_id}.json: "))
    assert f"process {killed.process.pid} has ended" in warned


@pytest.mark.parametrize("content", ["", "[]", '{"url": 1}', "\xff"])
def test_an_invalid_endpoint_file_is_a_warning(ctl: Ctl, daemon: Daemon, tmp_path: Path, content: str) -> None:
    (tmp_path / "run" / "runtimed" / "odd.json").write_text(content, "latin-1")
    found = ctl("doctor", "-o", "json")
    assert found.returncode == 0
    assert "odd.json: not an endpoint file" in findings(found, "warn")["endpoint"]


def test_a_file_or_folder_that_others_can_read_is_a_failure(ctl: Ctl, daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "runtimed"
    folder.chmod(0o755)
    next(folder.glob("*.json")).chmod(0o644)
    found = ctl("doctor", "-o", "json")
    assert found.returncode == 1
    failed = findings(found, "fail")
    assert failed.keys() == {"endpoints", "endpoint"}
    assert "mode 0755 lets others in; expected 0700" in failed["endpoints"]
    assert "mode 0644 lets others in; expected 0600" in failed["endpoint"]


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/")])
def test_an_invalid_runtime_folder_is_a_failure(ctl: Ctl, tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "run" / "runtimed")
    found = ctl("doctor", "-o", "json")
    assert found.returncode == 6
    assert "is not a folder of this user" in findings(found, "fail")["endpoints"]


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda path: path.chmod(0o640), "mode 0640 lets others read it; expected 0600"),
        (lambda path: path.write_text(""), "expected a token, got an empty text"),
        (lambda path: path.write_text("two words"), "expected one token"),
        (lambda path: path.unlink(), "No such file or directory"),
    ],
)
def test_an_unusable_token_file_is_a_failure(
    ctl: Ctl, daemon: Daemon, tmp_path: Path, break_it: Callable[[Path], object], said: str
) -> None:
    token = tmp_path / "a.token"
    token.touch(0o600)
    token.write_text("some-token")
    break_it(token)
    found = ctl("doctor", "--token-file", str(token), "-o", "json")
    assert found.returncode == 1
    assert said in findings(found, "fail")["token"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_token_file_of_another_user_is_a_warning(ctl: Ctl, daemon: Daemon, tmp_path: Path) -> None:
    token = tmp_path / "a.token"
    token.touch(0o600)
    token.write_text(json.loads(next((tmp_path / "run" / "runtimed").glob("*.json")).read_text())["token"])
    os.chown(token, 12345, -1)
    found = ctl("doctor", "--token-file", str(token), "-o", "json")
    assert found.returncode == 0
    assert "owned by user 12345; expected user 0" in findings(found, "warn")["token"]


def test_a_wrong_token_is_a_failure(ctl: Ctl, daemon: Daemon) -> None:
    found = ctl("doctor", "-o", "json", extra={"RUNTIMECTL_TOKEN": "another"})
    assert found.returncode == 1
    assert findings(found, "fail")["daemon"].startswith("unauthorized: ")


def test_each_problem_of_the_store_is_a_finding(ctl: Ctl, serve: Serve) -> None:
    problems = [{"problem": "an event is missing", "worker_id": "worker-00000001"}, {"problem": "the token: 0644"}]
    check = {"workers": 1, "entries": 2, "events": 3, "findings": problems}
    found = ctl("doctor", "-o", "json", "--url", serve(HEALTHY | {"/v1/runtime/check": {"check": check}}))
    assert found.returncode == 1
    assert findings(found, "fail") == {"store": "worker-00000001: an event is missing\nthe token: 0644"}
    assert found.stderr == "runtimectl: 2 of 15 checks failed\n"


def test_warnings_alone_are_exit_0(ctl: Ctl, serve: Serve) -> None:
    remarks = [
        {"code": "x.info", "severity": "info", "message": "never mind"},
        *({"code": "x.y", "severity": "warning", "message": f"{number}"} for number in range(30)),
    ]
    old = (
        b"HTTP/1.0 200 OK\r\nDate: Thu, 01 Jan 2004 00:00:00 GMT\r\n\r\n" + json.dumps({"runtime": RUNTIME}).encode()
    )
    odd = {
        "/v1/diagnostics": {"diagnostics": remarks},
        "/openapi.json": {"info": {"version": "9"}},
        "/v1/runtime": old,
    }
    found = ctl("doctor", "-o", "json", "--url", serve(HEALTHY | odd))
    assert (found.returncode, found.stderr) == (0, "")
    warned = findings(found, "warn")
    assert warned.keys() == {"token", "version", "clock", "diagnostics"}
    assert warned["diagnostics"].splitlines() == [f"x.y: {number}" for number in range(10, 30)]
    assert "runtimed 9, runtimectl " in warned["version"]
    assert " s apart" in warned["clock"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b'HTTP/1.1 500 Oops\r\n\r\n{"error": {"code": "state_poisoned", "message": "gone"}}',
            "state_poisoned: gone",
        ),
        (b'HTTP/1.1 503 No\r\n\r\n{"error": {"code": "unavailable", "message": "later"}}', "unavailable: later"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "unexpected response"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"runtime": {}}', "a field of the contract is missing or invalid"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"runtime": []}', "a field of the contract is missing or invalid"),
        ({"runtime": RUNTIME | {"status": "stopped"}}, "status stopped"),
    ],
)
def test_a_daemon_that_fails_is_exit_1(ctl: Ctl, serve: Serve, answer: bytes | dict[str, Any], said: str) -> None:
    found = ctl("doctor", "-o", "json", "--url", serve(HEALTHY | {"/v1/runtime": answer}))
    assert found.returncode == 1
    assert said in "\n".join(findings(found, "fail").values())
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("path", sorted(HEALTHY.keys() - {"/v1/runtime"}))
@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n", {"info": 1, "check": {}, "diagnostics": [1]}])
def test_an_unexpected_response_does_not_hide_the_other_findings(
    ctl: Ctl, serve: Serve, path: str, answer: bytes | dict[str, Any]
) -> None:
    found = ctl("doctor", "-o", "json", "--url", serve(HEALTHY | {path: answer}))
    assert found.returncode in {1, 6}
    assert len(findings(found, "fail")) == 1
    assert {"version", "diagnostics", "store"} <= findings(found).keys()
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("sandbox", "status", "code", "said"),
    [
        ({}, "ok", 0, "bubblewrap confines Workers; network: public"),
        ({"mechanism": "landlock"}, "ok", 0, "landlock confines Workers, which is weaker than bubblewrap; network: "),
        ({"mechanism": "none", "network": "host"}, "warn", 0, "nothing can confine Workers: they can do what the"),
        ({"mode": "off", "mechanism": "none", "network": "host"}, "warn", 0, "sandbox.mode is off: nothing confines"),
        (
            {"mode": "required", "mechanism": "none"},
            "fail",
            1,
            "nothing can confine Workers, and sandbox.mode is req",
        ),
    ],
)
def test_what_confines_workers_is_a_finding(
    ctl: Ctl, serve: Serve, sandbox: dict[str, str], status: str, code: int, said: str
) -> None:
    found = ctl(
        "doctor", "-o", "json", "--url", serve(HEALTHY | {"/v1/runtime/sandbox": {"sandbox": SANDBOX | sandbox}})
    )

    assert found.returncode == code
    assert findings(found, status)["sandbox"].startswith(said)


@pytest.mark.parametrize(
    ("problem", "advice"),
    [
        ("bwrap is not in PATH: install bubblewrap", "Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install"),
        ("setpriv is not in PATH: install util-linux", "Debian, Ubuntu: apt install util-linux"),
        ("bwrap: setting up uid map: Permission denied", "Ubuntu: load the AppArmor profile bwrap-userns-restrict"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "Ubuntu: load the AppArmor profile"),
        ("bwrap: No permissions to create new namespace, likely …", "Docker: start the container with --user"),
        (
            "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
            "--security-opt systempaths=unconfined",
        ),
        ("bwrap: Failed to make / slave: Permission denied", "--security-opt apparmor=unconfined"),
        ("bwrap: pivot_root: Operation not permitted", "--security-opt seccomp=unconfined"),
        ("bwrap: something new", ""),
    ],
)
def test_the_findings_say_how_to_get_bubblewrap(ctl: Ctl, serve: Serve, problem: str, advice: str) -> None:
    broken = {"mechanism": "bubblewrap", "works": False, "problem": problem}
    sandbox = SANDBOX | {"mechanism": "landlock", "mechanisms": [broken, SANDBOX["mechanisms"][1]]}

    found = ctl("doctor", "-o", "json", "--url", serve(HEALTHY | {"/v1/runtime/sandbox": {"sandbox": sandbox}}))

    said = findings(found, "info")["sandbox"]
    assert said.startswith(f"bubblewrap does not work: {problem}")
    assert advice in said


def test_a_daemon_without_bubblewrap_says_so(
    ctl: Ctl, env: dict[str, str], start_daemon: StartDaemon, tmp_path: Path
) -> None:
    env["PATH"] = str(tmp_path / "empty")
    start_daemon()

    found = ctl("doctor", "-o", "json")

    assert "bubblewrap does not work: bwrap is not in PATH: install bubblewrap" in findings(found, "info")["sandbox"]
    assert json.loads(ctl("status", "-o", "json").stdout)["runtime"]["sandbox"]["mechanism"] in {"landlock", "none"}


@pytest.mark.parametrize("url", ["nonsense", "http://", "unix:/nowhere/at.sock"])
def test_an_invalid_or_unreachable_url_is_a_failure(ctl: Ctl, url: str) -> None:
    found = ctl("doctor", "--url", url, "-o", "json")
    assert found.returncode == (6 if url.startswith("unix") else 1)
    assert len(findings(found, "fail")["daemon"].splitlines()) == 1


def test_an_invalid_file_of_contexts_is_a_failure(ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "config" / "runtimectl" / "contexts.json"
    path.parent.mkdir()
    path.write_text("{")
    found = ctl("doctor", "-o", "json")
    assert found.returncode == 1
    assert "expected a file written by runtimectl context" in findings(found, "fail")["daemon"]


def test_installed_agents_have_their_path_and_the_others_how_to_install_them(
    ctl: Ctl, daemon: Daemon, tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "opencode"
    program.parent.mkdir()
    program.touch(0o755)
    (tmp_path / "bin" / "gemini").touch(0o644)  # nothing that could be started
    found = ctl("doctor", "-o", "json", extra={"PATH": str(program.parent)})
    assert (found.returncode, found.stderr) == (0, "")
    assert findings(found, "ok")["agent"] == f"opencode: {program}"
    missing = findings(found, "info")["agent"].splitlines()
    assert [line.partition(":")[0] for line in missing] == ["Claude Code", "Codex", "Gemini CLI", "Qwen Code"]
    assert "Gemini CLI: gemini is not on the PATH; install it with: npm install -g @google/gemini-cli" in missing


def test_agents_are_listed_without_a_daemon(ctl: Ctl) -> None:
    assert len(findings(ctl("doctor", "-o", "json"))["agent"].splitlines()) == 5
