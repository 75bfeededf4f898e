"""The contexts of a user: names for daemons. A context holds a URL and the path of a token file, never a token."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from runtimectl.errors import UsageProblem

MAX_FILE_BYTES = 1 << 20


class Context(NamedTuple):
    """One daemon."""

    url: str
    token_file: str | None = None


class Contexts:
    """The contexts by name and the name of the current one, if any, as one file (0600) holds them."""

    def __init__(self, current: str | None = None, by_name: dict[str, Context] | None = None) -> None:
        self.current = current
        self.by_name = by_name or {}

    def get(self, name: str) -> Context:
        """The context of this name. Raises UsageProblem."""
        try:
            return self.by_name[name]
        except KeyError:
            known = ", ".join(sorted(self.by_name)) or "none"
            raise UsageProblem(f"context: there is no {name!r}; known: {known}") from None

    def save(self) -> None:
        """Write the file as a whole, or leave it as it was. Raises UsageProblem."""
        target = location()
        body = {"current": self.current, "contexts": {name: _dumped(c) for name, c in self.by_name.items()}}
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(target, json.dumps(body, indent=2) + "\n")
        except OSError as error:
            raise UsageProblem(f"{target}: {error.strerror}") from None


def location() -> Path:
    """Where the file is."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "runtimectl" / "contexts.json"


def load() -> Contexts:
    """What the file says; nothing where there is none. Raises UsageProblem."""
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
        raise UsageProblem(f"{path}: this is no file of contexts; set them anew after removing it") from None


def _loaded(given: dict[str, Any]) -> Context:
    token_file = given.get("token_file")
    if not isinstance(given["url"], str) or not isinstance(token_file, str | None):
        raise TypeError
    return Context(given["url"], token_file)


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
