"""What is right and what is wrong between here and a daemon's store, in plain words. It changes nothing."""

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import runtimed
from runtimectl import agents, discovery
from runtimectl.client import Client
from runtimectl.discovery import Credential, Wishes
from runtimectl.errors import ControlError, Unreachable
from runtimed.wire import endpoint

MAX_REMARKS = 20
"""How many of the daemon's own remarks are told."""

CLOCK_SLACK_S = 5
"""How far the clocks may be apart: less is the way of an answer and the whole seconds of its date."""

Status = Literal["ok", "info", "warn", "fail"]


class Finding(NamedTuple):
    """How one thing is."""

    status: Status
    subject: str
    message: str


class Doctor:
    """Looks at one thing after the other. `unreachable` is set when the daemon that is meant can't be reached."""

    def __init__(self, wishes: Wishes) -> None:
        self._wishes = wishes
        self.unreachable: Unreachable | None = None

    def examine(self) -> Iterator[Finding]:
        """Everything that can be found out, one finding after the other."""
        yield from self._checked("endpoints", _endpoints)
        yield from self._checked("daemon", self._daemon)
        yield from map(_agent, agents.KNOWN)

    def _checked(self, subject: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
        """The findings of a check; whatever keeps it from an end is one as well."""
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
            yield Finding("fail", subject, f"the daemon's answer lacks what the contract promises: {error!r}")

    def _daemon(self) -> Iterator[Finding]:
        place = discovery.place(self._wishes)
        yield Finding("ok", "daemon", f"{place.url}, named by {place.source}")
        known = discovery.credential(self._wishes, place)
        yield from self._checked("token", lambda: _token(known))
        try:
            client = Client(discovery.address_of(self._wishes, place, known))
        except ControlError:
            return
        yield from self._runtime(client)

    def _runtime(self, client: Client) -> Iterator[Finding]:
        runtime = client.runtime()["runtime"]
        running = runtime["status"] == "running"
        what = f"{runtime['runtime_id']} answers, it is {runtime['status']}, its store is {runtime['backend']}"
        yield Finding("ok" if running else "fail", "runtime", what)
        yield from self._checked("version", lambda: _version(client))
        yield from self._checked("clock", lambda: _clock(client))
        yield from self._checked("diagnostics", lambda: _remarks(client))
        yield from self._checked("store", lambda: _store(client))


def _endpoints() -> Iterator[Finding]:
    home = endpoint.folder()
    try:
        paths = endpoint.files()
    except FileNotFoundError:
        yield Finding("ok", "endpoints", f"there is no folder {home}: no daemon of this user has been here")
        return
    yield _private(home, 0o700, "endpoints")
    for path in paths:
        yield from _endpoint(path)


def _endpoint(path: Path) -> Iterator[Finding]:
    known = next(endpoint.read(path), None)
    if known is None:
        yield Finding("warn", "endpoint", f"{path}: this is no endpoint file, and is ignored; remove it")
    elif not known.alive():
        yield Finding("warn", "endpoint", f"{path}: process {known.pid} is gone, so it is ignored; remove it")
    else:
        found = _private(path, 0o600, "endpoint")
        yield found._replace(message=f"{found.message}; process {known.pid} serves {known.url}")


def _token(known: Credential | None) -> Iterator[Finding]:
    if known is None:
        yield Finding("warn", "token", "none is named; the daemon wants one: --token-file, or RUNTIMECTL_TOKEN")
        return
    known.read()
    if known.path is None:
        yield Finding("ok", "token", f"it is {known.source}")
    else:
        found = _private(Path(known.path), 0o600, "token")
        yield found._replace(message=f"{found.message}; named by {known.source}")


def _private(path: Path, accepted: int, subject: str) -> Finding:
    """Whether a file or a folder is this user's, and nobody else's business. Raises OSError."""
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return Finding("fail", subject, f"{path}: mode {mode:04o} lets others in; expected {accepted:04o}")
    if found.st_uid != os.getuid():
        return Finding("warn", subject, f"{path}: it belongs to user {found.st_uid}, not to user {os.getuid()}")
    return Finding("ok", subject, f"{path}: mode {mode:04o}, of this user")


def _version(client: Client) -> Iterator[Finding]:
    theirs = client.description()["info"]["version"]
    same = theirs == runtimed.__version__
    message = f"the daemon is {theirs}" if same else f"the daemon is {theirs}, this runtimectl {runtimed.__version__}"
    yield Finding("ok" if same else "warn", "version", message)


def _clock(client: Client) -> Iterator[Finding]:
    theirs = client.date()
    if theirs is None:
        return
    apart = abs(time.time() - theirs)
    near = apart <= CLOCK_SLACK_S
    message = "the clocks agree" if near else f"the daemon's clock and this one are {apart:.0f} s apart"
    yield Finding("ok" if near else "warn", "clock", message)


def _remarks(client: Client) -> Iterator[Finding]:
    every: list[dict[str, Any]] = client.diagnostics()["diagnostics"]
    serious = [remark for remark in every if remark["severity"] != "info"]
    if not serious:
        yield Finding("ok", "diagnostics", f"{len(every)}, none of them a warning")
    for remark in serious[-MAX_REMARKS:]:
        yield Finding("warn", "diagnostics", _named(f"{remark['code']}: {remark['message']}", remark))


def _store(client: Client) -> Iterator[Finding]:
    found = client.check_store()["check"]
    read = f"read Workers: {found['workers']}, entries: {found['entries']}, events: {found['events']}"
    if not found["findings"]:
        yield Finding("ok", "store", f"{read}; nothing is wrong")
        return
    yield Finding("warn", "store", f"{read}; what follows is wrong")
    for each in found["findings"]:
        yield Finding("fail", "store", _named(each["problem"], each))


def _agent(agent: agents.KnownAgent) -> Finding:
    """Whether an agent can be started as its recipe says; one that is not here is nothing wrong."""
    path = agent.path()
    if path is None:
        how = f"npm install -g {agent.package}"
        return Finding("info", "agent", f"{agent.name}: {agent.program} is not on the PATH; to have it: {how}")
    return Finding("ok", "agent", f"{agent.name}: {path}")


def _named(message: str, item: dict[str, Any]) -> str:
    worker = item.get("worker_id")
    return f"{worker}: {message}" if worker else message
