"""Which daemon a command talks to, and with which token.

The URL: flag, environment, the current context, then the only live endpoint file. A token given by flag or
environment goes wherever the URL points; one that belongs to a context or an endpoint goes there and nowhere else.
"""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from runtimectl import address, contexts
from runtimectl.address import Address
from runtimectl.errors import Unreachable, UsageProblem

MAX_TOKEN_BYTES = 4096
START = "start one with: runtimed --store fs:PATH"


class Wishes(NamedTuple):
    """What flags say; None where they are silent."""

    url: str | None = None
    token_file: str | None = None
    context: str | None = None


class _Place(NamedTuple):
    """A daemon and the token that belongs to it."""

    url: str
    token_file: str | None = None
    token: str | None = None


def find(wishes: Wishes, runtime_id: str | None = None) -> Address:
    """The daemon's address; with a runtime id, that of this Runtime where endpoint files are asked.

    Raises UsageProblem when the settings name none clearly, Unreachable when no daemon is running.
    """
    by_flag = _named(wishes.url, wishes.context)
    place = by_flag or _from_environment() or _current() or _only_live(runtime_id)
    return address.parse(place.url)._replace(token=_token(wishes, place, by_flag is not None))


def _named(url: str | None, context: str | None) -> _Place | None:
    if url:
        return _Place(url)
    return _Place(*contexts.load().get(context)) if context else None


def _from_environment() -> _Place | None:
    return _named(os.environ.get("RUNTIMECTL_URL"), os.environ.get("RUNTIMECTL_CONTEXT"))


def _current() -> _Place | None:
    known = contexts.load()
    return _Place(*known.get(known.current)) if known.current else None


def _only_live(runtime_id: str | None) -> _Place:
    from runtimed.wire import endpoint

    live = [found for found in endpoint.live() if runtime_id in {None, found.runtime_id}]
    if not live:
        raise Unreachable(f"no daemon is running here; {START}")
    if len(live) > 1:
        listed = ", ".join(f"{found.url} ({found.runtime_id})" for found in live)
        raise UsageProblem(f"several daemons are running: {listed}; choose one with --url or --context")
    return _Place(live[0].url, live[0].token_file, live[0].token)


def _token(wishes: Wishes, place: _Place, by_flag: bool) -> str | None:
    if wishes.token_file:
        return _read(wishes.token_file)
    if by_flag and place.token_file:
        return _read(place.token_file)
    return _environment_token() or _own(place) or _own(_at(place.url))


def _environment_token() -> str | None:
    path = os.environ.get("RUNTIMECTL_TOKEN_FILE")
    return _read(path) if path else _checked(os.environ.get("RUNTIMECTL_TOKEN", ""), "RUNTIMECTL_TOKEN")


def _own(place: _Place | None) -> str | None:
    if place is None:
        return None
    if place.token:
        return _checked(place.token, "the token in the endpoint file")
    return _read(place.token_file) if place.token_file else None


def _at(url: str) -> _Place | None:
    from runtimed.wire import endpoint

    for found in endpoint.live():
        if found.url == url:
            return _Place(found.url, found.token_file, found.token)
    return None


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise UsageProblem(f"token file {path}: others can read it; expected mode 0600")
            found = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise UsageProblem(f"token file {path}: {error.strerror}") from None
    token = _checked(found.decode("ascii", "replace").strip(), f"token file {path}")
    if token is None:
        raise UsageProblem(f"token file {path}: it is empty")
    return token


def _checked(token: str, source: str) -> str | None:
    if not token:
        return None
    if len(token) > MAX_TOKEN_BYTES or not all("!" <= char <= "~" for char in token):
        raise UsageProblem(f"{source}: expected one token of at most {MAX_TOKEN_BYTES} visible ASCII characters")
    return token
