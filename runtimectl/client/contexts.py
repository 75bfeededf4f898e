"""The contexts of a user: names for daemons, kept in a file."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from runtimectl.errors import UsageProblem

MAX_FILE_BYTES = 1 << 20


class Context(NamedTuple):
    """A daemon's URL and the paths of the files for it. A context never holds a token.

    Attributes:
        url: The URL.
        token_file: The token file.
        ca: The certificates to trust.
        cert: The client's own certificate.
        key: Its key.
    """

    url: str
    token_file: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class Contexts:
    """The contexts by name, and the name of the current one or None. They are stored in one file with mode 0600."""

    def __init__(self, current: str | None = None, by_name: dict[str, Context] | None = None) -> None:
        self.current = current
        self.by_name = by_name or {}

    def get(self, name: str) -> Context:
        """Return the context of this name. Raises UsageProblem if there is none."""
        try:
            return self.by_name[name]
        except KeyError:
            known = ", ".join(sorted(self.by_name)) or "none"
            raise UsageProblem(f"context: {name!r} does not exist; known contexts: {known}") from None

    def save(self) -> None:
        """Replace the file atomically. Raises UsageProblem if it cannot be written."""
        target = location()
        body = {"current": self.current, "contexts": {name: _dumped(c) for name, c in self.by_name.items()}}
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(target, json.dumps(body, indent=2) + "\n")
        except OSError as error:
            raise UsageProblem(f"{target}: {error.strerror}") from None


def location() -> Path:
    """Return the path of the file."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "runtimectl" / "contexts.json"


def load() -> Contexts:
    """Read the file; no contexts if it does not exist. Raises UsageProblem if it cannot be read or is invalid."""
    path = location()
    try:
        with path.open("rb") as file:
            body = json.loads(file.read(MAX_FILE_BYTES))
        return Contexts(body["current"], {name: _loaded(given) for name, given in body["contexts"].items()})
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise UsageProblem(f"{path}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UsageProblem(
            f"{path}: expected a file written by runtimectl context; remove it and set the contexts again"
        ) from None


def _loaded(given: dict[str, Any]) -> Context:
    paths = [given.get(name) for name in Context._fields[1:]]
    if not isinstance(given["url"], str) or not all(isinstance(path, str | None) for path in paths):
        raise TypeError
    return Context(given["url"], *paths)


def _dumped(context: Context) -> dict[str, str]:
    return {name: value for name, value in context._asdict().items() if value is not None}


def _replace(target: Path, text: str) -> None:
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    draft.replace(target)
