"""The heads of requests to a proxy, and of the responses to them."""

import re
from collections.abc import Iterable
from typing import Literal

import attrs

from runtimed.execution.network.addresses import Address, parse_host, parse_port
from runtimed.execution.network.rejection import malformed

CONNECT = "CONNECT"
HTTP_PORT = 80

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TARGET = re.compile(r"[\x21\x22\x24-\x7e]*")
_LENGTH = re.compile(r"[0-9]{1,18}")
_STATUS = re.compile(r"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: |$)")

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "upgrade",
    }
)
"""Headers for one connection alone. Those that frame a body are not among them: bodies are passed on as they are."""

FRAMING = frozenset({"content-length", "transfer-encoding"})
CLOSE = ("Connection: close", "", "")
"""The end of each head that is passed on."""

Body = int | Literal["chunked"]
Header = tuple[str, str]


@attrs.frozen
class ProxyRequest:
    """What a client asks for.

    Attributes:
        host: The host to connect to, as `parse_host` returns it.
        port: The port to connect to.
        head: What to send there before the body. None if the client asks for a tunnel.
        body: The length of the body, or "chunked".
        authorization: The value of `Proxy-Authorization`; empty without one.
    """

    host: str | Address
    port: int
    head: bytes | None
    body: Body
    authorization: str = attrs.field(default="", repr=False)

    @property
    def destination(self) -> str:
        """The host and port as text."""
        host = self.host if isinstance(self.host, str) or self.host.version == 4 else f"[{self.host}]"
        return f"{host}:{self.port}"


def parse_request(head: bytes) -> ProxyRequest:
    """Read the head of a request.

    Args:
        head: The request line and the headers, with the empty line behind them. All lines end with CRLF.

    Raises:
        Rejection: It is malformed or ambiguous, or it is no request to a proxy.
    """
    line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, version = _request_line(line)
    headers = [_header(text) for text in lines]
    body = _body(headers, version)
    if method == CONNECT:
        if body != 0:
            raise malformed("expected no body in a CONNECT request")
        return ProxyRequest(*_authority(target, None), None, 0, _authorization(headers))
    authority, path = _url(method, target)
    host, port = _authority(authority, HTTP_PORT)
    dropped = hop_by_hop(headers) | {"host"}
    kept = [f"{name}: {value}" for name, value in headers if name.lower() not in dropped]
    lines = [f"{method} {path} {version}", f"Host: {authority}", *kept, *CLOSE]
    return ProxyRequest(host, port, "\r\n".join(lines).encode("latin-1"), body, _authorization(headers))


def parse_response(head: bytes) -> tuple[int, bytes]:
    """Read the head of a response.

    Args:
        head: The status line and the headers, with the empty line behind them.

    Returns:
        The status, and the head to pass on to the client, which is told not to reuse the connection.

    Raises:
        ValueError: It is no response of HTTP/1.
    """
    line, *lines = (text.rstrip("\r") for text in head.decode("latin-1").rstrip("\r\n").split("\n"))
    found = _STATUS.match(line)
    if found is None:
        raise ValueError("expected a response of HTTP/1")
    names = [text.partition(":")[0].lower() for text in lines]
    dropped = hop_by_hop((name, text.partition(":")[2]) for name, text in zip(names, lines, strict=True))
    kept = [text for name, text in zip(names, lines, strict=True) if name not in dropped]
    return int(found[1]), "\r\n".join([line, *kept, *CLOSE]).encode("latin-1")


def hop_by_hop(headers: Iterable[Header]) -> frozenset[str]:
    """Return the names, in lower case, of the headers that are for one connection alone."""
    lists = [value for name, value in headers if name.lower() == "connection"]
    named = {option.strip(" \t").lower() for options in lists for option in options.split(",")}
    return HOP_BY_HOP.union(named - FRAMING)


def _request_line(line: str) -> tuple[str, str, str]:
    parts = line.split(" ")
    if len(parts) != 3 or not _METHOD.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise malformed('expected "METHOD URL HTTP/1.1"')
    if parts[2] not in {"HTTP/1.1", "HTTP/1.0"}:
        raise malformed("expected HTTP/1.1 or HTTP/1.0")
    return parts[0], parts[1], parts[2]


def _header(text: str) -> Header:
    found = _HEADER.fullmatch(text)
    if found is None or _CONTROL.search(text):
        raise malformed('expected headers as "Name: value", each on a line of its own')
    return found[1], found[2].rstrip(" \t")


def _authorization(headers: Iterable[Header]) -> str:
    values = [value for name, value in headers if name.lower() == "proxy-authorization"]
    if len(values) > 1:
        raise malformed("expected one Proxy-Authorization")
    return values[0] if values else ""


def _body(headers: Iterable[Header], version: str) -> Body:
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    codings = [value for name, value in headers if name.lower() == "transfer-encoding"]
    if codings:
        if lengths or len(codings) > 1 or codings[0].lower() != "chunked" or version == "HTTP/1.0":
            raise malformed("expected Transfer-Encoding: chunked alone, in HTTP/1.1 and without Content-Length")
        return "chunked"
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(value) for value in lengths):
        raise malformed("expected one Content-Length, a number")
    return int(lengths[0]) if lengths else 0


def _url(method: str, target: str) -> tuple[str, str]:
    """Return the authority and the path of an absolute URL."""
    if target[:7].lower() != "http://":
        raise malformed("this is a proxy: expected a URL that begins with http://, or CONNECT HOST:PORT")
    rest = target[7:]
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    authority, path = rest[:end], rest[end:]
    if not path and method == "OPTIONS":
        return authority, "*"
    return authority, path if path.startswith("/") else f"/{path}"


def _authority(text: str, default: int | None) -> tuple[str | Address, int]:
    host, colon, port = text.rpartition(":")
    if default is not None and (not colon or text.endswith("]")):
        host, port = text, str(default)
    if "@" in text:
        raise malformed("expected a URL without a user name")
    try:
        return parse_host(host), parse_port(port)
    except ValueError as error:
        raise malformed(f"destination: {error}") from None
