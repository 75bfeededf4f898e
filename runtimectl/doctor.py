"""Checks of everything between the command line and the daemon's store. They change nothing."""

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import runtimed
from runtimectl import sandbox_advice
from runtimectl.client import discovery
from runtimectl.client.address import Address
from runtimectl.client.api import Client
from runtimectl.client.discovery import Credential, DaemonOptions
from runtimectl.errors import ControlError, Unreachable
from runtimed.wire import endpoint

MAX_DIAGNOSTICS = 20
"""How many of the daemon's diagnostics are shown, the newest ones."""

CONNECT_TIMEOUT_S = 20.0

RENEWAL_S = 14 * 86_400
"""How long a certificate should still be valid, in seconds."""

CLOCK_TOLERANCE_S = 5
"""How far the clocks may differ: an answer takes time, and its date has whole seconds."""

Status = Literal["ok", "info", "warn", "fail"]


class Finding(NamedTuple):
    """The result of one check."""

    status: Status
    subject: str
    message: str


class KnownAgent(NamedTuple):
    """A coding agent that docs/how-to/agents.md has a profile for: its program, and the npm package of it."""

    name: str
    program: str
    package: str


KNOWN_AGENTS = (
    KnownAgent("Claude Code", "claude-agent-acp", "@agentclientprotocol/claude-agent-acp"),
    KnownAgent("Codex", "codex-acp", "@agentclientprotocol/codex-acp"),
    KnownAgent("Gemini CLI", "gemini", "@google/gemini-cli"),
    KnownAgent("opencode", "opencode", "opencode-ai"),
    KnownAgent("Qwen Code", "qwen", "@qwen-code/qwen-code"),
)


class Doctor:
    """Runs the checks one after the other.

    Attributes:
        unreachable: The error of a daemon that cannot be reached, or None.
    """

    def __init__(self, options: DaemonOptions) -> None:
        self._options = options
        self.unreachable: Unreachable | None = None

    def findings(self) -> Iterator[Finding]:
        """Run all checks. A check that cannot be completed is a finding too."""
        yield from self._run("endpoints", _check_endpoints)
        yield from self._run("daemon", self._check_daemon)
        yield from map(_check_agent, KNOWN_AGENTS)

    def _run(self, subject: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
        try:
            yield from check()
        except Unreachable as error:
            self.unreachable = error
            yield Finding("fail", subject, str(error))
        except ControlError as error:
            yield Finding("fail", subject, str(error))
        except OSError as error:
            yield Finding("fail", subject, f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            message = f"unexpected response: a field of the contract is missing or invalid: {error!r}"
            yield Finding("fail", subject, message)

    def _check_daemon(self) -> Iterator[Finding]:
        target = discovery.find_target(self._options)
        yield Finding("ok", "daemon", f"{target.url}, named by {target.source}")
        credential = discovery.find_credential(self._options, target)
        yield from self._run("token", lambda: _check_token(credential))
        try:
            client = Client(discovery.address_of(self._options, target, credential))
        except ControlError:
            return
        with closing(client):
            yield from self._check_runtime(client)

    def _check_runtime(self, client: Client) -> Iterator[Finding]:
        runtime = client.runtime()["runtime"]
        is_running = runtime["status"] == "running"
        message = f"{runtime['runtime_id']}: status {runtime['status']}, store {runtime['backend']}"
        yield Finding("ok" if is_running else "fail", "runtime", message)
        if client.address.tls:
            yield from self._run("certificate", lambda: _check_certificate(client.address))
        yield from self._run("version", lambda: _check_version(client))
        yield from self._run("sandbox", lambda: _check_sandbox(client))
        yield from self._run("clock", lambda: _check_clock(client))
        yield from self._run("diagnostics", lambda: _check_diagnostics(client))
        yield from self._run("store", lambda: _check_store(client))


def _check_endpoints() -> Iterator[Finding]:
    folder = endpoint.folder()
    try:
        paths = endpoint.files()
    except FileNotFoundError:
        yield Finding("ok", "endpoints", f"{folder} does not exist: this user has not run a daemon here")
        return
    yield _check_mode(folder, 0o700, "endpoints")
    for path in paths:
        yield from _check_endpoint(path)


def _check_endpoint(path: Path) -> Iterator[Finding]:
    known = next(endpoint.read(path), None)
    if known is None:
        yield Finding("warn", "endpoint", f"{path}: not an endpoint file, ignored; remove it")
    elif not known.alive():
        yield Finding("warn", "endpoint", f"{path}: process {known.pid} has ended, ignored; remove it")
    else:
        finding = _check_mode(path, 0o600, "endpoint")
        yield finding._replace(message=f"{finding.message}; process {known.pid} serves {known.url}")


def _check_token(credential: Credential | None) -> Iterator[Finding]:
    if credential is None:
        message = "none found, and the daemon requires one; set --token-file or RUNTIMECTL_TOKEN"
        yield Finding("warn", "token", message)
        return
    credential.read()
    if credential.path is None:
        yield Finding("ok", "token", f"named by {credential.source}")
    else:
        finding = _check_mode(Path(credential.path), 0o600, "token")
        yield finding._replace(message=f"{finding.message}; named by {credential.source}")


def _check_mode(path: Path, accepted: int, subject: str) -> Finding:
    """Check that a file or folder belongs to this user and is closed to others. Raises OSError."""
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return Finding("fail", subject, f"{path}: mode {mode:04o} lets others in; expected {accepted:04o}")
    if found.st_uid != os.getuid():
        return Finding("warn", subject, f"{path}: owned by user {found.st_uid}; expected user {os.getuid()}")
    return Finding("ok", subject, f"{path}: mode {mode:04o}, owned by this user")


def _check_certificate(address: Address) -> Iterator[Finding]:
    """Check how long the certificate of the daemon, or of the proxy in front of it, is still valid."""
    import ssl

    with closing(address.connect(CONNECT_TIMEOUT_S)) as connection:
        found = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
    if not found:
        return
    end = str(found["notAfter"])
    is_near = ssl.cert_time_to_seconds(end) - time.time() < RENEWAL_S
    yield Finding("warn" if is_near else "ok", "certificate", f"valid until {end}{'; renew it' if is_near else ''}")


def _check_version(client: Client) -> Iterator[Finding]:
    theirs = client.description()["info"]["version"]
    if theirs == runtimed.__version__:
        yield Finding("ok", "version", f"runtimed {theirs}")
    else:
        yield Finding("warn", "version", f"runtimed {theirs}, runtimectl {runtimed.__version__}")


def _check_sandbox(client: Client) -> Iterator[Finding]:
    sandbox = client.sandbox()["sandbox"]
    status, message = sandbox_advice.verdict(sandbox)
    yield Finding(status, "sandbox", message)
    for check in sandbox["mechanisms"]:
        if not check["works"]:
            yield Finding("info", "sandbox", sandbox_advice.advice(check))


def _check_clock(client: Client) -> Iterator[Finding]:
    theirs = client.date()
    if theirs is None:
        return
    difference = abs(time.time() - theirs)
    if difference <= CLOCK_TOLERANCE_S:
        yield Finding("ok", "clock", f"within {CLOCK_TOLERANCE_S} s of the daemon's clock")
    else:
        yield Finding("warn", "clock", f"the daemon's clock and this one are {difference:.0f} s apart")


def _check_diagnostics(client: Client) -> Iterator[Finding]:
    diagnostics: list[dict[str, Any]] = client.diagnostics()["diagnostics"]
    serious = [each for each in diagnostics if each["severity"] != "info"]
    if not serious:
        yield Finding("ok", "diagnostics", f"{len(diagnostics)} recorded, no warnings")
    for each in serious[-MAX_DIAGNOSTICS:]:
        yield Finding("warn", "diagnostics", _with_worker(f"{each['code']}: {each['message']}", each))


def _check_store(client: Client) -> Iterator[Finding]:
    check = client.check_store()["check"]
    counts = f"Workers: {check['workers']}, entries: {check['entries']}, events: {check['events']}"
    if not check["findings"]:
        yield Finding("ok", "store", f"{counts}; no problem found")
        return
    yield Finding("warn", "store", f"{counts}; problems found: {len(check['findings'])}")
    for each in check["findings"]:
        yield Finding("fail", "store", _with_worker(each["problem"], each))


def _check_agent(agent: KnownAgent) -> Finding:
    """Look for the program of an agent. One that is not installed is no problem."""
    path = shutil.which(agent.program)
    if path is None:
        install = f"npm install -g {agent.package}"
        return Finding(
            "info", "agent", f"{agent.name}: {agent.program} is not on the PATH; install it with: {install}"
        )
    return Finding("ok", "agent", f"{agent.name}: {path}")


def _with_worker(message: str, item: dict[str, Any]) -> str:
    worker = item.get("worker_id")
    return f"{worker}: {message}" if worker else message
