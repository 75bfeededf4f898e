"""Translate the output of a program into events."""

from collections.abc import Iterator

from runtimed.execution.process.protocol import Ambiguous, Reader, Refused
from runtimed.execution.processes.lines import Chunk
from runtimed.execution.session.text_output import MAX_CHARACTERS, OpenText
from runtimed.execution.session.warnings import Warnings, alert
from runtimed.model.event import Alert, Payload, TextDelta, TextDone, ThinkingDelta, ThinkingDone, ThinkingStart


class Translator:
    """Holds the open text and thought of a program, and counts the warnings about its output."""

    def __init__(self, max_open_text: int = MAX_CHARACTERS) -> None:
        each = max(max_open_text // 2, 1)  # both may be open
        self._reader = Reader()
        self._text = OpenText(max_characters=each)
        self._thought = OpenText(ThinkingDelta, ThinkingDone, each)
        self._thinking = False
        self._warnings = Warnings()

    def events(self, chunk: Chunk) -> Iterator[Payload]:
        """Yield the events of some output.

        A text or thought that grows too long is cut into several. A thought without a `thinking_start` gets one.
        """
        for item in self._reader.read(chunk):
            match item:
                case bytes():
                    yield from self._text.feed(item)
                case TextDelta(text):
                    yield from self._text.write(text)
                case ThinkingDelta(text):
                    yield from self._think(text)
                case Refused(problem):
                    yield from self.warn(f"a line of the program was left out: {problem}")
                case Ambiguous(problem):
                    yield alert(problem)
                case TextDone():
                    self._text.forget()
                    yield item
                case ThinkingStart():
                    self._thinking = True
                    yield item
                case ThinkingDone():
                    self._thinking = False
                    self._thought.forget()
                    yield item
                case _:
                    yield item

    def warn(self, message: str) -> Iterator[Alert]:
        """Yield an alert about something that the program did wrong, unless there were too many."""
        return self._warnings.add(message)

    @property
    def is_open(self) -> bool:
        """Whether a text or a thought has no end yet."""
        return self._text.is_open or self._thought.is_open

    def close_open(self) -> Iterator[Payload]:
        """Yield the events that end the open text and thought."""
        yield from self._text.close()
        yield from self._thought.close()
        self._thinking = False

    def end_run(self) -> Iterator[Payload]:
        """Yield the last events as a run begins or ends: of the open text and thought, and of warnings left out."""
        yield from self.close_open()
        yield from self._warnings.summary()
        self._reader.begin()

    def _think(self, text: str) -> Iterator[Payload]:
        for event in self._thought.write(text):
            if isinstance(event, ThinkingDelta) and not self._thinking:
                yield ThinkingStart()
            self._thinking = isinstance(event, ThinkingDelta)
            yield event
