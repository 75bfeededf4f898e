"""The size of a page of a long list."""

import attrs

from runtimed.errors import LimitTooLarge
from runtimed.model.value import value


@value
class PageSize:
    """At most `items` items, cut short once they hold `max_bytes`. One item always fits."""

    items: int
    max_bytes: int

    def at_most(self, limit: int | None, field: str = "limit", minimum: int = 1) -> "PageSize":
        """Return this size with at most `limit` items.

        Args:
            limit: How many items the client asks for; None keeps the size.
            field: The name of the parameter, for the error.
            minimum: The least that the client may ask for, for the error. It is checked elsewhere.

        Raises:
            LimitTooLarge: `limit` is above `items`.
        """
        if limit is None:
            return self
        if limit > self.items:
            raise LimitTooLarge(field, self.items, minimum)
        return attrs.evolve(self, items=limit)
