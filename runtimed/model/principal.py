"""Who sends a request, and what a route lets a client do."""

from collections.abc import Mapping
from typing import Literal

import attrs

Role = Literal["observer", "operator", "admin", "node"]

Verb = Literal[
    "read",
    "wait",
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
"""What a route does: `read` is a GET or a feed, `wait` is a GET that waits for a Worker, `answer` resolves a
permission request, `bundles` stores a config bundle, `check` reads the whole store, `tokens` lists or changes tokens,
`drain` ends the daemon, `backup` copies the store, `metrics` counts over all tenants, and `join` makes a host part of
the Runtime."""


READERS: tuple[Role, ...] = ("observer", "operator", "admin")
OPERATORS: tuple[Role, ...] = ("operator", "admin")
ADMINS: tuple[Role, ...] = ("admin",)

ROLES_BY_VERB: Mapping[Verb, tuple[Role, ...]] = {
    "read": READERS,
    "metrics": READERS,
    "wait": OPERATORS,
    "create": OPERATORS,
    "input": OPERATORS,
    "interrupt": OPERATORS,
    "restore": OPERATORS,
    "stop": OPERATORS,
    "cancel": OPERATORS,
    "answer": OPERATORS,
    "bundles": ADMINS,
    "delete": ADMINS,
    "check": ADMINS,
    "tokens": ADMINS,
    "drain": ADMINS,
    "backup": ADMINS,
    "join": ("node", "admin"),
}
"""The roles that may use the routes of a verb, the least first."""

OF_ALL_TENANTS: frozenset[Verb] = frozenset({"metrics", "check", "drain", "backup", "join"})
"""The verbs that reach the data of all tenants: a principal of one tenant may not use them."""

OF_ALL_WORKERS: frozenset[Verb] = OF_ALL_TENANTS - {"metrics"}
"""The verbs that reach the data of all Workers: a principal with labels may not use them."""


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

    @property
    def sees_all(self) -> bool:
        """Whether it sees everything: neither a tenant nor labels narrow it."""
        return self.tenant is None and not self.labels

    def sees_tenant(self, tenant: str | None) -> bool:
        """Return whether it sees what belongs to a tenant, or to none."""
        return self.tenant in {None, tenant}

    def sees(self, tenant: str | None, labels: Mapping[str, str]) -> bool:
        """Return whether it sees the Workers of a tenant that have these labels."""
        return self.sees_tenant(tenant) and all(labels.get(key) == value for key, value in self.labels)

    @property
    def actor(self) -> str:
        """How events name it, such as `token:default`."""
        return f"token:{self.name}"

    def refusal(self, verb: Verb) -> str | None:
        """Return why it may not use the routes of a verb, or None if it may."""
        roles = ROLES_BY_VERB[verb]
        if self.role not in roles:
            return f"a token with the role {self.role} may not do this; expected the role {' or '.join(roles)}"
        if self.tenant is not None and verb in OF_ALL_TENANTS:
            return "this concerns all tenants; expected a token without a tenant"
        if self.labels and verb in OF_ALL_WORKERS:
            return "this concerns all Workers; expected a token without labels"
        return None


ADMIN = Principal("default", "admin")
"""A client that has the first token of this Runtime."""

ANYONE = Principal("anonymous", "observer")
"""A client of a route that is answered without a token."""
