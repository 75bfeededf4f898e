"""`runtimectl attach` in a real pseudo-terminal, narrow and wide."""

import codecs
import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtimectl import Client
from tests import programs
from tests.programs import RUNTIMECTL
from tests.runtimectl.attach.screen_model import ScreenModel
from tests.runtimectl.conftest import DEADLINE_S, REFUSAL, REFUSED, Ctl, Daemon, NewWorker
from tests.runtimectl.library.conftest import agent_config

__all__ = ["agent_config"]

WIDTHS = (40, 120)
WORDS = " ".join(f"word{n}" for n in range(40))
OPTIONS = [
    {"optionId": "yes", "name": "Allow", "kind": "allow_once"},
    {"optionId": "no", "name": "Reject", "kind": "reject_once"},
]
CALL = {"toolCallId": "call-1", "title": "look", "rawInput": {"path": "a/file/whose/name/is/rather/long"}}
DONE = {"sessionUpdate": "tool_call_update", "toolCallId": "call-1", "status": "completed"}
WORKING: list[Any] = [
    ["text", WORDS[:100]],
    ["text", WORDS[100:]],
    ["update", {"sessionUpdate": "tool_call", **CALL}],
    ["update", {**DONE, "content": [{"type": "content", "content": {"type": "text", "text": "found 3 lines"}}]}],
    ["ask", {"toolCallId": "call-2", "title": "write a file"}, OPTIONS],
    ["end"],
]


class Person:
    """A `runtimectl attach` in a pseudo-terminal, and what stands on its screen."""

    def __init__(self, env: dict[str, str], columns: int, *args: str) -> None:
        self._terminal, inner = pty.openpty()
        self.resize(columns)
        self.mode_before = self.mode
        command = [*RUNTIMECTL, "attach", *args]
        self.process = programs.start(command, env, stdin=inner, stdout=inner, stderr=inner, start_new_session=True)
        os.close(inner)
        self.screen = ScreenModel(columns)
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    @property
    def mode(self) -> list[Any]:
        """How the terminal treats what is typed and printed."""
        return termios.tcgetattr(self._terminal)[:4]

    def hang_up(self) -> None:
        """Close the terminal while the command runs."""
        os.close(self._terminal)
        self._terminal = os.open(os.devnull, os.O_RDONLY)

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def read_until(self, holds: Callable[[list[str]], bool]) -> list[str]:
        """Read until the rows on the screen are as expected, and return them."""
        deadline = time.monotonic() + DEADLINE_S
        while not holds(self.screen.rows):
            assert time.monotonic() < deadline, "\n".join(self.screen.rows)
            self._read(0.1)
        return self.screen.rows

    def shows(self, *texts: str) -> list[str]:
        """Read until these texts are on the screen, each within a row."""
        return self.read_until(lambda rows: all(any(text in row for row in rows) for text in texts))

    def end(self) -> int:
        """Read to the end of the command and return its exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "\n".join(self.screen.rows)
            self._read(0.1)
        self._read(0)
        return self.process.returncode

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            os.close(self._terminal)

    def _read(self, timeout: float) -> None:
        while select.select([self._terminal], [], [], timeout)[0]:
            try:
                data = os.read(self._terminal, 1 << 16)
            except OSError:  # The command has ended.
                return
            self.screen.write(self._decoder.decode(data))
            timeout = 0


@pytest.fixture
def attach(env: dict[str, str]) -> Iterator[Callable[..., Person]]:
    """Attaches a person to a Worker, at a terminal of this width."""
    with contextlib.ExitStack() as started:

        def start(columns: int, *args: str) -> Person:
            person = Person(env, columns, *args)
            started.callback(person.close)
            return person

        yield start


@pytest.fixture
def agent(agent_config: Callable[[dict[str, Any]], Path], start_daemon: Callable[..., Daemon]) -> str:
    """A Worker whose agent writes, calls a tool and asks."""
    start_daemon("--config", str(agent_config({"session/prompt": [WORKING]})))
    return Client.from_env().create_worker(profile="builtin:agent").id


@pytest.fixture
def shell(daemon: Daemon) -> str:
    return Client.from_env().create_worker(profile="builtin:shell", capabilities=["shell"]).id


@pytest.mark.parametrize("columns", WIDTHS)
def test_text_is_wrapped_between_words_tools_are_one_row_and_questions_are_answered_in_place(
    attach: Callable[..., Person], agent: str, columns: int
) -> None:
    person = attach(columns, agent)
    person.shows(">")

    person.type("go on\r")
    rows = person.shows("answer>", "[1] Allow")
    person.type("2")
    person.shows("Reject (by token:default)", '"no"')
    rows = person.read_until(lambda rows: rows[-1] == ">")

    assert rows[0] == "> go on"
    text = rows[1 : next(n for n, row in enumerate(rows) if row.startswith("*"))]
    assert " ".join(text) == WORDS
    assert all(len(row) < columns for row in rows)
    assert all(len(row) > columns - 10 for row in text[:-1])
    [call] = [row for row in rows if row.startswith('* look {"path"')]
    assert "found 3 lines" in call if columns > 80 else call.endswith("…")
    assert not [row for row in rows if row.startswith("answer>")]


@pytest.mark.parametrize("columns", WIDTHS)
def test_ctrl_c_interrupts_the_run_and_twice_leaves(attach: Callable[..., Person], shell: str, columns: int) -> None:
    person = attach(columns, shell)
    person.shows(">")
    person.type("echo begun; sleep 600\r")
    person.read_until(lambda rows: "begun" in rows)

    person.type("\x03")
    person.shows("# interrupting the run", "# the run ended as rolled_back")
    person.type("echo again\r")
    person.read_until(lambda rows: "again" in rows)
    person.type("\x03\x03")

    assert person.end() == 0
    assert Client.from_env().worker(shell).detail().status == "running"


def test_a_refused_connection_is_a_note(attach: Callable[..., Person], shell: str) -> None:
    sandbox = Client.from_env().runtime().sandbox
    if sandbox is None or sandbox.mechanism == "none":
        pytest.skip("nothing can confine Workers here")
    person = attach(200, shell)
    person.shows(">")

    person.type(f"{REFUSED}\r")

    person.shows(f"# {REFUSAL}", "403")


def test_a_line_is_edited_before_it_is_sent_and_recalled_afterwards(
    attach: Callable[..., Person], shell: str
) -> None:
    person = attach(40, shell)
    person.shows(">")

    person.type("ecko wörld 1\x1b[H\x1b[C\x1b[C\x1b[C\x7fh\x05\x17two\r")
    person.read_until(lambda rows: "wörld two" in rows)
    person.type("\x1b[A three\r")

    rows = person.read_until(lambda rows: "wörld two three" in rows)
    assert "> echo wörld two three" in rows


def test_a_long_line_scrolls_within_one_row(attach: Callable[..., Person], shell: str) -> None:
    person = attach(40, shell)
    person.shows(">")

    person.type(f"echo {WORDS}")
    rows = person.shows("word39")

    assert len(rows) == 1
    assert rows[0].startswith("> ")
    assert person.screen.cursor[1] == len(rows[0])


def test_control_characters_of_a_worker_do_not_reach_the_terminal(attach: Callable[..., Person], shell: str) -> None:
    person = attach(120, shell)
    person.shows(">")

    person.type(r"printf '\033]0;title\007\033[2J\n'" + "\r")

    person.shows(r"\x1b]0;title\x07\x1b[2J")


def test_the_past_an_open_text_and_open_questions_are_shown_at_the_beginning(
    attach: Callable[..., Person], agent: str
) -> None:
    worker = Client.from_env().worker(agent)
    worker.input("before")
    worker.wait("permission", cursor="wo_0000000000000000")

    person = attach(120, agent)
    rows = person.shows("> before", "word39", "? write a file", "[1] Allow  [2] Reject", "answer>")
    person.type("1")

    person.shows("Allow (by token:default)")
    assert rows[0] == "> before"


def test_a_terminal_that_becomes_narrower_breaks_what_comes_for_its_new_width(
    attach: Callable[..., Person], agent: str
) -> None:
    person = attach(120, agent)
    person.shows(">")
    person.resize(40)
    person.process.send_signal(signal.SIGWINCH)
    person.type("go on\r")

    rows = person.shows("answer>", "[1] Allow")

    assert all(len(row) < 40 for row in rows)


def test_the_conversation_goes_on_over_a_restart_of_the_daemon_and_ends_with_the_worker(
    attach: Callable[..., Person], start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    store = ("--store", f"fs:{tmp_path}/store")
    daemon = start_daemon(*store)
    worker = Client.from_env().create_worker(profile="builtin:shell", capabilities=["shell"])
    person = attach(120, worker.id)
    person.shows(">")
    person.type("echo before; sleep 600\r")
    person.read_until(lambda rows: "before" in rows)

    daemon.end(signal.SIGKILL)
    start_daemon(*store)
    person.shows("# the run ended as rolled_back")
    worker = Client.from_env().worker(worker.id)
    worker.restore()
    person.type("echo after\r")
    person.read_until(lambda rows: "after" in rows)
    worker.stop()
    code = person.end()

    assert (code, person.screen.rows.count("before")) == (0, 1)
    assert "# the Worker has ended" in person.screen.rows


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_command_and_leaves_the_terminal_as_it_was(
    attach: Callable[..., Person], shell: str, number: signal.Signals
) -> None:
    person = attach(120, shell)
    person.read_until(lambda rows: rows == [">"])
    assert person.mode != person.mode_before

    person.process.send_signal(number)

    assert person.end() == 128 + number
    assert person.mode == person.mode_before


def test_a_terminal_that_goes_away_ends_the_command_without_a_traceback(
    attach: Callable[..., Person], shell: str
) -> None:
    person = attach(120, shell)
    person.read_until(lambda rows: rows == [">"])

    person.hang_up()

    assert person.process.wait(DEADLINE_S) == 0


def test_without_a_terminal_the_command_says_what_to_use_instead(ctl: Ctl, new_worker: NewWorker) -> None:
    found = ctl("attach", new_worker())

    assert (found.returncode, found.stdout) == (2, "")
    assert "expected a terminal" in found.stderr


def test_an_unknown_worker_is_reported_before_the_terminal_changes(
    attach: Callable[..., Person], daemon: Daemon
) -> None:
    person = attach(120, "worker-0000ffff")

    assert person.end() == 3
    assert "worker_not_found" in "".join(person.screen.rows)
