"""Write what a job saw to the files that were asked for."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from runtimectl.job.files import OutputFile
from runtimectl.output.entries import entry_from_event, entry_text
from runtimectl.output.text import json_safe
from runtimectl.output.tool_calls import ToolCalls, tool_text

OUTPUT_FILE, TRANSCRIPT, EVENTS, RESULT = "--output-file", "--transcript", "--events", "--result"


class Records:
    """The files of a job. One that cannot be written is removed, and the others are written all the same.

    Args:
        files: The open files by option. One that was not asked for is missing.
    """

    def __init__(self, files: Mapping[str, OutputFile]) -> None:
        self._files = dict(files)
        self._tool_calls = ToolCalls()
        self._entries = 0

    def event(self, envelope: dict[str, Any], text: str) -> None:
        """Write an event, the entry or tool call that it completes, and the text that it adds. Raises OSError."""
        if envelope["payload"]["event"] == "snapshot":
            return
        self._each(
            {
                OUTPUT_FILE: lambda file: file.write(text),
                EVENTS: lambda file: file.write(json_line(envelope)),
                TRANSCRIPT: lambda file: file.write(self._transcribed(envelope)),
            }
        )

    def close(self, result: dict[str, Any]) -> None:
        """Write the result, and put all files in their places. Raises OSError."""
        try:
            self._each({RESULT: lambda file: file.write(json_line(result))})
        finally:
            self._each(dict.fromkeys(self._files, OutputFile.close))

    def discard(self) -> None:
        """Remove what was written. A signal handler may call it."""
        for file in self._files.values():
            file.discard()

    def _each(self, acts: Mapping[str, Callable[[OutputFile], None]]) -> None:
        """Do something with each of the files that was asked for. Raises the first OSError at the end."""
        errors: list[OSError] = []
        for option, act in acts.items():
            if option in self._files:
                try:
                    act(self._files[option])
                except OSError as error:
                    errors.append(error)
                    self._files.pop(option).abandon()
        if errors:
            raise errors[0]

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
