"""What the configuration of a gateway means: its upstream and the requests that it passes on."""

import re
from typing import Self
from urllib.parse import urlsplit

import attrs

from runtimed.execution.policy import Gateway
from runtimed.gateways.credentials import check_headers
from runtimed.gateways.request_paths import InvalidPath, PathPattern, RequestPath

UPSTREAM_RULE = "expected http://HOST[:PORT][/PATH] or https://…, without a user, a query and a fragment"
ALLOW_RULE = "expected METHOD PATH, such as 'POST /responses'"
REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})
"""TRACE shows the real headers to the Worker."""

_METHOD = re.compile(r"[A-Z]{1,32}", re.ASCII)
_HOST = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?", re.ASCII)


@attrs.frozen
class Origin:
    """The scheme, host and port of a URL, such as `https` and `api.example.com:8443`, in lower case."""

    scheme: str
    netloc: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


def split_url(text: str) -> tuple[Origin, str]:
    """Return the origin of an HTTP URL, and its path as it is written.

    Raises:
        ValueError: It is not a plain `http` or `https` URL.
    """
    url = urlsplit(text)
    if url.port == 0:  # reading it raises ValueError if it is no port
        raise ValueError(f"{text!r}: {UPSTREAM_RULE}")
    host = url.netloc.lower().removesuffix(f":{url.port}")
    if url.scheme not in {"http", "https"} or not _HOST.fullmatch(host) or set(text) & {"?", "#"}:
        raise ValueError(f"{text!r}: {UPSTREAM_RULE}")
    return Origin(url.scheme, url.netloc.lower()), url.path


@attrs.frozen
class Upstream:
    """Where a gateway sends requests: an origin, and an encoded path without a `/` at its end."""

    origin: Origin
    base: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the URL of an upstream.

        Raises:
            ValueError: It is no plain URL.
        """
        try:
            origin, path = split_url(text)
            return cls(origin, RequestPath.parse(path or "/").encoded.rstrip("/"))
        except InvalidPath as error:
            raise ValueError(f"upstream: {text!r}: {error}") from None
        except ValueError:
            raise ValueError(f"upstream: {text!r}: {UPSTREAM_RULE}") from None

    def __str__(self) -> str:
        return f"{self.origin}{self.base}"


@attrs.frozen
class AllowRule:
    """A method, and a pattern of paths below the upstream."""

    method: str
    path: PathPattern

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a rule, such as `POST /responses`.

        Raises:
            ValueError: It is none. The message says what is accepted.
        """
        method, _, path = text.partition(" ")
        if not _METHOD.fullmatch(method) or method in REFUSED_METHODS:
            raise ValueError(f"allow: {text!r}: {ALLOW_RULE}, and neither CONNECT nor TRACE")
        try:
            return cls(method, PathPattern.parse(path))
        except ValueError as error:
            raise ValueError(f"allow: {text!r}: {ALLOW_RULE}: {error}") from None

    def matches(self, method: str, path: str) -> bool:
        """Return whether a request is allowed by this rule."""
        return method == self.method and self.path.matches(path)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def check_gateway(gateway: Gateway) -> None:
    """Check the configuration of a gateway.

    Raises:
        ValueError: A value is invalid. The message begins with its key, and says what is accepted.
    """
    Upstream.parse(gateway.upstream)
    check_headers(gateway.headers)
    if not gateway.allow:
        raise ValueError(f"allow: expected at least one request; {ALLOW_RULE}")
    for rule in gateway.allow:
        AllowRule.parse(rule)
