"""The filter of request heads: what passes from a connection to its parser, bounded, checked and corrected."""

import re
from collections.abc import Callable
from typing import NoReturn

from runtimed.errors import InvalidRequest, RuntimedError
from runtimed.http.errors import RequestHeadTooLarge

MAX_HEAD_BYTES = 32 * 2**10
MAX_HEADERS = 128
MAX_LINE_BYTES = 8_190
MAX_METHOD_BYTES = 32
MAX_CHUNK_LINE_BYTES = 1_024

END = b"\r\n\r\n"
BROKEN_HEAD = b"\0\r\n\r\n"
"""Passed to the parser instead of a head that was refused, to make it fail."""

BROKEN_CHUNK = b"\0\r\n"
BROKEN_FRAME = b"\xf0\x80\0\0\0\0"
"""A WebSocket frame with reserved bits, which no endpoint accepts. It replaces one that is not masked."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_REQUEST_LINE = rb"(" + _TOKEN + rb"{1,%d}+) ([^\x00-\x20\x7f]++) HTTP/(1\.[01])" % MAX_METHOD_BYTES
_HEADER_LINE = _TOKEN + rb"++:[^\x00-\x08\x0a-\x1f\x7f]*+"

HEAD = re.compile(_REQUEST_LINE + rb"\r\n(?:" + _HEADER_LINE + rb"\r\n){0,%d}+\r\n" % MAX_HEADERS)
REQUEST_LINE = re.compile(_REQUEST_LINE)
HEADER_LINE = re.compile(_HEADER_LINE)
NAME = re.compile(rb"(" + _TOKEN + rb"{1,64}+)([ \t]*):")
METHOD = re.compile(_TOKEN + rb"{1,%d}+(?: |\Z)" % MAX_METHOD_BYTES)
"""The start of a request line. Anything else is refused before its line ends."""

METHODS = frozenset(
    b"ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY"
    b" OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND"
    b" UNLINK UNLOCK UNSUBSCRIBE".split()
)
"""The methods that aiohttp's parser accepts."""

TARGET = re.compile(rb"/[\x21-\x7e]*+|[A-Za-z]++://[\x21-\x7e]++")
AUTHORITY = re.compile(rb"[A-Za-z0-9.\[\]:_-]++")
"""The target of a CONNECT."""

ONCE = (
    *(
        "Content-Length",
        "Content-Location",
        "Content-Range",
        "Content-Type",
        "ETag",
        "Host",
        "Max-Forwards",
        "Server",
    ),
    *("Transfer-Encoding", "Upgrade", "User-Agent"),
)
"""The headers that a head has at most once."""

_ONCE = rb"\r\n(%b):([^\r]*+)" % "|".join(ONCE).encode()
SINGLE = re.compile(_ONCE.lower())
"""Matches in a head in lower case, which takes a third of the time of a match that ignores case."""

NAMED = re.compile(_ONCE, re.IGNORECASE)
UPGRADE = re.compile(rb"\r\nupgrade:[^\r]*+", re.IGNORECASE)
CONNECTION = re.compile(rb"\r\nconnection:([^\r]*+)")
LENGTH = re.compile(rb"[ \t]*+([0-9]{1,18})[ \t]*+")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r]*)?\r")

SLASH = ord("/")
MASKED = 0x80
LONGER = {126: 2, 127: 8}
"""How many bytes the extended length of a frame takes, by the value of its seven bits."""

Step = Callable[["HeadFilter", bytes, int, list[bytes]], int]


class HeadFilter:
    """Filters the bytes of one connection before they reach its parser.

    A head passes once it has arrived as a whole. Bodies and the frames of a WebSocket pass as they arrive. A
    `Content-Type` that is repeated with the same value passes once. An `Upgrade` to anything but a WebSocket does not
    pass, and the request is served as plain HTTP. Once a head is refused, nothing passes any more.

    Attributes:
        refusal: Why a head was refused, or None.
        heads: How many heads have passed.
        held: The beginning of a head that has not arrived as a whole.
    """

    __slots__ = ("_left", "_pieces", "_step", "_then", "_trailer_bytes", "_upgrades", "heads", "held", "refusal")

    def __init__(self) -> None:
        self.refusal: RuntimedError | None = None
        self.heads = 0
        self.held = b""
        self._pieces: list[bytes] = []
        self._left = 0
        self._trailer_bytes = 0
        self._upgrades = False
        self._step: Step | None = HeadFilter._head
        self._then: Step = HeadFilter._head

    def feed(self, data: bytes) -> list[bytes]:
        """Return what passes of these bytes and of those held, in pieces: each head begins a new piece."""
        if self.held:
            data, self.held = self.held + data, b""
        passed: list[bytes] = []
        at, size = 0, len(data)
        try:
            while at < size and self._step is not None:
                at = self._step(self, data, at, passed)
        except RuntimedError as error:
            self.refusal = error
            self._step = None
        last = passed[0] if len(passed) == 1 else b"".join(passed)
        if not self._pieces:
            return [last] if last else []
        pieces, self._pieces = [*self._pieces, last], []
        return pieces

    def _head(self, data: bytes, at: int, passed: list[bytes]) -> int:
        while data.startswith(b"\r\n", at):
            at += 2
        end = data.find(END, at)
        if end < 0:
            self.held = _plausible(data[at:])
            return len(data)
        end += len(END)
        head = self._checked(data[at:end])
        if passed:
            self._pieces.append(b"".join(passed))
            passed.clear()
        passed.append(head)
        self.heads += 1
        return end

    def _checked(self, head: bytes) -> bytes:
        """Return the head as it passes. Raises InvalidRequest, RequestHeadTooLarge."""
        found = HEAD.fullmatch(head)
        if found is None or len(head) > MAX_LINE_BYTES:
            _check_lines(head)
        if found is None:
            _refuse_line()
        method, target, version = found.groups()
        if method not in METHODS or target[0] != SLASH or not target.isascii():
            _check_request(method, target)
        pairs = SINGLE.findall(head.lower())
        single = dict(pairs)
        if len(single) < len(pairs):
            head = _without_repetition(head)
        if version == b"1.1" and b"host" not in single:
            raise InvalidRequest("Host: required, but missing")
        self._upgrades = method == b"CONNECT"
        if b"upgrade" in single:
            if _asks_for_websocket(head.lower(), single[b"upgrade"]):
                self._upgrades = True
            else:
                head = UPGRADE.sub(b"", head)
        self._frame(version, single)
        return head

    def _frame(self, version: bytes, single: dict[bytes, bytes]) -> None:
        """Find the end of the body."""
        coding, length = single.get(b"transfer-encoding"), single.get(b"content-length")
        if coding is not None:
            if coding.strip(b" ") != b"chunked":
                raise InvalidRequest("Transfer-Encoding: expected chunked, and no other coding")
            if length is not None:
                raise InvalidRequest("Content-Length: not accepted beside Transfer-Encoding")
            if version != b"1.1":
                raise InvalidRequest("Transfer-Encoding: not accepted in HTTP/1.0")
            self._step = HeadFilter._chunk
            return
        if length is not None and not LENGTH.fullmatch(length):
            raise InvalidRequest("Content-Length: expected a whole number")
        self._let_pass(int(length or 0), self._behind)

    @property
    def _behind(self) -> Step:
        """Return the step after a request."""
        return HeadFilter._websocket if self._upgrades else HeadFilter._head

    def _let_pass(self, size: int, then: Step) -> None:
        """Let the next bytes pass as they are."""
        self._left, self._then = size, then
        self._step = HeadFilter._content if size else then

    def _content(self, data: bytes, at: int, passed: list[bytes]) -> int:
        """Pass the content of a body, a chunk or a frame."""
        end = min(at + self._left, len(data))
        passed.append(data[at:end])
        self._left -= end - at
        if not self._left:
            self._step = self._then
        return end

    def _chunk(self, data: bytes, at: int, passed: list[bytes]) -> int:
        """Pass the line before a chunk."""
        end = data.find(b"\n", at)
        if end < 0:
            return self._hold_line(data, at, passed, MAX_CHUNK_LINE_BYTES)
        found = CHUNK_SIZE.fullmatch(data, at, end)
        if found is None:
            return self._broken(data, passed, BROKEN_CHUNK)
        self._trailer_bytes = 0
        if size := int(found[1], 16):
            self._let_pass(size + len(b"\r\n"), HeadFilter._chunk)
        else:
            self._step = HeadFilter._trailer
        passed.append(data[at : end + 1])
        return end + 1

    def _trailer(self, data: bytes, at: int, passed: list[bytes]) -> int:
        """Pass a line after the last chunk; an empty one is the end."""
        end = data.find(b"\n", at)
        if end < 0:
            return self._hold_line(data, at, passed, MAX_LINE_BYTES)
        self._trailer_bytes += end - at
        if self._trailer_bytes > MAX_HEAD_BYTES:
            return self._broken(data, passed, BROKEN_CHUNK)
        if data[at:end] == b"\r":
            self._step = self._behind
        passed.append(data[at : end + 1])
        return end + 1

    def _hold_line(self, data: bytes, at: int, passed: list[bytes], max_bytes: int) -> int:
        if len(data) - at > max_bytes:
            return self._broken(data, passed, BROKEN_CHUNK)
        self.held = data[at:]
        return len(data)

    def _websocket(self, data: bytes, at: int, passed: list[bytes]) -> int:
        """Pass the head of a frame: two bytes, its extended length, and the mask, which is required."""
        there = len(data) - at
        if there >= 2 and not data[at + 1] & MASKED:
            return self._broken(data, passed, BROKEN_FRAME)
        short = data[at + 1] & ~MASKED if there >= 2 else 0
        extended = LONGER.get(short, 0)
        if there < 2 + extended:
            self.held = data[at:]
            return len(data)
        payload = int.from_bytes(data[at + 2 : at + 2 + extended]) if extended else short
        self._let_pass(2 + extended + 4 + payload, HeadFilter._websocket)
        return at

    def _broken(self, data: bytes, passed: list[bytes], instead: bytes) -> int:
        """Make the parser refuse these bytes, and everything after them."""
        passed.append(instead)
        self._step = None
        return len(data)


def _plausible(rest: bytes) -> bytes:
    """Return the beginning of a head. Raises InvalidRequest if it cannot become one, RequestHeadTooLarge."""
    if len(rest) > MAX_HEAD_BYTES:
        _refuse_size()
    line, ended, _ = rest.partition(b"\r\n")
    if not (REQUEST_LINE.fullmatch(line) if ended else rest in {b"", b"\r"} or METHOD.match(rest)):
        _refuse_line()
    if rest.count(b"\n") != rest.count(b"\r\n"):
        raise InvalidRequest("the request head: expected lines that end with CR LF")
    return rest


def _check_lines(head: bytes) -> None:
    """Raise the error of the line that is not accepted."""
    if len(head) > MAX_HEAD_BYTES:
        _refuse_size()
    first, *lines = head[: -len(END)].split(b"\r\n")
    if len(first) > MAX_LINE_BYTES:
        raise RequestHeadTooLarge(f"the request line: expected at most {MAX_LINE_BYTES} bytes")
    if not REQUEST_LINE.fullmatch(first):
        _refuse_line()
    for number, line in enumerate(lines, 1):
        _check_header(number, line)
    if len(lines) > MAX_HEADERS:
        raise RequestHeadTooLarge(f"the request head: expected at most {MAX_HEADERS} headers")


def _check_request(method: bytes, target: bytes) -> None:
    """Refuse a request line that the parser would not accept."""
    if method not in METHODS:
        raise InvalidRequest("the request method: expected one of HTTP, in capitals")
    fits = (AUTHORITY if method == b"CONNECT" else TARGET).fullmatch(target)
    if not fits and (method, target) != (b"OPTIONS", b"*"):
        raise InvalidRequest("the request target: expected a path or a URL in ASCII")


def _asks_for_websocket(head: bytes, upgrade: bytes) -> bool:
    """Return whether the parser treats what follows this head, in lower case, as frames."""
    options = b",".join(CONNECTION.findall(head)).split(b",")
    return upgrade.strip(b" \t") == b"websocket" and b"upgrade" in (option.strip(b" ") for option in options)


def _check_header(number: int, line: bytes) -> None:
    named = NAME.match(line)
    name = named[1].decode() if named else f"header {number}"
    if len(line) > MAX_LINE_BYTES:
        raise RequestHeadTooLarge(f"{name}: expected at most {MAX_LINE_BYTES} bytes")
    if named is None:
        raise InvalidRequest(f"{name}: expected NAME: VALUE")
    if named[2]:
        raise InvalidRequest(f"{name}: expected no white space before the colon")
    if not HEADER_LINE.fullmatch(line):
        raise InvalidRequest(f"{name}: expected no control characters")


def _without_repetition(head: bytes) -> bytes:
    """Return a head without its repeated Content-Type.

    Raises InvalidRequest if the values differ, or if another header is repeated that a head has once.
    """
    found: dict[bytes, bytes] = {}
    kept, upto = [], 0
    for match in NAMED.finditer(head):
        name, value = match[1].lower(), match[2].strip(b" \t")
        if name not in found:
            found[name] = value
            continue
        if name != b"content-type":
            raise InvalidRequest(f"{match[1].decode()}: expected once")
        if found[name] != value:
            raise InvalidRequest("Content-Type: expected once, got two different ones")
        kept.append(head[upto : match.start()])
        upto = match.end()
    return b"".join(kept) + head[upto:]


def _refuse_size() -> NoReturn:
    raise RequestHeadTooLarge(f"the request head: expected at most {MAX_HEAD_BYTES} bytes")


def _refuse_line() -> NoReturn:
    raise InvalidRequest("the request line: expected METHOD TARGET HTTP/1.1")
