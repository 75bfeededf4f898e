"""Programs under measurement: how they are started, measured from outside and ended."""

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 30.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ProgramFailed(Exception):
    """A program ended, or printed nothing in time. The message has the end of its log."""


def python(module: str, *arguments: str) -> list[str]:
    """Return the argv that runs a module by this interpreter."""
    return [sys.executable, "-m", module, *arguments]


class Program:
    """A process that runs while the context lasts. Its stderr goes to `log`."""

    def __init__(self, argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._argv = argv
        self._log = log
        self._environment = {**os.environ, **(environment or {})}
        self._rest = b""

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env=self._environment,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, text: str) -> None:
        """Write its input, and close it."""
        assert self._process.stdin is not None
        with self._process.stdin as pipe:
            pending = memoryview(text.encode())
            while pending:
                pending = pending[pipe.write(pending) or 0 :]

    def read_line(self, deadline_s: float = START_DEADLINE_S) -> str:
        """Return the next line of its output. Raises ProgramFailed if none comes in time."""
        assert self._process.stdout is not None
        until = time.monotonic() + deadline_s
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise self._failure(f"no line within {deadline_s:g} s")
            read = os.read(self._process.stdout.fileno(), 2**16)
            if not read:
                raise self._failure(f"it ended with {self._process.wait()}")
            self._rest += read
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()

    def cpu_seconds(self) -> float:
        """Return its processor time so far in seconds, in user and system mode, of all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def resident_bytes(self) -> int:
        """Return its resident memory in bytes, with shared pages."""
        line = re.search(r"^VmRSS:\s*(\d+) kB$", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert line
        return int(line[1]) * 1_024

    def _failure(self, why: str) -> ProgramFailed:
        said = self._log.read_text(errors="replace")[-2_000:]
        return ProgramFailed(f"{' '.join(self._argv)}: {why}\n{said}")
