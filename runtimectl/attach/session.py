"""One `runtimectl attach`: keys and events in, rows and requests out."""

import threading
import time
from collections.abc import Callable
from typing import Any

from runtimectl.attach.conversation import Conversation
from runtimectl.attach.line_editor import LineEditor
from runtimectl.attach.rows import fitted
from runtimectl.attach.screen import Screen
from runtimectl.attach.terminal import Ended, Resized, Terminal
from runtimectl.client.run_result import SIGNALED
from runtimectl.errors import ClientError
from runtimectl.library.events import Events
from runtimectl.library.worker import Worker
from runtimed.model.event import EventEnvelope
from runtimed.model.permission import Permission

TWICE_S = 2.0
"""Seconds within which a second Ctrl-C leaves."""

MAX_EARLY_KEYS = 4096
"""How many keys are kept that are typed before the Worker's state is shown."""

PROMPT = "> "
ANSWER = "answer> "


class Attachment:
    """A person at a terminal who talks to a Worker.

    Args:
        worker: The Worker.
        terminal: The terminal.
    """

    def __init__(self, worker: Worker, terminal: Terminal) -> None:
        self._worker = worker
        self._terminal = terminal
        self._screen = Screen(terminal.write)
        self._conversation = Conversation(terminal.columns)
        self._editor = LineEditor()
        self._interrupted_at: float | None = None
        self._is_connected = False
        self._early_keys: list[str] = []

    def run(self) -> int:
        """Talk until the person leaves or the Worker has ended.

        Returns:
            The exit code: 0, or 128 + n if signal n ended it.

        Raises:
            ClientError: The events cannot be read.
        """
        with self._worker.events() as events:
            threading.Thread(target=self._follow, args=(events,), daemon=True).start()
            with self._terminal.prepared():
                for item in self._terminal.inputs():
                    if isinstance(item, Ended):
                        return SIGNALED + item.number
                    if not self._take(item):
                        return 0
        return 0

    def _follow(self, events: Events) -> None:
        """Pass on the events, and how they end."""
        try:
            for event in events:
                self._terminal.put(event)
        except ClientError as error:
            self._terminal.put(error)
        else:
            self._terminal.put(None)

    def _take(self, item: Any) -> bool:
        """Take a key or what another thread put in. Returns whether the conversation goes on."""
        if isinstance(item, ClientError):
            raise item
        if item is None:
            return False
        if isinstance(item, str):
            return self._press(item) if self._is_connected else self._keep(item)
        if isinstance(item, EventEnvelope):
            self._record(item)
            return self._press_early_keys()
        if isinstance(item, Resized):
            self._conversation.resize(self._terminal.columns)
            self._draw([])
        elif isinstance(item, tuple):
            self._draw([row for permission in item for row in self._conversation.ask(permission)])
        else:
            self._draw(self._conversation.note(str(item.text)))
        return True

    def _keep(self, key: str) -> bool:
        """Keep a key until the Worker's state is shown: what is sent before would not be seen whole."""
        if len(self._early_keys) < MAX_EARLY_KEYS:
            self._early_keys.append(key)
        return key not in {"interrupt", "end_of_input"}

    def _press_early_keys(self) -> bool:
        self._is_connected = True
        keys, self._early_keys = self._early_keys, []
        return all(self._press(key) for key in keys)

    def _record(self, event: EventEnvelope) -> None:
        rows = self._conversation.record(event.payload)
        item = getattr(event.payload, "item", None)
        if item is not None and item.get("kind") == "permission_request":
            self._request(lambda: self._terminal.put(self._open_questions()))
        self._draw(rows)

    def _open_questions(self) -> tuple[Permission, ...]:
        """Return the requests that are open: the profile may have answered some already."""
        return self._worker.permissions()

    def _press(self, key: str) -> bool:
        if key == "interrupt":
            return self._interrupt()
        self._interrupted_at = None
        if key.isdecimal() and not self._editor.text and self._answer(key):
            self._draw([])
            return True
        action = self._editor.press(key)
        if action == "end":
            return False
        if action == "enter":
            self._send(self._editor.take())
        self._draw([])
        return True

    def _send(self, line: str) -> None:
        if line.strip():
            self._request(lambda: self._worker.input(line, when_busy="queue"))

    def _answer(self, key: str) -> bool:
        """Answer the oldest question with the option of this number. Returns whether there is one."""
        question = next(iter(self._conversation.questions.values()), None)
        if question is None or not 1 <= int(key) <= len(question.options):
            return False
        option = question.options[int(key) - 1]
        self._request(lambda: self._worker.answer(question.request_id, option.option_id))
        return True

    def _interrupt(self) -> bool:
        """Interrupt the run. Returns False, to leave, the second time."""
        now = time.monotonic()
        if self._interrupted_at is not None and now - self._interrupted_at < TWICE_S:
            return False
        self._interrupted_at = now
        if self._conversation.is_running:
            self._request(self._worker.interrupt)
            self._draw(self._conversation.note("interrupting the run; press Ctrl-C again to leave"))
        else:
            self._editor.take()
            self._draw(self._conversation.note("press Ctrl-C again to leave"))
        return True

    def _request(self, act: Callable[[], object]) -> None:
        """Send a request while keys and events go on. An error becomes a note."""

        def attempt() -> None:
            try:
                act()
            except ClientError as error:
                self._terminal.put(Note(str(error)))

        threading.Thread(target=attempt, daemon=True).start()

    def _draw(self, rows: list[str]) -> None:
        columns = self._terminal.columns
        conversation = self._conversation
        prompt = ANSWER if conversation.questions else PROMPT
        line, cursor = self._editor.view(max(columns - len(prompt) - 1, 1))
        below = [conversation.partial] if conversation.partial else []
        if conversation.activity:
            below.append(fitted(conversation.activity, columns))
        self._screen.draw(rows, [*below, prompt + line], len(prompt) + cursor)


class Note:
    """A message for the person at the terminal."""

    def __init__(self, text: str) -> None:
        self.text = text
