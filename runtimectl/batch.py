"""The same done to several Workers."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runtimectl.errors import ControlError, Missing, UsageProblem
from runtimectl.session import Session, say, worker_id

if TYPE_CHECKING:
    from runtimectl.client import Body, Client
    from runtimectl.output import View


def each(
    session: Session,
    given: Sequence[str],
    act: Callable[["Client", str], "Body"],
    view: "View",
    shown: Callable[[list["Body"]], Sequence["Body"]] = list,
) -> None:
    """Do something to each Worker, whatever becomes of the others, and show what came of it.

    Who is meant is clear before anything is done. `shown` makes of the answers what is printed. What went wrong is
    said; the last of it decides the exit code. Raises ControlError.
    """
    client = session.client()
    done: list[Body] = []
    errors: list[ControlError] = []
    for chosen in _meant(client, given, errors):
        try:
            done.append(act(client, chosen))
        except ControlError as error:
            errors.append(type(error)(f"{chosen}: {error}"))
    if done:
        session.printer().show(view, *shown(done))
    for earlier in errors[:-1]:
        say(str(earlier))
    if errors:
        raise errors[-1]


def _meant(client: "Client", given: Sequence[str], errors: list[ControlError]) -> list[str]:
    """The Workers that are meant, each once, as far as that is clear."""
    meant: dict[str, None] = {}
    for name in given:
        try:
            meant[worker_id(client, name)] = None
        except (Missing, UsageProblem) as error:
            errors.append(error)
    return list(meant)
