"""What a program says, as the events that tell of it."""

from collections.abc import Iterator

from runtimed.execution.complaints import Complaints, alert
from runtimed.execution.lines import Chunk
from runtimed.execution.output import MAX_CHARACTERS, OpenText
from runtimed.execution.protocol import Odd, Reader, Refused
from runtimed.model.event import Alert, Payload, TextDelta, TextDone, ThinkingDelta, ThinkingDone, ThinkingStart


class Speech:
    """Holds the text and the thought that the program has begun, and what there is to complain of."""

    def __init__(self, max_open_text: int = MAX_CHARACTERS) -> None:
        each = max(max_open_text // 2, 1)  # both may be open
        self._reader = Reader()
        self._text = OpenText(max_characters=each)
        self._thought = OpenText(ThinkingDelta, ThinkingDone, each)
        self._thinking = False
        self._complaints = Complaints()

    def events(self, chunk: Chunk) -> Iterator[Payload]:
        """What the program has said. A text or a thought that grows too long is cut into several.

        Each thought is begun, whether the program says so or not.
        """
        for said in self._reader.read(chunk):
            match said:
                case bytes():
                    yield from self._text.feed(said)
                case TextDelta(text):
                    yield from self._text.write(text)
                case ThinkingDelta(text):
                    yield from self._think(text)
                case Refused(problem):
                    yield from self.complain(f"a line of the program was left out: {problem}")
                case Odd(problem):
                    yield alert(problem)
                case TextDone():
                    self._text.forget()
                    yield said
                case ThinkingStart():
                    self._thinking = True
                    yield said
                case ThinkingDone():
                    self._thinking = False
                    self._thought.forget()
                    yield said
                case _:
                    yield said

    def complain(self, message: str) -> Iterator[Alert]:
        """What tells a person of something that the program did wrongly."""
        return self._complaints.about(message)

    @property
    def is_open(self) -> bool:
        """Whether there is a text or a thought that was not ended."""
        return self._text.is_open or self._thought.is_open

    def pause(self) -> Iterator[Payload]:
        """What ends all that is open."""
        yield from self._text.close()
        yield from self._thought.close()
        self._thinking = False

    def closing(self) -> Iterator[Payload]:
        """What ends all that is open, and what is left to complain of, as a run begins or ends."""
        yield from self.pause()
        yield from self._complaints.rest()
        self._reader.begin()

    def _think(self, text: str) -> Iterator[Payload]:
        for event in self._thought.write(text):
            if isinstance(event, ThinkingDelta) and not self._thinking:
                yield ThinkingStart()
            self._thinking = isinstance(event, ThinkingDelta)
            yield event
