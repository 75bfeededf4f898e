"""Take over a changed configuration while the daemon runs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import attrs

from runtimed.errors import StartError
from runtimed.settings import Settings

Apply = Callable[[], None]
"""Applies what was prepared. It should not fail: the other parts are applied nevertheless."""

AT_START = frozenset({"sandbox.uids"})
"""The entries of tables that change at the next start only."""

log = logging.getLogger(__name__)


def reads_no_configuration() -> None:
    """Read the settings again where nothing can change them."""


@attrs.frozen
class Part:
    """A part of the daemon that takes new settings while it runs.

    Attributes:
        settings: The names of these settings.
        prepare: Checks the new settings and what they name, changes nothing, and returns what applies them. Raises
            ConfigurationError if something is wrong. Settings that change at the next start only are those in use.
        rereads: Prepare at each reload, also if no setting has changed: they name files, whose content may have.
    """

    settings: frozenset[str]
    prepare: Callable[[Settings], Awaitable[Apply]]
    rereads: bool = False


class Reload:
    """Reads the settings again, and hands them to the parts of the daemon: to all, or to none if something is wrong.

    Args:
        current: The settings in use.
        load: Reads the settings again; returns None if there is no configuration file. Blocks.
        parts: What takes settings while the daemon runs.
    """

    def __init__(self, current: Settings, load: Callable[[], Settings | None], parts: Sequence[Part]) -> None:
        self._current = current
        self._load = load
        self._parts = parts
        self._live = frozenset[str]().union(*(part.settings for part in parts))

    async def run(self) -> str:
        """Reload once. The log says what has changed, or why nothing has.

        Returns:
            The outcome, for people.
        """
        later = set[str]()
        try:
            found = await asyncio.to_thread(self._load)
            if found is None:
                log.info("there is no configuration file: only the files that settings name are read again")
            new = found or self._current
            changed = {name for name in _names(Settings) if getattr(new, name) != getattr(self._current, name)}
            later = changed - self._live
            due = [part for part in self._parts if part.rereads or part.settings & changed]
            live = attrs.evolve(self._current, **{name: getattr(new, name) for name in changed & self._live})
            await asyncio.to_thread(live.check)  # new and present settings may not go together
            prepared = [await part.prepare(live) for part in due]
        except (StartError, OSError) as error:
            reason = f"{error}{_advice(error, later)}"
            log.error("the configuration was not reloaded: nothing has changed", extra={"reason": reason})
            return f"the last reload failed: {reason}"
        except Exception:
            log.exception("the configuration was not reloaded: nothing has changed")
            return "the last reload failed; the log has the details"
        failures = [apply for apply in prepared if not _is_applied(apply)]
        self._report(new, changed)
        self._current = live
        return "a part of the last reload failed; the log has the details" if failures else "serving"

    def _report(self, new: Settings, changed: Iterable[str]) -> None:
        entries = {
            entry
            for name in self._live.intersection(changed)
            for entry in _entries(name, getattr(self._current, name), getattr(new, name))
        }
        log.info("configuration reloaded", extra={"changed": _listed(entries - AT_START) or "nothing"})
        if others := set(changed) - self._live | entries & AT_START:
            log.warning("these settings change at the next start only", extra={"settings": _listed(others)})


def _is_applied(apply: Apply) -> bool:
    try:
        apply()
    except Exception:
        log.exception("a part of the configuration was not applied")
        return False
    return True


def _advice(error: Exception, later: set[str]) -> str:
    """Return what to do about a setting in use that is wrong now, if the configuration has another value for it."""
    name = str(error).partition(":")[0]
    return "; its new value holds from the next start on: restart the daemon" if name in later else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(kind))


def _entries(name: str, before: Any, after: Any) -> list[str]:
    """Return the names of what differs: the entries of a table, or the setting itself. Never a value."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [name]
    return [f"{name}.{key}" for key in {*before, *after} if before.get(key) != after.get(key)]
