"""What a gateway answers by itself."""

from collections.abc import Mapping


class Refused(Exception):
    """A request gets a response of the gateway's own.

    Args:
        status: The status of the response.
        code: A word for programs.
        message: What is wrong, and what is accepted.
        headers: Further headers of the response.
        reason: What the log says, if the Worker may not read it.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None, *, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}
        self.reason = reason or message
