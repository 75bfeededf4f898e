"""Tokens: what grants a client access, and the request that makes one."""

import attrs

from runtimed.model.principal import Principal, Role
from runtimed.model.value import value


@value
class CreateTokenRequest:
    """A request to make a token.

    Attributes:
        name: 1 to 63 characters of `A-Z a-z 0-9 . _ -`, letters or digits at both ends. Unique in the Runtime.
        role: What its client may do.
        tenant: The only tenant whose Workers, bundles and events its client sees and makes. Formed like a name.
        labels: Of these Workers its client sees those that have all of these labels.
        expires_in_s: In how many seconds it expires, from 1 to 315360000. Left out: never.
    """

    name: str
    role: Role
    tenant: str | None = None
    labels: dict[str, str] = attrs.field(factory=dict)
    expires_in_s: int | None = None


@value
class Token:
    """A token, without its secret.

    Attributes:
        role: What its client may do.
        created_at_ms: Unix time in milliseconds. Left out for `default`, the first token.
        tenant: The only tenant whose Workers, bundles and events its client sees and makes.
        labels: Of these Workers its client sees those that have all of these labels.
        expires_at_ms: From this Unix time in milliseconds on it is refused.
        created_by: The client that made it, as `token:NAME`. Left out for `default`.
    """

    name: str
    role: Role
    created_at_ms: int | None = None
    tenant: str | None = None
    labels: dict[str, str] = attrs.field(factory=dict)
    expires_at_ms: int | None = None
    created_by: str | None = None

    @property
    def principal(self) -> Principal:
        """The client that sends it."""
        return Principal(self.name, self.role, self.tenant, tuple(sorted(self.labels.items())))

    def is_expired(self, unix_ms: int) -> bool:
        """Return whether it is refused at this Unix time in milliseconds."""
        return self.expires_at_ms is not None and self.expires_at_ms <= unix_ms


@value
class NewToken:
    """A token that was made, with its secret.

    Attributes:
        secret: What its client sends. Nothing else ever shows it.
    """

    token: Token
    secret: str = attrs.field(repr=False)
