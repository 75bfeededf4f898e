"""Read answers and events into values of the model. Unknown fields are ignored: a newer daemon may add some."""

from typing import Any, TypeVar

import orjson

from runtimectl.errors import DaemonFailed
from runtimed.model.event import EventEnvelope
from runtimed.wire import envelopes
from runtimed.wire.converter import make_strict_converter
from runtimed.wire.problems import first_problem

T = TypeVar("T")

_converter = make_strict_converter(explaining=False, allows_unknown=True)
_explaining = make_strict_converter(explaining=True, allows_unknown=True)


def decoded(body: bytes, envelope: str) -> Any:
    """Return the value in a body.

    Args:
        body: The body of a response.
        envelope: The name of its type in `runtimed.wire.envelopes`.

    Raises:
        DaemonFailed: The body does not fit the contract.
    """
    try:
        value = orjson.loads(body)
    except ValueError:
        raise DaemonFailed("unexpected response: expected JSON, as a runtimed answers") from None
    return structured(value, getattr(envelopes, envelope))


def event(envelope: dict[str, Any]) -> EventEnvelope:
    """Return an event of a feed. Raises DaemonFailed if it does not fit the contract."""
    return structured(envelope, EventEnvelope)


def encoded(value: Any) -> dict[str, Any]:
    """Return a value of the model as a JSON object."""
    found: dict[str, Any] = _converter.unstructure(value)
    return found


def structured(value: Any, kind: type[T]) -> T:
    """Return a JSON value as a value of the model. Raises DaemonFailed if it does not fit."""
    try:
        return _converter.structure(value, kind)
    except Exception:  # noqa: BLE001 the explaining converter meets the same problem
        return _explained(value, kind)


def _explained(value: Any, kind: type[T]) -> T:
    try:
        return _explaining.structure(value, kind)
    except Exception as error:
        problem = first_problem(error)
        place = problem.path or "the body"
        raise DaemonFailed(f"unexpected response: {place}: {problem.problem}") from error
