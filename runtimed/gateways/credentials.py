"""The headers that a gateway checks and replaces, and those that it never passes on."""

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence

import attrs
from multidict import CIMultiDict, CIMultiDictProxy

from runtimed.execution.confinement.secrets import Secrets, SecretUnavailable

SECRET = re.compile(r"(?<![\w-])secret:([\w.@+-]*)", re.ASCII)
"""A reference to a secret. Every name of a secret fits."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", re.ASCII)
HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)
UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")

MIN_REDACTED = 8
"""Shorter secrets occur by chance, so that they are not replaced in the headers of a response."""

CONNECTION_HEADERS = frozenset(
    {
        "connection",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers of one connection. Those that `Connection` names belong to them."""

CREDENTIAL_HEADERS = frozenset(
    {
        "api-key",
        "authorization",
        "cookie",
        "cookie2",
        "job-token",
        "ocp-apim-subscription-key",
        "private-token",
        "x-amz-security-token",
        "x-api-key",
        "x-auth-token",
        "x-goog-api-key",
    }
)

OVERRIDING_HEADERS = frozenset(
    {
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-original-url",
        "x-rewrite-url",
    }
)
"""Headers by which some servers take another method or path than the one that was checked."""

ORIGIN_HEADERS = ("forwarded", "proxy-", "x-forwarded-", "x-real-ip")
RETURNED_CREDENTIALS = frozenset({"set-cookie", "set-cookie2", "proxy-authenticate", "proxy-authentication-info"})


@attrs.frozen
class Credentials:
    """The headers of a gateway.

    A Worker shows its throwaway key where a header has a secret: the header that it sends equals the template with
    the key in place of `secret:NAME`. If several headers have a secret, it sends at least one of them. If none has,
    it sends `Authorization: Bearer KEY`.

    Attributes:
        templates: The headers that are set on the way out, by lower-case name.
        kept: Headers with credentials that are passed on as the Worker sends them, by lower-case name.
        shown: The headers that a Worker sends, with the throwaway key in them, by lower-case name.
        key: The throwaway key.
    """

    templates: Mapping[str, str]
    kept: frozenset[str]
    shown: Mapping[str, str] = attrs.field(repr=False)
    key: str = attrs.field(repr=False)

    @classmethod
    def of(
        cls, headers: Mapping[str, str], key: str, *, key_header: str = "", kept: frozenset[str] = frozenset()
    ) -> "Credentials":
        """Return the credentials of a gateway.

        Args:
            headers: The configured headers.
            key: The throwaway key.
            key_header: The header that has the throwaway key, if it is always the same one.
            kept: Headers with credentials that are passed on as the Worker sends them, in lower case.

        Raises:
            ValueError: A header has an invalid name or value.
        """
        check_headers(headers)
        templates = {name.lower(): value for name, value in headers.items()}
        shown = {name: SECRET.sub(lambda _: key, value) for name, value in templates.items() if SECRET.search(value)}
        if key_header:
            shown = {key_header.lower(): key}
        return cls(templates, kept, shown or {"authorization": f"Bearer {key}"}, key)

    def admits(self, headers: CIMultiDictProxy[str]) -> bool:
        """Return whether a request shows the throwaway key."""
        sent = {name: headers.getall(name) for name in self.shown if name in headers}
        return bool(sent) and all(self._is_shown(name, values) for name, values in sent.items())

    def _is_shown(self, name: str, values: Sequence[str]) -> bool:
        sent, shown = values[0].encode(errors="surrogateescape"), self.shown[name].encode()
        return hmac.compare_digest(sent, shown) and len(values) == 1

    async def real(self, secrets: Secrets) -> "RealHeaders":
        """Return the headers to set on the way out.

        Raises:
            SecretUnavailable: A secret has no value, or one that no header can have.
        """
        names = {name for template in self.templates.values() for name in SECRET.findall(template)}
        values = {name: await secrets.get(name) for name in names}
        for name, value in values.items():
            if not HEADER_VALUE.fullmatch(value):
                raise SecretUnavailable(f"secret {name!r}: expected one line of printable ASCII for use in a header")
        headers = {
            name: SECRET.sub(lambda found: values[found[1]], template) for name, template in self.templates.items()
        }
        redacted = tuple(value for value in values.values() if len(value) >= MIN_REDACTED)
        return RealHeaders(headers, self.kept, redacted, self.key)


@attrs.frozen(repr=False)
class RealHeaders:
    """The real headers of one request."""

    headers: Mapping[str, str]
    kept: frozenset[str]
    redacted: Iterable[str]
    key: str

    def request(self, sent: CIMultiDictProxy[str]) -> CIMultiDict[str]:
        """Return the headers of the request to the upstream, from those of the Worker's request."""
        removed = (
            CONNECTION_HEADERS | OVERRIDING_HEADERS | (CREDENTIAL_HEADERS - self.kept) | _named_by_connection(sent)
        )
        alike = removed | {"content-length", *map(_as_cgi_reads, self.headers)}
        passed = CIMultiDict(
            (name, value)
            for name, value in sent.items()
            if name.lower() not in removed
            and not ("_" in name and _as_cgi_reads(name) in alike)
            and not _as_cgi_reads(name).startswith(ORIGIN_HEADERS)
            and self.key not in value
            and not UNSENDABLE.search(value)
        )
        passed.update(self.headers)
        return passed

    def response(self, received: CIMultiDictProxy[str]) -> CIMultiDict[str]:
        """Return the headers of the response to the Worker, in which its key stands for each real value."""
        removed = CONNECTION_HEADERS | RETURNED_CREDENTIALS | _named_by_connection(received)
        return CIMultiDict(
            (name, self.redact(value))
            for name, value in received.items()
            if name.lower() not in removed and not UNSENDABLE.search(value)
        )

    def redact(self, text: str) -> str:
        """Return a text with the Worker's key in place of the real values."""
        for value in self.redacted:
            text = text.replace(value, self.key)
        return text


def check_headers(headers: Mapping[str, str]) -> None:
    """Check the headers of a gateway's configuration.

    Raises:
        ValueError: One has an invalid name or value, or is one that the gateway sets itself. The message names it.
    """
    names = [name.lower() for name in headers]
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name):
            raise ValueError(f"headers: {name!r}: expected the name of an HTTP header")
        if names.count(name.lower()) > 1:
            raise ValueError(f"headers.{name}: expected each header once; the case of a name makes no difference")
        if name.lower() in CONNECTION_HEADERS or name.lower() == "content-length":
            raise ValueError(f"headers.{name}: the gateway sets this header itself")
        if not HEADER_VALUE.fullmatch(value):
            raise ValueError(f"headers.{name}: expected printable ASCII, such as 'Bearer secret:NAME'")


def _as_cgi_reads(name: str) -> str:
    """Return the name of a header as many servers take it: to CGI and WSGI `_` is the same as `-`."""
    return name.lower().replace("_", "-")


def _named_by_connection(headers: CIMultiDictProxy[str]) -> frozenset[str]:
    lines = headers.getall("Connection", ())
    return frozenset(name.strip().lower() for line in lines for name in line.split(","))
