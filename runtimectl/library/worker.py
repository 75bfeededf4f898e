"""One Worker, without asyncio."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from runtimectl.errors import ApiError
from runtimectl.library import arguments, calls
from runtimectl.library.events import Events, Following, is_snapshot
from runtimectl.library.pages import next_start, working_folder
from runtimectl.library.transport import Transport
from runtimectl.library.waiting import PendingWait

if TYPE_CHECKING:
    from runtimectl.library.followed_run import FollowedRun
    from runtimectl.result import Result
    from runtimed.model.interaction import InputKind, InteractionAck, LifecycleAck, WhenBusy
    from runtimed.model.permission import Permission, PermissionResolution
    from runtimed.model.transcript import TranscriptItem
    from runtimed.model.waiting import Wait, WaitCondition
    from runtimed.model.worker import WorkerDetail
    from runtimed.model.workspace import Workspace

    OnPermission = Callable[[Permission], arguments.Decision]


class Worker:
    """A Worker of a daemon, as `Client.worker` and `Client.create_worker` return it.

    Attributes:
        id: The Worker's id.
    """

    def __init__(self, worker_id: str, transport: Transport) -> None:
        self.id = worker_id
        self._transport = transport

    def __repr__(self) -> str:
        return f"Worker({self.id!r})"

    def detail(self) -> "WorkerDetail":
        """Return everything that clients can see of the Worker."""
        return self._transport.send(calls.worker(self.id))

    def input(
        self,
        text: str,
        *,
        kind: "InputKind" = "user",
        when_busy: "WhenBusy | None" = None,
        attachments: Sequence[Mapping[str, Any]] = (),
    ) -> "InteractionAck":
        """Send an input. The acknowledgement means that it is stored; `events(ack.cursor)` shows what comes of it.

        Args:
            text: The text.
            kind: `user` or `system`.
            when_busy: What to do during a run: `reject`, `queue` or `interrupt`.
            attachments: Images and resources: `{"kind", "mime_type", "data" or "uri"}` each.
        """
        body = arguments.worker_input(text, kind, when_busy, attachments)
        return self._transport.send(calls.send_input(self.id, body, arguments.new_key()))

    def wait(self, *conditions: "WaitCondition", cursor: str | None = None, timeout: float | None = None) -> "Wait":
        """Wait until one of the conditions holds: `idle` if none is given.

        Args:
            conditions: Some of `idle`, `busy`, `stopped`, `permission` and `error`.
            cursor: What held behind this cursor counts too, even if it has passed; by default from now on.
            timeout: Seconds after which to give up.

        Raises:
            TimedOut: None of them held in time.
            ApiError: `wait_impossible`: none can hold any more.
        """
        pending = PendingWait(self.id, conditions, timeout)
        begin = self._transport.send(pending.begin()).last_cursor if cursor is None else cursor
        while True:
            try:
                return self._transport.send(pending.request(begin))
            except ApiError as error:
                pending.go_on(error)

    def run(
        self,
        text: str,
        *,
        timeout: float | None = None,
        on_permission: "OnPermission | None" = None,
    ) -> "Result":
        """Send an input and wait for the end of its run.

        Args:
            text: The input.
            timeout: Interrupt the run after this time, in seconds.
            on_permission: Called with each permission request of the run. Returns the id of the option to choose, a
                mapping to fill the request's form with, or None to leave the request to others.

        Returns:
            The result of a run that has finished. A command may have any exit status.

        Raises:
            RunFailed: The run had another outcome; the error has the result.
            ClientError: The input was refused, or the daemon is away for too long.
        """
        from runtimectl.library.followed_run import INTERRUPT_GRACE_S, FollowedRun

        run = FollowedRun(self.id, self.input(text))
        self._follow_run(run, timeout, on_permission)
        if not run.is_over and timeout is not None:
            run.time_out(timeout)
            self.interrupt()
            self._follow_run(run, INTERRUPT_GRACE_S, on_permission)
        return run.finish()

    def transcript(self, start: int = 0) -> "tuple[TranscriptItem, ...]":
        """Return the entries of the transcript behind the first `start` ones."""
        found: list[TranscriptItem] = []
        following: int | None = start
        while following is not None:
            page = self._transport.send(calls.transcript(self.id, following))
            found += page.items
            following = next_start(following, page)
        return tuple(found)

    def events(self, cursor: str | None = None) -> Events:
        """Return the events: a snapshot and those from now on, or those behind a cursor."""
        following = Following(self._transport, self.id, (), lambda: cursor)
        return Events(following, with_snapshot=cursor is None)

    def permissions(self) -> "tuple[Permission, ...]":
        """Return the open permission requests, oldest first."""
        return self._transport.send(calls.worker_permissions(self.id))

    def answer(
        self,
        request_id: str,
        option_id: str | None,
        *,
        reason: str | None = None,
        content: Mapping[str, Any] | None = None,
    ) -> "PermissionResolution":
        """Answer a permission request. The first answer counts.

        Args:
            request_id: The request.
            option_id: One of its options. With None the request is cancelled, or its form is accepted if there is a
                `content`.
            reason: Why, for the agent and for other clients.
            content: The values of the request's form, by the names of its properties.
        """
        call = calls.answer_permission(self.id, request_id, option_id, reason, content)
        return self._transport.send(call)

    def workspaces(self) -> "tuple[Workspace, ...]":
        """Return the workspaces, in the order of the request."""
        return self._transport.send(calls.workspaces(self.id))

    def diff(self, name: str | None = None) -> str:
        """Return what was changed in a workspace since its base, for `git apply`.

        Args:
            name: The workspace; by default the one that the Worker works in.

        Returns:
            The patch; encode it as UTF-8 with the error handler `surrogateescape`.
        """
        found = working_folder(self.workspaces()) if name is None else name
        return self._transport.send(calls.diff(self.id, found))

    def interrupt(self) -> "LifecycleAck":
        """Interrupt the current run; the Worker goes on. Changes nothing if there is no run."""
        return self._transport.send(calls.interrupt(self.id))

    def restore(self) -> "WorkerDetail":
        """Restore the execution after a restart or a loss. Changes nothing if it is connected."""
        return self._transport.send(calls.restore(self.id))

    def stop(self, reason: str | None = None) -> "LifecycleAck":
        """Stop the Worker and let it end in good order. Changes nothing if it is not running."""
        return self._transport.send(calls.stop(self.id, reason))

    def cancel(self, reason: str | None = None) -> "LifecycleAck":
        """End the Worker at once. Changes nothing if it is not running."""
        return self._transport.send(calls.cancel(self.id, reason))

    def delete(self, force: bool = False) -> None:
        """Delete the Worker, which must not be running, and everything that is stored about it.

        Args:
            force: Delete it even if that throws away work in its workspaces.
        """
        self._transport.send(calls.delete_worker(self.id, force=force))

    def _follow_run(self, run: "FollowedRun", timeout: float | None, on_permission: "OnPermission | None") -> None:
        """Follow a run to its end, or for `timeout` seconds."""
        import threading

        following = Following(self._transport, self.id, (), lambda: run.cursor)
        timer = None if timeout is None else threading.Timer(timeout, following.stop)
        if timer is not None:
            timer.start()
        try:
            with closing(following.envelopes()) as envelopes:
                for envelope in envelopes:
                    request_id = None if is_snapshot(envelope) else run.record(envelope)
                    if request_id is not None and on_permission is not None:
                        self._decide(request_id, on_permission)
                    if run.is_over:
                        return
        finally:
            if timer is not None:
                timer.cancel()
                timer.join()

    def _decide(self, request_id: str, on_permission: "OnPermission") -> None:
        """Answer a request as `on_permission` says, if it is still open: the profile may have answered it."""
        for request in self.permissions():
            if request.request_id == request_id:
                decision = on_permission(request)
                if isinstance(decision, Mapping):
                    self.answer(request_id, None, content=decision)
                elif decision is not None:
                    self.answer(request_id, decision)
