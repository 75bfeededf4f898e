"""Find the daemon that a command talks to, and the token for it.

The daemon comes from an option, the environment, the current context, or the only endpoint file of a running daemon,
in this order. A token from an option or the environment is sent to any daemon. A token of a context or an endpoint
file is sent to that daemon only.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runtimectl.client import address, contexts
from runtimectl.client.address import Address
from runtimectl.client.contexts import Context
from runtimectl.client.tls import TlsOptions
from runtimectl.errors import MissingFile, NotConnected, UsageProblem

if TYPE_CHECKING:
    from runtimed.wire.endpoint import Endpoint

MAX_TOKEN_BYTES = 4096
START = "start one with: runtimed --store fs:PATH"
ENDPOINT = "the endpoint file"


class DaemonOptions(NamedTuple):
    """The options that name a daemon; None for one that is not given."""

    url: str | None = None
    token_file: str | None = None
    context: str | None = None
    ca: str | None = None


class Target(NamedTuple):
    """A daemon: what named it (an option, a variable, a context, an endpoint file), and what came with its URL."""

    source: str
    url: str
    token_file: str | None = None
    token: str | None = None
    tls_options: TlsOptions = TlsOptions()


class Credential(NamedTuple):
    """A token, or the file that holds it.

    Attributes:
        source: What named the token.
        path: The file of the token, or None if `text` is the token.
        text: The token itself.
        url: The only URL that the token may be sent to; None for any.
    """

    source: str
    path: str | None = None
    text: str = ""
    url: str | None = None

    def read(self) -> str:
        """Return the token. Raises UsageProblem if the file is unreadable or open to others, or holds no token."""
        return _checked_token(self.text, self.source) if self.path is None else _read_token_file(self.path)


def find_address(options: DaemonOptions, runtime_id: str | None = None) -> Address:
    """Find the daemon and its token.

    Args:
        options: The options of the command line.
        runtime_id: Consider only endpoint files of this Runtime.

    Raises:
        UsageProblem: An option, a variable or a file is invalid, or several daemons run and none is named.
        NotConnected: No daemon is named, and none runs.
    """
    target = find_target(options, runtime_id)
    return address_of(options, target, find_credential(options, target))


def address_of(options: DaemonOptions, target: Target, credential: Credential | None) -> Address:
    """Return the address of a target, with its token or with the places that were searched for one.

    Raises:
        UsageProblem: The URL or the token file is invalid.
    """
    url = target.url if credential is None else credential.url or target.url
    found = address.parse(url)
    if found.tls:
        found = found._replace(tls_options=find_tls_options(options, target))
    if credential is None:
        return found._replace(searched=_searched(target))
    return found._replace(token=credential.read(), has_given_token=credential.url is None)


def find_target(options: DaemonOptions, runtime_id: str | None = None) -> Target:
    """Find the daemon. Takes and raises what `find_address` does."""
    return _from_options(options) or _from_environment() or _from_current_context() or _only_running(runtime_id)


def find_credential(options: DaemonOptions, target: Target) -> Credential | None:
    """Find the token for a daemon; None if nothing names one."""
    if options.token_file:
        return Credential("--token-file", options.token_file)
    if _from_options(options) and target.token_file:
        return Credential(target.source, target.token_file)
    return _environment_token() or _own_token(target) or _own_token(_published_at(target.url))


def find_tls_options(options: DaemonOptions, target: Target) -> TlsOptions:
    """Find how a daemon is verified by TLS, and the client's own certificate.

    Raises:
        UsageProblem: There is a key without its certificate.
    """
    given = os.environ.get
    variables = TlsOptions(given("RUNTIMECTL_CA"), given("RUNTIMECTL_CERT"), given("RUNTIMECTL_KEY"))
    own = target.tls_options
    first, second = (own, variables) if _from_options(options) else (variables, own)
    if variables.key and not variables.cert:
        raise UsageProblem("RUNTIMECTL_CERT: required with RUNTIMECTL_KEY")
    _, cert, key, _ = first if first.cert else second
    certificate = own.certificate or getattr(_published_at(target.url), "tls_options", own).certificate
    return TlsOptions(options.ca or first.ca or second.ca or None, cert or None, key or None, certificate)


def _from_options(options: DaemonOptions) -> Target | None:
    return _from_url("--url", options.url) or _from_context("--context", options.context)


def _from_environment() -> Target | None:
    given = os.environ.get
    return _from_url("RUNTIMECTL_URL", given("RUNTIMECTL_URL")) or _from_context(
        "RUNTIMECTL_CONTEXT", given("RUNTIMECTL_CONTEXT")
    )


def _from_current_context() -> Target | None:
    known = contexts.load()
    return _in_context(f"the current context {known.current}", known.get(known.current)) if known.current else None


def _from_url(source: str, url: str | None) -> Target | None:
    return Target(source, url) if url else None


def _from_context(source: str, name: str | None) -> Target | None:
    return _in_context(f"{source} {name}", contexts.load().get(name)) if name else None


def _in_context(source: str, context: Context) -> Target:
    tls_options = TlsOptions(context.ca, context.cert, context.key)
    return Target(source, context.url, context.token_file, tls_options=tls_options)


def _only_running(runtime_id: str | None) -> Target:
    from runtimed.wire import endpoint

    known = [found for found in endpoint.known() if runtime_id in {None, found.runtime_id}]
    running = [found for found in known if found.alive()]
    if not running:
        ended = "".join(f" (process {found.pid} that served {found.url} has ended)" for found in known[-1:])
        raise NotConnected(f"no daemon is running here{ended}; {START}")
    if len(running) > 1:
        listed = ", ".join(f"{found.url} ({found.runtime_id})" for found in running)
        raise UsageProblem(f"several daemons are running: {listed}; choose one with --url or --context")
    return _published(running[0])


def _published(found: "Endpoint") -> Target:
    tls_options = TlsOptions(certificate=found.certificate)
    return Target(ENDPOINT, found.url, found.token_file, found.token, tls_options)


def _environment_token() -> Credential | None:
    path, text = os.environ.get("RUNTIMECTL_TOKEN_FILE"), os.environ.get("RUNTIMECTL_TOKEN")
    if path:
        return Credential("RUNTIMECTL_TOKEN_FILE", path)
    return Credential("RUNTIMECTL_TOKEN", text=text) if text else None


def _own_token(target: Target | None) -> Credential | None:
    if target is None or not (target.token or target.token_file):
        return None
    url = target.url if target.source == ENDPOINT else None
    if target.token:
        return Credential(f"the token in {target.source}", text=target.token, url=url)
    return Credential(target.source, target.token_file, url=url)


def _published_at(url: str) -> Target | None:
    found = serving_process(address.parse(url))
    return None if found is None else _published(found)


def serving_process(served: Address) -> "Endpoint | None":
    """Return the endpoint of the daemon on this machine that serves an address, or None."""
    return next((found for found in _endpoints_at(served) if found.alive()), None)


def ended_process(served: Address) -> int | None:
    """Return the process id of a daemon that served an address and has ended.

    None if a daemon with an endpoint file serves the address, or if no endpoint file names it.
    """
    known = _endpoints_at(served)
    return known[0].pid if known and not any(found.alive() for found in known) else None


def _endpoints_at(served: Address) -> "list[Endpoint]":
    """Return the endpoints with this address, including those of daemons that have ended."""
    from runtimed.wire import endpoint

    matching = []
    for found in endpoint.known():
        with suppress(UsageProblem):
            if served.matches(address.parse(found.url)):
                matching.append(found)
    return matching


def _searched(target: Target) -> str:
    """Return the places that were searched for a token."""
    from runtimed.wire import endpoint

    context = "" if target.source in {"--url", "RUNTIMECTL_URL", ENDPOINT} else f", {target.source}"
    files = f"the endpoint files for {target.url} in {endpoint.folder()}"
    return f"--token-file, RUNTIMECTL_TOKEN_FILE, RUNTIMECTL_TOKEN{context} and {files}"


def _read_token_file(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise UsageProblem(f"token file {path}: mode {mode:04o} lets others read it; expected 0600")
            found = file.read(MAX_TOKEN_BYTES + 1)
    except FileNotFoundError as error:
        raise MissingFile(f"token file {path}: {error.strerror}") from None
    except OSError as error:
        raise UsageProblem(f"token file {path}: {error.strerror}") from None
    return _checked_token(found.decode("ascii", "replace").strip(), f"token file {path}")


def _checked_token(token: str, source: str) -> str:
    if not token:
        raise UsageProblem(f"{source}: expected a token, got an empty text")
    if len(token) > MAX_TOKEN_BYTES or not all("!" <= char <= "~" for char in token):
        raise UsageProblem(f"{source}: expected one token of at most {MAX_TOKEN_BYTES} visible ASCII characters")
    return token
