"""Answers of the proxy itself, in place of those of the server that a client asked for."""

from http import HTTPStatus


class Rejection(Exception):
    """A request cannot be served.

    Attributes:
        status: The HTTP status.
        text: One line that says what was refused, and why.
        headers: Further lines of the head, each with CRLF at its end.
    """

    def __init__(self, status: HTTPStatus, text: str, headers: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers

    def encode(self) -> bytes:
        """Return the whole HTTP response."""
        body = f"runtimed: {self.text}\n".encode()
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n"
            "Content-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"{self.headers}"
            "Connection: close\r\n\r\n"
        )
        return head.encode() + body


def malformed(text: str) -> Rejection:
    """Return the rejection of a request that is not valid."""
    return Rejection(HTTPStatus.BAD_REQUEST, f"malformed request: {text}")
