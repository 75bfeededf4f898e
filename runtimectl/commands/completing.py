"""Values of a running daemon that shells complete: Workers, profiles, bundles, tokens. Errors complete to nothing."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, get_args

import click

from runtimectl.client.session import Session
from runtimectl.client.worker_names import LAST
from runtimectl.errors import ControlError, DeadlineExpired

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from runtimectl.client.api import Client

TIMEOUT_S = 2.0
"""How long a shell waits for a daemon."""

Values = Iterator[tuple[str, str | None]]
"""What may be typed, each with a note for shells that show one."""

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def _completing(find: "Callable[[Client], Values]") -> Complete:
    """Return a completion by what a function finds in the daemon."""

    def complete(context: click.Context, _param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        values = _ask(context.find_object(Session) or Session(), find)
        return [CompletionItem(value, help=note) for value, note in values if value.startswith(incomplete)]

    return complete


def _ask(session: Session, find: "Callable[[Client], Values]") -> list[tuple[str, str | None]]:
    from runtimectl.signals import start_deadline, stop_deadline

    start_deadline(TIMEOUT_S)
    try:
        return list(find(session.client()))
    except (ControlError, DeadlineExpired, LookupError, TypeError, AttributeError):
        return []
    finally:
        stop_deadline()
        session.close()


def _workers(client: "Client") -> Values:
    yield LAST, "the newest Worker"
    for worker in client.workers()["workers"]:
        name = worker.get("name")
        yield worker["worker_id"], name or worker["status"]
        if name and not any(char.isspace() for char in name):
            yield name, worker["worker_id"]


def _profiles(client: "Client") -> Values:
    yield "default", None
    for profile in client.profiles()["profiles"]:
        yield profile["selector"], profile.get("description")


def _bundles(client: "Client") -> Values:
    for bundle in client.bundles()["bundles"]:
        yield f"{bundle['id']}@{bundle['digest']}", bundle["revision"]


def _tokens(client: "Client") -> Values:
    for token in client.tokens()["tokens"]:
        yield token["name"], token["role"]


def complete_event_names(_context: click.Context, _param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Complete the name of an event."""
    from click.shell_completion import CompletionItem

    from runtimed.model.event import Payload

    names = sorted(payload.event for payload in get_args(Payload))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


complete_workers = _completing(_workers)
complete_profiles = _completing(_profiles)
complete_bundles = _completing(_bundles)
complete_tokens = _completing(_tokens)
