"""One request that is passed on to an upstream, and its response that is passed back."""

import os
from collections.abc import AsyncIterator, Callable

import aiohttp
import attrs
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from runtimed.gateways.credentials import Credentials, RealHeaders
from runtimed.gateways.patience import Patience
from runtimed.gateways.refused import Refused

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@attrs.frozen
class Limits:
    """What one exchange may take in seconds and bytes, and how many of one Worker run at the same time."""

    connect_timeout_s: float
    silence_timeout_s: float
    total_timeout_s: float
    max_request_bytes: int
    max_response_bytes: int
    max_requests: int


@attrs.frozen
class Route:
    """Where a request goes.

    Attributes:
        url: The URL of the request to the upstream.
        credentials: The headers that are set on the way out.
        locate: Returns the `Location` for the Worker from that of the upstream, which is absolute.
    """

    url: URL
    credentials: Credentials
    locate: Callable[[URL], str]

    def location(self, sent: str) -> str:
        """Return the `Location` for the Worker from the one that the upstream sent."""
        try:
            return self.locate(self.url.join(URL(sent, encoded=True)))
        except ValueError:
            return sent  # it is no URL


class _Response(web.StreamResponse):
    """Sends its head together with the first piece of its body, if that is there already."""

    _send_headers_immediately = False


class Exchange:
    """Passes a request on and its response back, piece by piece, and holds no more than a few pieces.

    Args:
        request: The request of the Worker.
        limits: What the exchange may take.
    """

    def __init__(self, request: web.BaseRequest, limits: Limits) -> None:
        self._request = request
        self._limits = limits
        self._patience = Patience(limits.silence_timeout_s, limits.total_timeout_s)
        self._response: web.StreamResponse | None = None
        self._fault: Refused | None = None

    @property
    def status(self) -> int | None:
        """The status of the response that has begun."""
        return None if self._response is None else self._response.status

    def cut(self) -> web.StreamResponse | None:
        """Break off a response that has begun, so that the Worker can see that it is incomplete."""
        if self._response is not None:
            self._request.protocol.force_close()
        return self._response

    async def run(self, session: aiohttp.ClientSession, route: Route, real: RealHeaders) -> web.StreamResponse:
        """Send the request, and return the response when all of it was passed back.

        Args:
            session: The client.
            route: Where the request goes.
            real: The headers that are set on the way out.

        Raises:
            Refused: The upstream cannot be reached, is too slow, breaks off, or a body is too large.
        """
        try:
            async with self._patience:
                return await self._run(session, route, real)
        except TimeoutError:
            raise Refused(504, "upstream_timeout", "the upstream did not answer or go on in time") from None
        except aiohttp.ClientError as error:
            # The text of the error can have the real headers in it.
            raise self._fault or Refused(502, "upstream_failed", f"the upstream failed: {_reason(error)}") from None

    async def _run(self, session: aiohttp.ClientSession, route: Route, real: RealHeaders) -> web.StreamResponse:
        upstream = await session.request(
            self._request.method,
            route.url,
            headers=real.request(self._request.headers),
            data=self._body(),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._limits.connect_timeout_s),
        )
        try:
            return await self._pass_back(upstream, _response_headers(upstream, route, real), real)
        finally:
            upstream.close()  # frees nothing of a response that was read to its end

    def _body(self) -> bytes | AsyncIterator[bytes] | None:
        request, limit = self._request, self._limits.max_request_bytes
        if not request.body_exists:
            return None
        if (request.content_length or 0) > limit:
            raise self._too_large()
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(CONTINUE)
        if not request.content.is_eof():
            return self._upload()
        body = request.content.read_nowait()
        if len(body) > limit:
            raise self._too_large()
        return body

    async def _upload(self) -> AsyncIterator[bytes]:
        sent = 0
        try:
            async for chunk in self._request.content.iter_any():
                self._patience.touch()
                sent += len(chunk)
                if sent > self._limits.max_request_bytes:
                    self._fault = self._too_large()
                    raise self._fault
                yield chunk
        except web.RequestPayloadError:
            self._fault = Refused(400, "invalid_body", "the body of the request is not valid HTTP")
            raise

    async def _pass_back(
        self, upstream: aiohttp.ClientResponse, headers: CIMultiDict[str], real: RealHeaders
    ) -> web.StreamResponse:
        if upstream.status < 200:
            raise Refused(502, "upstream_failed", "the upstream switched to another protocol")
        content, largest = upstream.content, self._limits.max_response_bytes
        piece = content.read_nowait()
        received = len(piece)
        if max(received, _announced(upstream)) > largest:
            raise _response_too_large(largest)
        response = _Response(status=upstream.status, reason=real.redact(upstream.reason or ""), headers=headers)
        self._response = response
        writer = await response.prepare(self._request)
        if not piece and not content.at_eof() and writer is not None:
            writer.send_headers()
        while not content.at_eof():
            if piece:
                await response.write(piece)
            self._patience.touch()
            piece = await content.readany()
            self._patience.touch()
            received += len(piece)
            if received > largest:
                raise _response_too_large(largest)
        await response.write_eof(piece)
        return response

    def _too_large(self) -> Refused:
        return Refused(413, "request_too_large", f"the request is larger than {self._limits.max_request_bytes} bytes")


def _announced(upstream: aiohttp.ClientResponse) -> int:
    return 0 if upstream.method == "HEAD" else upstream.content_length or 0


def _response_too_large(largest: int) -> Refused:
    return Refused(502, "response_too_large", f"the response is larger than {largest} bytes")


def _response_headers(upstream: aiohttp.ClientResponse, route: Route, real: RealHeaders) -> CIMultiDict[str]:
    headers = real.response(upstream.headers)
    if "Transfer-Encoding" in upstream.headers:
        headers.popall("Content-Length", None)
    if "Location" in headers:
        headers["Location"] = route.location(headers["Location"])
    return headers


def _reason(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not valid"
    if isinstance(error, aiohttp.ClientSSLError):
        return "TLS failed"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {os.strerror(error.errno) if error.errno else 'no address answers'}"
    if isinstance(error, aiohttp.ClientConnectionError):
        return "it closed the connection"
    return "its response is not valid HTTP"
