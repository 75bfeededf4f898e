"""Pages: how much of a long list one read may give out."""

import attrs

from runtimed.errors import LimitTooLarge
from runtimed.model.value import value


@value
class PageSize:
    """At most so many items, cut short once they hold so many bytes; a page is never empty for its size alone."""

    items: int
    max_bytes: int

    def at_most(self, limit: int | None, field: str = "limit", minimum: int = 1) -> "PageSize":
        """This page with fewer items, as a client asked. Raises LimitTooLarge for more than there may be.

        `minimum` is the least that may be asked for. The error tells it; nothing here checks it.
        """
        if limit is None:
            return self
        if limit > self.items:
            raise LimitTooLarge(field, self.items, minimum)
        return attrs.evolve(self, items=limit)
