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
    "tokens",
    "drain",
    "backup",
    "metrics",
    "join",
]
"""What a route does: `read` is a GET or a feed, `answer` resolves a permission request, `bundles` stores a config
bundle, `check` reads the whole store, `tokens` lists or changes tokens, `drain` ends the daemon, `backup` copies the
store, `metrics` counts over all tenants, and `join` makes a host part of the Runtime."""


@attrs.frozen
class Principal:
    """The client on whose behalf a request is served.

    Attributes:
        name: The name of the client's token.
        role: What the client may do.
        tenant: The only tenant whose Workers, bundles and events the client sees and makes; None for all.
        labels: Of the Workers it could see, it sees those that have all of these labels.
    """

    name: str
    role: Role
    tenant: str | None = None
    labels: tuple[tuple[str, str], ...] = ()


ADMIN = Principal("default", "admin")
"""A client that has the first token of this Runtime."""
