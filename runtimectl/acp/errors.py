"""The errors that answer a request of JSON-RPC, each with its code."""

from typing import ClassVar

PARSE_ERROR = -32700
INVALID_REQUEST = -32600


class RpcError(Exception):
    """The base. Its text is the message of the answer."""

    code: ClassVar[int]


class MethodNotFound(RpcError):
    """There is no such method."""

    code = -32601


class InvalidParams(RpcError):
    """A parameter is missing or invalid."""

    code = -32602


class Failed(RpcError):
    """The request failed: the daemon refused it or is away, or the run failed."""

    code = -32603


class SessionNotFound(RpcError):
    """The session is not open here, or its Worker does not exist."""

    code = -32002
