"""Labels and names in a query."""

from collections.abc import Iterable

from runtimed.core.state.labels import check_labels, check_name
from runtimed.errors import InvalidRequest
from runtimed.http.errors import InvalidQuery


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """Return the labels that a query gives as KEY=VALUE.

    Raises:
        InvalidQuery: A text is not a label, or two texts give one key different values.
    """
    wanted: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals or wanted.setdefault(key, value) != value:
            raise InvalidQuery("label: expected KEY=VALUE, each KEY once")
    try:
        check_labels(wanted)
    except InvalidRequest as error:
        raise InvalidQuery(f"label: no Worker can have this label: {error.message}") from None
    return wanted


def parse_name(name: str | None) -> str | None:
    """Return the name that a query gives, if any. Raises InvalidQuery if no Worker can have it."""
    try:
        check_name(name)
    except InvalidRequest as error:
        raise InvalidQuery(error.message) from None
    return name
