"""The header `Idempotency-Key`."""

import re
from collections.abc import Sequence

import attrs

from runtimed.errors import InvalidRequest
from runtimed.model.idempotency import IdempotencyKey

IDEMPOTENCY_KEY = "Idempotency-Key"
MAX_KEY = 255
KEY = re.compile(rf"[!-~]{{1,{MAX_KEY}}}", re.ASCII)


@attrs.frozen
class ScopedKey:
    """A client's key with the request that it belongs to, but without the body."""

    scope: tuple[str, ...]

    def with_body(self, body: bytes) -> IdempotencyKey:
        """Return the key of the request with this body."""
        return IdempotencyKey.of(*self.scope, body=body)


def read_key(given: Sequence[str], *scope: str) -> ScopedKey:
    """Return the key that the headers of a request give.

    Args:
        given: The values of the header.
        scope: Who sends the request, its method and its path.

    Raises:
        InvalidRequest: The header is malformed or repeated.
    """
    if len(given) != 1 or not KEY.fullmatch(given[0]):
        raise InvalidRequest(f"{IDEMPOTENCY_KEY}: expected once, 1 to {MAX_KEY} visible ASCII characters")
    return ScopedKey((*scope, given[0]))
