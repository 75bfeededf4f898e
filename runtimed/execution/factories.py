"""The execution backends that are installed, each found by the name that profiles use for it."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Literal, Protocol, runtime_checkable

import attrs

from runtimed.core.ports import ExecutionBackend
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.profile import Profile
from runtimed.execution.workspace import Workspaces

GROUP = "runtimed.backends"
"""The group of entry points. The name of an entry point is a `backend` of profiles, its object a BackendFactory."""


@runtime_checkable
class WarmBackend(Protocol):
    """What a backend has besides, if it starts programs before their Workers are known."""

    @property
    def ready(self) -> int:
        """How many programs wait for a Worker."""

    def keep_warm(self, idle_s: float) -> None:
        """Begin to keep `warm` programs of the profile ready, until `end_warm` or `close`. Returns at once.

        Args:
            idle_s: How long they wait for a Worker before they are ended, in seconds.
        """

    async def end_warm(self) -> None:
        """End the programs that wait for a Worker, and start none any more. May be called again."""


@attrs.frozen
class BackendFactory:
    """Makes the backends of one kind.

    Attributes:
        make: Makes the ExecutionBackend for all Workers of a profile, from the profile, the folders of Workers and
            the Supervisor that starts programs. The caller closes the Supervisor. It starts nothing: a backend that
            has spawned no Worker may be dropped without `close`.
        settings: The class of its profiles: Profile, or a subclass with fields of its own.
        needs_command: Its profiles name the program to run in `command`.
        takes_session_config: Its Workers accept a `session_config`.
        takes_mcp_servers: Its Workers use MCP servers.
        programs: Its Workers need one of these programs in the PATH of the daemon, if it names any.
        library: The module without which its Workers cannot start, if an extra named like the backend installs it.
        workspaces: What becomes of the workspaces of its Workers: they are prepared and used, the Worker is rejected
            for them, or they are ignored, because it has nothing to work with.
        can_warm: Its backends are WarmBackends: they start programs before their Workers are known.
        keeps_sessions: Its backends keep something of a deleted Worker outside of its folder: their `delete` is
            called.
        runs_programs: Its Workers run programs of the host, which are confined.
    """

    make: Callable[[Profile, Workspaces, Supervisor], ExecutionBackend]
    settings: type[Profile] = Profile
    needs_command: bool = False
    takes_session_config: bool = False
    takes_mcp_servers: bool = False
    programs: tuple[str, ...] = ()
    library: str = ""
    workspaces: Literal["used", "rejected", "ignored"] = "rejected"
    can_warm: bool = False
    keeps_sessions: bool = False
    runs_programs: bool = True


@cache
def installed_backends() -> Mapping[str, BackendFactory]:
    """Return the backends that are installed, by name. The first call reads the metadata of all distributions."""
    return {found.name: found.load() for found in sorted(entry_points(group=GROUP), key=lambda found: found.name)}
