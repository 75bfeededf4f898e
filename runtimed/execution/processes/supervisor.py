"""Start process trees and own them until nothing of them is left."""

import asyncio
import contextlib
import logging
import os
import secrets
import subprocess
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs

from runtimed.execution.processes import cgroup, containment, orphans
from runtimed.execution.processes.confinement import Confiner, Enclosure, Launch, Unconfined, View
from runtimed.execution.processes.containment import CONFINED, Containment
from runtimed.execution.processes.descriptor_limit import limited
from runtimed.execution.processes.folder_monitor import FolderMonitor
from runtimed.execution.processes.held_process import has_ended, held_process
from runtimed.execution.processes.limits import Accounting, Sampling, TreeLimits
from runtimed.execution.processes.resource_monitor import ResourceMonitor
from runtimed.execution.processes.sandbox_pool import Pipes, PreparedSandbox, SandboxPool
from runtimed.execution.processes.tree import KILL_ATTEMPTS, KILL_PAUSE_S, Started, Tree
from runtimed.execution.tasks import begin, finish
from runtimed.model.identity import WorkerId

NO_LIMITS = TreeLimits()

T = TypeVar("T")

log = logging.getLogger(__name__)


@attrs.frozen
class Program:
    """What to start.

    Attributes:
        argv: The program and its arguments.
        cwd: The directory to start in.
        env: Its whole environment.
        stdin: The descriptor of its standard input; those of its output and error follow.
        limits: What the whole process tree may use.
        worker_id: The Worker whose confinement holds for it; None for a program of the daemon itself.
        view: The files that confine a program of the daemon; None for one that is not confined.
    """

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    stdin: int
    stdout: int
    stderr: int
    limits: TreeLimits = NO_LIMITS
    worker_id: WorkerId | None = None
    view: View | None = None


def best_accounting(containment: Containment) -> Accounting:
    """Return the strongest way to count and limit that this machine allows."""
    found = cgroup.available()
    if found is None:
        log.info("no control groups available: the resources of Workers are sampled")
    return found or Sampling(containment)


class Supervisor:
    """Starts process trees, and owns each until nothing of it is left.

    Trees are started and killed in one thread, which lives as long as they do: the kernel reports the death of a
    parent when the thread that started the child ends.

    Args:
        choose: Returns how processes are kept together.
        choose_accounting: Returns how their resources are counted and limited.
        max_descriptors: How many descriptors a program may open before it raises its limit; None leaves the limit.
        confiner: Knows what confines the programs of each Worker.
    """

    def __init__(
        self,
        choose: Callable[[], Containment] = containment.best,
        choose_accounting: Callable[[Containment], Accounting] = best_accounting,
        *,
        max_descriptors: int | None = None,
        confiner: Confiner | None = None,
    ) -> None:
        self.confiner: Confiner = confiner or Unconfined()
        self._pool = SandboxPool()
        self.confiner.on_release = self._pool.forget
        self._choose = choose
        self._choose_accounting = choose_accounting
        self._max_descriptors = max_descriptors
        self._containment: Containment | None = None
        self._accounting: Accounting | None = None
        self._thread = ThreadPoolExecutor(1, "supervisor")
        self._starting: set[asyncio.Task[Tree]] = set()
        self._trees: set[Tree] = set()
        self._roots: set[subprocess.Popen[bytes]] = set()
        self._owner = ""
        self._monitor = ResourceMonitor()
        self._closing: set[asyncio.Task[None]] = set()
        self._folder_monitor = FolderMonitor()
        self._closed = False

    @property
    def prepared(self) -> int:
        """How many sandboxes wait for a program."""
        return self._pool.ready

    def pipes(self, worker_id: WorkerId | None) -> Pipes:
        """Return three pipes for the standard streams of the next program of a Worker.

        A program starts sooner with them: if a sandbox was prepared for it, that has them already.

        Returns:
            For each pipe, its descriptors to read and to write. The caller owns them, as those of `pipes.pipes`.

        Raises:
            OSError: Too many descriptors are open.
        """
        return self._pool.pipes(self.confiner.of(worker_id))

    async def start(self, program: Program) -> Tree:
        """Start a program in a session of its own, with no descriptors but its three streams.

        The descriptors of the streams are closed here, even when the start fails.

        Raises:
            OSError: It can't be started. A missing program may also show as exit status 127.
        """
        task = asyncio.create_task(self._start(program))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            if task.exception() is None:
                await task.result().end(0)
            raise

    async def claim(self, runtime_id: str) -> None:
        """Kill the processes that a killed daemon of this Runtime left, and mark new ones as this Runtime's.

        Programs started after this call wait until that is done.
        """
        await self.call(self._claim, runtime_id)

    async def reap(self) -> None:
        """Reap ended children of this process that this supervisor did not start.

        It runs in the thread that starts programs, so each program is known by then.
        """
        await self.call(self._reap)

    async def close(self) -> None:
        """Kill all trees and refuse to start others. May be called again."""
        self._closed = True
        if self._starting:
            await asyncio.wait(self._starting)
        await self._pool.close()
        trees = tuple(self._trees)
        await asyncio.gather(*(tree.end(0) for tree in trees), return_exceptions=True)
        await finish(*(tree.exit for tree in trees))
        if self._closing:
            await asyncio.wait(tuple(self._closing))  # cut short, they would leave sockets open
        await self.confiner.close()
        await self._folder_monitor.close()
        await asyncio.to_thread(self._shut)

    async def call(self, work: Callable[..., T], *arguments: object) -> T:
        """Run a function that blocks in the supervisor's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def _start(self, program: Program) -> Tree:
        try:
            if self._closed:
                raise OSError("the Runtime is closing")
            enclosure = await self._enclosure(program)
            tree = await self._hand_over(program, enclosure)
            if tree is None:
                tree, _ = await self._begin(program, enclosure)
        finally:
            for descriptor in {program.stdin, program.stdout, program.stderr}:
                os.close(descriptor)
        if enclosure is not None and program.worker_id is not None:
            tree.exit.add_done_callback(lambda _: self._schedule(program, enclosure))
        return tree

    async def _hand_over(self, program: Program, enclosure: Enclosure | None) -> Tree | None:
        """Have a prepared sandbox run a program, if it is what would be made for that now. None if there is none."""
        prepared = self._pool.take(program.stdin)
        if prepared is None:
            return None
        try:
            is_same = prepared.enclosure is enclosure and prepared.limits == program.limits
            if is_same and await self.call(self._is_current, prepared, program) and prepared.give(program.argv):
                return prepared.tree
        except BaseException:
            await prepared.end()
            raise
        await prepared.end()
        return None

    def _is_current(self, prepared: PreparedSandbox, program: Program) -> bool:
        launch = prepared.enclosure.launch_ahead(program.cwd, program.env, self._max_descriptors)
        if launch is None:
            return False
        launch.close()
        for descriptor in launch.descriptors:
            os.close(descriptor)
        return launch.made_of == prepared.made_of

    def _schedule(self, program: Program, enclosure: Enclosure) -> None:
        """Have a sandbox prepared for the next program of a Worker: it is likely to be started like the last one."""
        prepare = partial(self._prepare, program, enclosure)
        self._pool.schedule(enclosure, prepare, lambda: self.confiner.of(program.worker_id) is enclosure)

    async def _prepare(self, program: Program, enclosure: Enclosure, streams: Pipes) -> PreparedSandbox:
        (stdin, _), (_, stdout), (_, stderr) = streams
        ahead = attrs.evolve(program, argv=(), stdin=stdin, stdout=stdout, stderr=stderr)
        tree, launch = await self._begin(ahead, enclosure, is_ahead=True)
        made_of = () if launch is None else launch.made_of
        return PreparedSandbox(enclosure, made_of, program.limits, tree, streams)

    async def _begin(
        self, program: Program, enclosure: Enclosure | None, *, is_ahead: bool = False
    ) -> tuple[Tree, Launch | None]:
        """Start a program in a sandbox of its own, or prepare one that waits for a program."""
        started, launch = await self.call(self._spawn, program, secrets.token_hex(16), enclosure, is_ahead)
        tree = Tree(started, self.call, self._monitor, self._folder_monitor)
        self._trees.add(tree)
        tree.exit.add_done_callback(lambda _: self._forget(tree, started.root))
        if enclosure is not None and launch is not None and launch.hold is not None:
            await self._open_ways_out(tree, started.root.pid, enclosure, launch)
        return tree, launch

    async def _enclosure(self, program: Program) -> Enclosure | None:
        if program.view is None:
            return self.confiner.of(program.worker_id)
        return await asyncio.to_thread(self.confiner.around, program.view, program.argv, program.env)

    async def _open_ways_out(self, tree: Tree, root: int, enclosure: Enclosure, launch: Launch) -> None:
        """Have the ways out listen where the program is, and let it begin. Raises OSError; the tree is ended then.

        A sandbox that ends before that has failed, and says why on its standard error: that is the caller's to read.
        """
        held: tuple[int, int | None] | None = None
        try:
            held = await held_process(launch, root)
            if held is None:
                return
            close = await enclosure.open_ways_out(*held)
            tree.exit.add_done_callback(lambda _: self._close_ways_out(close()))
            launch.release()
        except BaseException as error:
            if isinstance(error, OSError) and await has_ended(held):
                return
            with contextlib.suppress(TimeoutError):
                await tree.end(0)
            raise
        finally:
            launch.close()

    def _close_ways_out(self, closing: Coroutine[Any, Any, None]) -> None:
        task = begin(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _forget(self, tree: Tree, root: subprocess.Popen[bytes]) -> None:
        self._trees.discard(tree)
        self._roots.discard(root)

    def _claim(self, runtime_id: str) -> None:
        try:
            self._owner = f"{orphans.Owner.current()}/{runtime_id}"
            orphans.sweep(runtime_id)
        except OSError as error:
            log.warning("cannot look for processes of a killed daemon", extra={"reason": error})

    def _reap(self) -> None:
        orphans.reap({root.pid for root in tuple(self._roots)})

    def _shut(self) -> None:
        self._thread.shutdown()
        if self._accounting is not None:
            self._accounting.shut()
            self._accounting = None

    def _spawn(
        self, program: Program, mark: str, enclosure: Enclosure | None, is_ahead: bool
    ) -> tuple[Started, Launch | None]:
        if enclosure is None:
            kept = self._contain()
            command = kept.argv(limited(program.argv, self._max_descriptors))
            return self._started(program, mark, kept, command, program.env), None
        launch = self._launch(program, enclosure, is_ahead)
        try:
            kept = CONFINED if launch.keeps_together else self._contain()
            return self._started(program, mark, kept, kept.argv(launch.argv), launch.env, launch.descriptors), launch
        except BaseException:
            launch.close()
            raise
        finally:
            for descriptor in launch.descriptors:
                os.close(descriptor)

    def _launch(self, program: Program, enclosure: Enclosure, is_ahead: bool) -> Launch:
        if not is_ahead:
            return enclosure.launch(program.argv, program.cwd, program.env, self._max_descriptors)
        launch = enclosure.launch_ahead(program.cwd, program.env, self._max_descriptors)
        if launch is None:
            raise OSError("a sandbox like this is not prepared")
        return launch

    def _started(
        self,
        program: Program,
        mark: str,
        kept: Containment,
        argv: Sequence[str],
        env: Mapping[str, str],
        descriptors: Sequence[int] = (),
    ) -> Started:
        accounting = self._account(kept) if program.limits else None
        try:
            if accounting is not None:
                accounting.open(mark, program.limits)
                argv = accounting.argv(mark, argv)
            root = subprocess.Popen(
                argv,
                cwd=program.cwd,
                env={**env, **kept.environment(mark, self._owner)},
                stdin=program.stdin,
                stdout=program.stdout,
                stderr=program.stderr,
                start_new_session=True,
                pass_fds=descriptors,
            )
            self._roots.add(root)
        except BaseException:
            if accounting is not None:
                accounting.close(mark)
            raise
        try:
            return Started(root, os.pidfd_open(root.pid), mark, kept, program.limits, accounting)
        except OSError:
            _abandon(root, mark, kept)
            self._roots.discard(root)
            if accounting is not None:
                with contextlib.suppress(OSError):
                    accounting.close(mark)
            raise

    def _contain(self) -> Containment:
        self._containment = self._containment or self._choose()
        return self._containment

    def _account(self, kept: Containment) -> Accounting:
        self._accounting = self._accounting or self._choose_accounting(kept)
        if isinstance(self._accounting, Sampling) and self._accounting.containment is not kept:
            return attrs.evolve(self._accounting, containment=kept)
        return self._accounting


def _abandon(root: subprocess.Popen[bytes], mark: str, kept: Containment) -> None:
    """End a program that was started but cannot be watched.

    The program itself is killed last, so that processes which it starts meanwhile are found.
    """
    for _ in range(KILL_ATTEMPTS):
        with contextlib.suppress(OSError):
            kept.kill(root.pid, mark)
        with contextlib.suppress(subprocess.TimeoutExpired):
            root.wait(KILL_PAUSE_S)
            return
    root.kill()
    root.wait()
