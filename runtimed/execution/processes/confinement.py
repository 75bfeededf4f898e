"""The port to what confines the programs of Workers."""

import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import attrs

from runtimed.core.ports import EventSink, Spawn
from runtimed.execution.policy import SandboxPolicy
from runtimed.model.bundle import Declaration, DeclarationCheck
from runtimed.model.identity import WorkerId
from runtimed.model.profile import HostSandbox, Sandbox

NOT_CONFINED = "this Runtime was set up without anything that confines Workers"
UNCONFINED = Sandbox("none", "host")


class ConfinementRefused(Exception):
    """A Worker cannot be confined as it has to be; the text says what is missing, in words for clients."""


@attrs.frozen
class Launch:
    """A command that starts a program confined.

    Attributes:
        argv: The command.
        env: Its environment. Where it confines, that of the program is not in it: Workers say what that is, and could
            have the loader run code of theirs outside.
        descriptors: What it inherits besides the standard streams. The caller closes them once it is started.
        pid_pipe: Gives the process that is in the network namespace as JSON: `child-pid`, and the inode of it as
            `net-namespace`. None without listeners.
        hold: The program begins once a byte is written here, or it is closed.
        keeps_together: Its first process ends all others with it, in a PID namespace of its own.
        made_of: What a prepared sandbox is made of. Two with the same are alike.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    descriptors: tuple[int, ...] = ()
    pid_pipe: int | None = None
    hold: int | None = None
    keeps_together: bool = True
    made_of: tuple[object, ...] = attrs.field(default=(), repr=False)

    def release(self) -> None:
        """Let the program begin."""
        if self.hold is not None:
            os.write(self.hold, b"1")

    def close(self) -> None:
        """Close our ends of the pipes."""
        for descriptor in (self.pid_pipe, self.hold):
            if descriptor is not None:
                os.close(descriptor)


class FileRules(Protocol):
    """What programs may do with files: the daemon, which can do more, keeps to it where it acts for them."""

    def allows(self, path: Path, *, writing: bool) -> bool:
        """Return whether programs can read a path without links, or write to it, as far as places go."""

    def acting(self, path: Path) -> AbstractContextManager[None]:
        """Access files at a path with the rights of the programs in the calling thread. Entering raises OSError."""


class Enclosure(FileRules, Protocol):
    """What confines the programs of one Worker.

    Attributes:
        problem: Why nothing does, although its profile asks for it; in words for clients.
    """

    @property
    def problem(self) -> str | None: ...

    @property
    def confines(self) -> bool:
        """Whether a mechanism holds the programs. If none does, they only get their variables and ways out."""

    def prepare(self) -> None:
        """Make the Worker's own folders that are missing, and give them to its user. Blocks. Raises OSError."""

    def launch(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str], max_descriptors: int | None = None
    ) -> Launch:
        """Return a command that starts a program confined. Blocks.

        Args:
            command: The program and its arguments.
            cwd: The directory to start in.
            env: Its environment, to which is added what it needs inside.
            max_descriptors: How many descriptors it may open before it raises its limit; None leaves the limit.

        Raises:
            OSError: That is not possible.
            ValueError: A variable cannot be set.
        """

    def launch_ahead(self, cwd: Path, env: Mapping[str, str], max_descriptors: int | None = None) -> Launch | None:
        """Return a command that prepares a sandbox, which then waits for an order on its standard input. Blocks.

        Arguments and errors are those of `launch`. None if a sandbox cannot be made before its program is known.
        """

    async def open_ways_out(self, pid: int, namespace: int | None) -> Callable[[], Coroutine[Any, Any, None]]:
        """Have the ways out of the Worker listen in the network namespace of a process.

        Args:
            pid: The process.
            namespace: The inode of the namespace, if the sandbox has told it: the pid may be another's by now.

        Returns:
            A function that closes them again, once the process tree has ended.

        Raises:
            OSError: That is not possible.
        """


@attrs.frozen
class View:
    """The files of Workers that a program of the daemon works on, as absolute paths without links.

    Attributes:
        owner: The program runs as the user that this belongs to, where the daemon is root.
        readable: What it reads.
        writable: The folders that it may change, too. They are made if they are missing, and given to its user.
    """

    owner: Path
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()

    def reading(self, *paths: Path) -> "View":
        """Return it with further paths to read."""
        return attrs.evolve(self, readable=(*self.readable, *paths))

    def writing(self, *folders: Path) -> "View":
        """Return it with further folders to change."""
        return attrs.evolve(self, writable=(*self.writable, *folders))


@attrs.frozen
class SandboxRequest:
    """What a profile asks for.

    Attributes:
        policy: How its programs are confined.
        command: Its command, if it has one.
        env: The environment of its programs before they are confined.
        declared: What of that the profile itself sets. Its values may refer to secrets and gateways.
    """

    policy: SandboxPolicy
    command: Sequence[str]
    env: Mapping[str, str]
    declared: Mapping[str, str]


class Confiner(Protocol):
    """Knows what confines the programs of each Worker, from its spawn to its end.

    Attributes:
        on_release: Called with what confined a Worker, once that is forgotten. The owner of the programs sets it.
    """

    on_release: Callable[[Enclosure], Awaitable[None]]

    def sandbox(self, policy: SandboxPolicy) -> Sandbox:
        """Return how Workers with a policy are confined."""

    def check(self, declarations: Sequence[Declaration], policy: SandboxPolicy) -> Sequence[DeclarationCheck]:
        """Return what this host would do with each declaration of a bundle, for a profile with this policy."""

    def host_sandbox(self, policy: SandboxPolicy) -> HostSandbox:
        """Return the same with what else could confine them, and why it does not."""

    def of(self, worker_id: WorkerId | None) -> Enclosure | None:
        """Return what confines a Worker; None if nothing does."""

    def around(self, view: View, command: Sequence[str], env: Mapping[str, str]) -> Enclosure | None:
        """Return what confines a program of the daemon to files that nobody trusts. Blocks.

        It has no network. None if this host confines nothing.

        Args:
            view: The files.
            command: The command of the program.
            env: Its environment before it is confined.

        Raises:
            OSError: The owner of the files cannot be told.
        """

    async def enclose(
        self,
        worker_id: WorkerId,
        request: SandboxRequest,
        folder: Path,
        spawn: Spawn | None = None,
        sink: EventSink | None = None,
    ) -> Sandbox:
        """Decide what confines a Worker from now on.

        Args:
            worker_id: The Worker.
            request: What its profile asks for.
            folder: Its own folder, which need not exist yet.
            spawn: The request to run it, with its workspaces and the declarations of its bundle; None for a program
                that is started ahead.
            sink: Takes the events about what was refused to it.

        Raises:
            ConfinementRefused: It cannot be confined like this.
            OSError: A folder cannot be looked at.
        """

    async def hand_over(self, spare: WorkerId, worker_id: WorkerId) -> None:
        """Have a Worker take over what confines a program that was started ahead: its folder, user and ways out.

        Args:
            spare: What that program was enclosed as.
            worker_id: The Worker.
        """

    async def release(self, worker_id: WorkerId) -> None:
        """Forget a Worker whose programs have ended, and close its ways out. It keeps its user."""

    def forget(self, folder: Path) -> None:
        """Let another Worker have the user of a Worker's folder that is gone. May be called in any thread."""

    async def close(self) -> None:
        """Close the ways out of all Workers."""


class Unconfined:
    """The Confiner that confines nothing."""

    on_release: Callable[[Enclosure], Awaitable[None]]

    def sandbox(self, policy: SandboxPolicy) -> Sandbox:
        return UNCONFINED

    def check(self, declarations: Sequence[Declaration], policy: SandboxPolicy) -> Sequence[DeclarationCheck]:
        return [
            DeclarationCheck(one.kind, one.name, one.reference, "unenforceable", NOT_CONFINED) for one in declarations
        ]

    def host_sandbox(self, policy: SandboxPolicy) -> HostSandbox:
        return HostSandbox(policy.mode, UNCONFINED.mechanism, UNCONFINED.network, ())

    def of(self, worker_id: WorkerId | None) -> Enclosure | None:
        return None

    def around(self, view: View, command: Sequence[str], env: Mapping[str, str]) -> Enclosure | None:
        return None

    async def enclose(
        self,
        worker_id: WorkerId,
        request: SandboxRequest,
        folder: Path,
        spawn: Spawn | None = None,
        sink: EventSink | None = None,
    ) -> Sandbox:
        if spawn is not None and spawn.declarations:
            raise ConfinementRefused(f"{spawn.declarations[0].kind}: {NOT_CONFINED}")
        return UNCONFINED

    async def hand_over(self, spare: WorkerId, worker_id: WorkerId) -> None:
        """Do nothing."""

    async def release(self, worker_id: WorkerId) -> None:
        """Do nothing."""

    def forget(self, folder: Path) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""
