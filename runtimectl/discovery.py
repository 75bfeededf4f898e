"""Which daemon a command talks to, and with which token.

The URL: flag, environment, the current context, then the only live endpoint file. A token given by flag or
environment goes wherever the URL points; one that belongs to a context or an endpoint goes there and nowhere else.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runtimectl import address, contexts
from runtimectl.address import Address
from runtimectl.errors import Unreachable, UsageProblem

if TYPE_CHECKING:
    from runtimed.wire.endpoint import Endpoint

MAX_TOKEN_BYTES = 4096
START = "start one with: runtimed --store fs:PATH"
ENDPOINT = "the endpoint file"


class Wishes(NamedTuple):
    """What flags say; None where they are silent."""

    url: str | None = None
    token_file: str | None = None
    context: str | None = None
    ca: str | None = None


class Place(NamedTuple):
    """A daemon, the token that belongs to it, and what named it."""

    source: str
    url: str
    token_file: str | None = None
    token: str | None = None


class Credential(NamedTuple):
    """Where a token is: in a file, or as it stands here; and what named it.

    One of an endpoint file goes to the `url` that the file names, and nowhere else.
    """

    source: str
    path: str | None = None
    text: str = ""
    url: str | None = None

    def read(self) -> str:
        """The token. Raises UsageProblem for a file that others can read, and for what is no token."""
        return _checked(self.text, self.source) if self.path is None else _read(self.path)


def find(wishes: Wishes, runtime_id: str | None = None) -> Address:
    """The daemon's address; with a runtime id, that of this Runtime where endpoint files are asked.

    Raises UsageProblem when the settings name none clearly, Unreachable when no daemon is running.
    """
    chosen = place(wishes, runtime_id)
    return address_of(wishes, chosen, credential(wishes, chosen))


def address_of(wishes: Wishes, chosen: Place, known: Credential | None) -> Address:
    """The address of a daemon, with the token or where that was looked for. Raises UsageProblem."""
    if known is None:
        return address.parse(chosen.url)._replace(sought=_sought(chosen), ca=wishes.ca)
    found = address.parse(known.url or chosen.url)
    return found._replace(token=known.read(), ca=wishes.ca, has_given_token=known.url is None)


def place(wishes: Wishes, runtime_id: str | None = None) -> Place:
    """The daemon that is meant. Raises as `find`."""
    return _by_flag(wishes) or _from_environment() or _current() or _only_live(runtime_id)


def credential(wishes: Wishes, chosen: Place) -> Credential | None:
    """Where the token for a daemon is, or None where nothing names one."""
    if wishes.token_file:
        return Credential("--token-file", wishes.token_file)
    if _by_flag(wishes) and chosen.token_file:
        return Credential(chosen.source, chosen.token_file)
    return _environment_token() or _own(chosen) or _own(_at(chosen.url))


def _by_flag(wishes: Wishes) -> Place | None:
    return _named("--url", wishes.url) or _context("--context", wishes.context)


def _from_environment() -> Place | None:
    given = os.environ.get
    return _named("RUNTIMECTL_URL", given("RUNTIMECTL_URL")) or _context(
        "RUNTIMECTL_CONTEXT", given("RUNTIMECTL_CONTEXT")
    )


def _current() -> Place | None:
    known = contexts.load()
    return Place(f"the current context {known.current}", *known.get(known.current)) if known.current else None


def _named(source: str, url: str | None) -> Place | None:
    return Place(source, url) if url else None


def _context(source: str, name: str | None) -> Place | None:
    return Place(f"{source} {name}", *contexts.load().get(name)) if name else None


def _only_live(runtime_id: str | None) -> Place:
    from runtimed.wire import endpoint

    known = [found for found in endpoint.known() if runtime_id in {None, found.runtime_id}]
    live = [found for found in known if found.alive()]
    if not live:
        ended = "".join(f" (process {found.pid} that served {found.url} is gone)" for found in known[-1:])
        raise Unreachable(f"no daemon is running here{ended}; {START}")
    if len(live) > 1:
        listed = ", ".join(f"{found.url} ({found.runtime_id})" for found in live)
        raise UsageProblem(f"several daemons are running: {listed}; choose one with --url or --context")
    return Place(ENDPOINT, live[0].url, live[0].token_file, live[0].token)


def _environment_token() -> Credential | None:
    path, text = os.environ.get("RUNTIMECTL_TOKEN_FILE"), os.environ.get("RUNTIMECTL_TOKEN")
    if path:
        return Credential("RUNTIMECTL_TOKEN_FILE", path)
    return Credential("RUNTIMECTL_TOKEN", text=text) if text else None


def _own(chosen: Place | None) -> Credential | None:
    if chosen is None or not (chosen.token or chosen.token_file):
        return None
    url = chosen.url if chosen.source == ENDPOINT else None
    if chosen.token:
        return Credential(f"the token in {chosen.source}", text=chosen.token, url=url)
    return Credential(chosen.source, chosen.token_file, url=url)


def _at(url: str) -> Place | None:
    for found in _serving(address.parse(url)):
        if found.alive():
            return Place(ENDPOINT, found.url, found.token_file, found.token)
    return None


def gone(meant: Address) -> int | None:
    """The process id of a daemon that served at an address and is gone; None where one is there, or none is known."""
    known = _serving(meant)
    return known[0].pid if known and not any(found.alive() for found in known) else None


def _serving(meant: Address) -> "list[Endpoint]":
    """The endpoints at an address, those of daemons that are gone too."""
    from runtimed.wire import endpoint

    found = []
    for one in endpoint.known():
        with suppress(UsageProblem):
            if meant.leads_to(address.parse(one.url)):
                found.append(one)
    return found


def _sought(chosen: Place) -> str:
    """Where a token for a daemon was looked for, and not found."""
    from runtimed.wire import endpoint

    context = "" if chosen.source in {"--url", "RUNTIMECTL_URL", ENDPOINT} else f", {chosen.source}"
    files = f"an endpoint file for {chosen.url} in {endpoint.folder()}"
    return f"--token-file, RUNTIMECTL_TOKEN_FILE, RUNTIMECTL_TOKEN{context} and {files}"


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise UsageProblem(f"token file {path}: others can read it; expected mode 0600")
            found = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise UsageProblem(f"token file {path}: {error.strerror}") from None
    return _checked(found.decode("ascii", "replace").strip(), f"token file {path}")


def _checked(token: str, source: str) -> str:
    if not token:
        raise UsageProblem(f"{source}: it is empty")
    if len(token) > MAX_TOKEN_BYTES or not all("!" <= char <= "~" for char in token):
        raise UsageProblem(f"{source}: expected one token of at most {MAX_TOKEN_BYTES} visible ASCII characters")
    return token
