"""Keys that keep a repeated request from being carried out twice."""

from hashlib import sha256
from typing import Self

from runtimed.model.value import value


@value
class IdempotencyKey:
    """The key of one request.

    Attributes:
        scope: Names the request among all: a SHA-256 of who sends it, what it asks for and the client's own key.
        body: The SHA-256 of its body. A repeat has the same.
    """

    scope: bytes
    body: bytes

    @classmethod
    def of(cls, *scope: str, body: bytes) -> Self:
        """Return the key of a request with this body; the parts of `scope` name the request together."""
        return cls(sha256("\0".join(scope).encode()).digest(), sha256(body).digest())

    def part(self, name: str) -> "IdempotencyKey":
        """Return the key of a part of the request that is carried out by itself."""
        return IdempotencyKey(sha256(self.scope + name.encode()).digest(), self.body)
