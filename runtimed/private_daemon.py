"""A daemon for one command: it serves on a socket in a folder of its own, and ends with its parent process."""

import contextlib
import ctypes
import os
import secrets
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

NOT_STARTED = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127
SIGNALED = 128

MAX_SOCKET_PATH = 107
START_POLL_S = 0.05
STOP_TIMEOUT_S = 60.0
"""How long the daemon may take to stop before it is killed."""

PR_SET_PDEATHSIG = 1
HANDED_ON = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2})
"""The signals that the command gets too."""

Serve = Callable[[Mapping[str, Any], str | None, Callable[[str], None]], int]


class PrivateDaemon:
    """A daemon in a child process, which listens on a Unix socket that only this user can reach.

    The child is in a session of its own, so that no signal of a terminal ends it before the command. It gets SIGTERM
    when this process ends, even by SIGKILL.

    Args:
        serve: Runs a daemon in the child with these settings and the configuration file, and returns its exit code.
            It calls its last argument when the daemon accepts requests.
        store: The store, or None for the default.
        config: The configuration file, or None.

    Attributes:
        folder: The folder of the socket, the token and the endpoint file (mode 0700).
    """

    _pid = 0
    """The process of the daemon; 0 if it was not started, or its end was noticed."""

    def __init__(self, serve: Serve, store: str | None, config: str | None) -> None:
        self._serve = serve
        self._config = config or os.environ.get("RUNTIMED_CONFIG") or None
        self.folder = make_folder()
        self._socket = self.folder / "socket"
        self._token_file = self.folder / "token"
        settings: dict[str, Any] = {"listen": (f"unix:{self._socket}",), "token_file": str(self._token_file)}
        settings |= dict.fromkeys(("tls_cert", "tls_key", "tls_client_ca"), "")  # They are for TCP.
        self._settings = {**settings, "store": store or "memory"}

    @property
    def variables(self) -> dict[str, str]:
        """The environment by which `runtimectl` finds the daemon."""
        return {"RUNTIMECTL_URL": f"unix:{self._socket}", "RUNTIMECTL_TOKEN_FILE": str(self._token_file)}

    def start(self) -> int | None:
        """Start the daemon and wait until it accepts requests.

        SIGCHLD and the signals in HANDED_ON must be blocked, unless they are ignored.

        Returns:
            None once it does; else the exit code of a command that could not be run.
        """
        descriptor = os.open(self._token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
        reader, writer = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(reader)
            self._serve_and_exit(parent, writer)
        os.close(writer)
        try:
            return self._await_ready(reader)
        finally:
            os.close(reader)

    def stop(self) -> None:
        """Stop the daemon, wait for its end, and remove the folder. Does nothing more if it has ended."""
        if self._pid:
            deadline = time.monotonic() + STOP_TIMEOUT_S
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)
            while self._exit_code() is None:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    os.kill(self._pid, signal.SIGKILL)
                signal.sigtimedwait({signal.SIGCHLD}, max(left_s, START_POLL_S))
        shutil.rmtree(self.folder, ignore_errors=True)

    def report_end(self) -> None:
        """If the daemon has ended, report it and remove the folder, so that no client waits for it to come back."""
        code = self._exit_code() if self._pid else None
        if code is not None:
            sys.stderr.write(f"runtimed: exec: the daemon {_ending(code)}\n")
            shutil.rmtree(self.folder, ignore_errors=True)

    def _exit_code(self) -> int | None:
        """Return the exit code of the daemon, negative if a signal ended it, once; None while it runs."""
        ended, status = os.waitpid(self._pid, os.WNOHANG)
        if not ended:
            return None
        self._pid = 0
        return os.waitstatus_to_exitcode(status)

    def _await_ready(self, reader: int) -> int | None:
        while not select.select([reader], [], [], START_POLL_S)[0]:
            found = signal.sigtimedwait(HANDED_ON, 0)
            if found is not None:
                return SIGNALED + found.si_signo
        return None if os.read(reader, 1) else NOT_STARTED

    def _serve_and_exit(self, parent: int, writer: int) -> None:
        """Run the daemon in this process, which was forked, and end it."""
        code = 1
        try:
            _detach()
            self._clear_environment()
            if os.getppid() == parent:  # It may have ended before this process asked to be told.
                code = self._serve(self._settings, self._config, lambda _: _announce(writer))
        except Exception:  # noqa: BLE001 this process must not go on as the one that it was forked from
            sys.excepthook(*sys.exc_info())
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            os._exit(code)

    def _clear_environment(self) -> None:
        """Let no setting count and no service manager be told, and publish the endpoint file in the folder only."""
        for name in [name for name in os.environ if name.startswith(("RUNTIMED_", "WATCHDOG_"))]:
            del os.environ[name]
        os.environ.pop("NOTIFY_SOCKET", None)
        os.environ["RUNTIMED_LOG_LEVEL"] = "error"
        os.environ["XDG_RUNTIME_DIR"] = str(self.folder)


def make_folder() -> Path:
    """Make a folder (mode 0700) whose path leaves room for a socket.

    Raises:
        OSError: There is no such folder.
    """
    for place in (None, "/tmp", "/var/tmp"):  # noqa: S108 mkdtemp makes a folder that nobody else can enter
        folder = Path(tempfile.mkdtemp(prefix="runtimed-", dir=place))
        if len(os.fsencode(folder / "socket")) <= MAX_SOCKET_PATH:
            return folder
        folder.rmdir()
    raise OSError(f"no folder for temporary files has a path short enough for a socket ({MAX_SOCKET_PATH} bytes)")


def _ending(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _detach() -> None:
    """Leave the terminal and the standard streams, but for stderr, and end with the parent process."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _announce(writer: int) -> None:
    with contextlib.suppress(OSError):
        os.write(writer, b"1")
    os.close(writer)


def run_command(daemon: PrivateDaemon, command: Sequence[str]) -> int:
    """Run a command beside a private daemon, and return the exit code.

    Signals that other processes send to this one go to the command too, unless they were ignored when it was started.
    Those of the terminal reach the command by themselves.
    The signals stay blocked: this process is to end with the code that is returned.

    Returns:
        The status of the command, 128 + n if signal n ended it, or NOT_STARTED, NOT_FOUND or NOT_EXECUTABLE.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    minded = (number for number in HANDED_ON if signal.getsignal(number) is not signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *minded})
    try:
        failure = daemon.start()
        return _run(command, daemon, mask) if failure is None else failure
    finally:
        daemon.stop()


def _run(command: Sequence[str], daemon: PrivateDaemon, mask: Any) -> int:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNTIMECTL_")}
    environment = {**kept, **daemon.variables}
    defaults = {signal.SIGPIPE, signal.SIGXFSZ}  # Python ignores these two.
    try:
        pid = os.posix_spawnp(command[0], list(command), environment, setsigmask=mask, setsigdef=defaults)
    except OSError as error:
        sys.stderr.write(f"runtimed: exec: {command[0]}: {error.strerror}\n")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    return _wait(pid, daemon)


def _wait(pid: int, daemon: PrivateDaemon) -> int:
    """Wait for the end of a process, hand signals on to it, and return its status."""
    while True:
        daemon.report_end()
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else SIGNALED - code
        found = signal.sigwaitinfo({signal.SIGCHLD, *HANDED_ON})
        if found.si_signo != signal.SIGCHLD and found.si_code <= 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, found.si_signo)
