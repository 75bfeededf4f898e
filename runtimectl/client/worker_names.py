"""Find the Worker that a text stands for: an id, a name, a number, `@last`, or a unique prefix."""

from typing import TYPE_CHECKING

from runtimectl.client.session import required_text
from runtimectl.errors import NotFound, UsageProblem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtimectl.client.api import Body, Client

LAST = "@last"
ID_PREFIX = "worker-"
MAX_DIGITS = 8
MAX_LISTED = 8
"""How many Workers an error about an ambiguous text lists."""

ACCEPTED = "an id, a name, a number, @last, or a unique prefix of an id"


def resolve_worker_id(client: "Client", given: str) -> str:
    """Return the id of the Worker that a text stands for.

    Args:
        client: The daemon. It is asked for its Workers, in one list, unless the text is a whole id.
        given: The text.

    Raises:
        NotFound: It stands for no Worker.
        UsageProblem: It is empty, or stands for several.
    """
    from runtimed.model.identity import WORKER_ID

    if WORKER_ID.fullmatch(given):
        return given
    if not given:
        raise UsageProblem(f"worker: expected {ACCEPTED}, got an empty text")
    matches = matching_ids(client.workers()["workers"], given)
    if not matches:
        raise NotFound(
            f"worker: {given!r} is no id, name, number or prefix; list the Workers: runtimectl workers list"
        )
    if len(matches) > 1:
        listed = ", ".join(matches[:MAX_LISTED]) + (" and more" if len(matches) > MAX_LISTED else "")
        raise UsageProblem(f"worker: {given!r} is ambiguous: {listed}")
    return matches[0]


def matching_ids(workers: "Sequence[Body]", given: str) -> list[str]:
    """Return the ids of the Workers that a text may stand for, by the first reading that fits any of them."""
    ids = [required_text(worker, "worker_id") for worker in workers]
    if named := [name for name, worker in zip(ids, workers, strict=True) if worker.get("name") == given]:
        return named
    if (numbered := id_of_number(given)) in ids:
        return [numbered]
    if given == LAST:
        return [max(ids)] if ids else []
    return [known for known in ids if known.startswith(given)]


def id_of_number(given: str) -> str:
    """Return the id with a number, written as in ids but without leading zeros; empty for another text."""
    is_number = 0 < len(given) <= MAX_DIGITS and not given.startswith("0") and not given.strip("0123456789abcdef")
    return f"{ID_PREFIX}{given:0>{MAX_DIGITS}}" if is_number else ""
