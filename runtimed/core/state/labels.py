"""Rules for the names and labels of Workers. Pure."""

import re
from collections.abc import Iterable, Mapping

from runtimed.errors import Forbidden, InvalidRequest

MAX_LABELS = 64
MAX_NAME = 128
MAX_VALUE = 256
KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?", re.ASCII)


def check_name(name: str | None) -> None:
    """Raise InvalidRequest if a name is blank, too long or not printable."""
    if name is not None and not (name.strip() and len(name) <= MAX_NAME and name.isprintable()):
        raise InvalidRequest(f"name: expected 1 to {MAX_NAME} printable characters, not blank")


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidRequest if there are too many labels, or one breaks a rule."""
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(f"labels: expected at most {MAX_LABELS}")
    for key, value in labels.items():
        if not KEY.fullmatch(key):
            raise InvalidRequest(
                "labels: expected keys of 1 to 63 characters of A-Z a-z 0-9 . _ / -, letters or digits at both ends"
            )
        if len(value) > MAX_VALUE or not value.isprintable():
            raise InvalidRequest(f"labels.{key}: expected at most {MAX_VALUE} printable characters")


def narrowed(labels: Mapping[str, str], required: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the labels of a new Worker: those of its request, and those of the token that creates it.

    Raises:
        Forbidden: The request gives one of the token's labels another value.
    """
    made = dict(labels)
    for key, value in required:
        if made.setdefault(key, value) != value:
            raise Forbidden(f"labels.{key}: expected {value}: the labels of the token are those of its Workers")
    return made


def selects(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether `labels` include all of `wanted`."""
    return wanted.items() <= labels.items()
