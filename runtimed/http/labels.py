"""Labels in a query, as KEY=VALUE."""

from collections.abc import Iterable

from runtimed.core.state.labels import check_labels
from runtimed.errors import InvalidQuery, InvalidRequest


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """The labels that are asked for. Raises InvalidQuery."""
    wanted: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals or wanted.setdefault(key, value) != value:
            raise InvalidQuery("label: expected KEY=VALUE, each KEY once")
    try:
        check_labels(wanted)
    except InvalidRequest as error:
        raise InvalidQuery(f"label: no Worker has one like it: {error.message}") from None
    return wanted
