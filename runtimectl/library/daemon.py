"""Which daemon a client talks to."""

from collections.abc import Callable

from runtimectl.client import address, discovery
from runtimectl.client.address import Address
from runtimectl.client.discovery import Credential, DaemonOptions
from runtimectl.client.tls import TlsOptions
from runtimectl.errors import UsageProblem

Finder = Callable[[str | None], Address]
"""Returns the daemon's address. It may read files; with a runtime id only endpoint files of that Runtime count."""

NO_TOKEN = "the arguments token and token_file"  # noqa: S105 a text for people


def finder(url: str, token: str | None, token_file: str | None, tls_options: TlsOptions) -> Finder:
    """Return a finder of the daemon at a URL. The token file is read with the first request.

    Raises:
        UsageProblem: The URL is invalid, both a token and a token file are given, or a key without its certificate.
    """
    parsed = address.parse(url)._replace(tls_options=tls_options)
    if token is not None and token_file is not None:
        raise UsageProblem("token: cannot be combined with token_file")
    if tls_options.key is not None and tls_options.cert is None:
        raise UsageProblem("cert: required with key")
    if token is None and token_file is None:
        return lambda _runtime_id: parsed._replace(searched=NO_TOKEN)
    credential = Credential("token", token_file, token or "")
    return lambda _runtime_id: parsed._replace(token=credential.read(), has_given_token=True)


def find_from_environment(runtime_id: str | None) -> Address:
    """Find the daemon as the command line does without options."""
    return discovery.find_address(DaemonOptions(), runtime_id)
