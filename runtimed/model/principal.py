"""Who sends a request, and what a route lets a client do."""

from typing import Literal

import attrs

Role = Literal["observer", "operator", "admin", "node"]

Verb = Literal[
    "read",
    "create",
    "input",
    "interrupt",
    "restore",
    "stop",
    "cancel",
    "answer",
    "bundles",
    "delete",
    "check",
]
"""What a route does: `read` is a GET or a feed, `answer` resolves a permission request, `bundles` stores a config
bundle, and `check` reads the whole store."""


@attrs.frozen
class Principal:
    """The client on whose behalf a request is served.

    Attributes:
        name: The name of the client's token.
        role: What the client may do.
    """

    name: str
    role: Role


ADMIN = Principal("admin", "admin")
"""A client that has the token of this Runtime."""
