"""Write what a job saw to the files that were asked for."""

import json
from collections.abc import Mapping
from typing import Any

from runtimectl.job.files import OutputFile
from runtimectl.output.entries import entry_from_event, entry_text
from runtimectl.output.text import json_safe
from runtimectl.output.tool_calls import ToolCalls, tool_text

OUTPUT_FILE, TRANSCRIPT, EVENTS, RESULT = "--output-file", "--transcript", "--events", "--result"


class Records:
    """The files of a job.

    Args:
        files: The open files by option. One that was not asked for is missing.
    """

    def __init__(self, files: Mapping[str, OutputFile]) -> None:
        self._files = files
        self._tool_calls = ToolCalls()
        self._entries = 0

    def event(self, envelope: dict[str, Any], text: str) -> None:
        """Write an event, the entry or tool call that it completes, and the text that it adds. Raises OSError."""
        if envelope["payload"]["event"] == "snapshot":
            return
        if text:
            self._write(OUTPUT_FILE, text)
        if EVENTS in self._files:
            self._write(EVENTS, json_line(envelope))
        if TRANSCRIPT in self._files:
            self._write(TRANSCRIPT, self._transcribed(envelope))

    def close(self, result: dict[str, Any]) -> None:
        """Write the result, and put all files in their places. Raises OSError."""
        self._write(RESULT, json_line(result))
        for file in self._files.values():
            file.close()

    def discard(self) -> None:
        """Remove what was written. A signal handler may call it."""
        for file in self._files.values():
            file.discard()

    def _write(self, option: str, text: str) -> None:
        if text and option in self._files:
            self._files[option].write(text)

    def _transcribed(self, envelope: dict[str, Any]) -> str:
        entry = entry_from_event(envelope, self._entries + 1, {})
        if entry is not None:
            self._entries += 1
            return f"{entry_text(entry)}\n"
        call = self._tool_calls.record(envelope)
        return "" if call is None else f"{tool_text(call)}\n"


def json_line(value: object) -> str:
    """Return a value as a line of JSON."""
    return json_safe(json.dumps(value, ensure_ascii=False)) + "\n"
