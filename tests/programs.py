"""`runtimed` and `runtimectl` as processes, for tests that are not about how they are started.

Importing a program takes up to half a second of processor time, and there are thousands of starts. So each process of
pytest has one other that has imported both: it forks for a start, and the copy takes the arguments, the environment,
the directory and the standard streams, and runs the program's `__main__`.
"""

import array
import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

RUNTIMED = (sys.executable, "-m", "runtimed")
RUNTIMECTL = (sys.executable, "-m", "runtimectl")

ROOT = str(Path(__file__).parents[1])
MAX_REQUEST_BYTES = 1 << 20
RIGHTS_BYTES = socket.CMSG_SPACE(3 * array.array("i").itemsize)
POLL_S = 0.01

HARMLESS = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
"""Variables of the interpreter that change nothing a test may rely on."""

KNOWN = {"stdin", "stdout", "stderr", "text", "cwd", "start_new_session"}
"""What a fork can be told about; anything else of `subprocess.Popen` means an ordinary start."""


def start(command: Sequence[str], env: Mapping[str, str], **how: Any) -> "subprocess.Popen[Any]":
    """Start a command as `subprocess.Popen` does; by a fork, if it begins as one of the programs."""
    is_ours = tuple(command[:3]) in {RUNTIMED, RUNTIMECTL} and how.keys() <= KNOWN and _is_plain(env)
    return (_Forked if is_ours else subprocess.Popen)(list(command), env=env, **how)


def run(
    command: Sequence[str], env: Mapping[str, str], *, timeout: float, text: str | None = "", **how: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, as `subprocess.run` does; `text` is piped in, the output is captured."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with start(command, env, **{**pipes, **how}) as process:
        try:
            out, err = process.communicate(text, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _is_plain(env: Mapping[str, str]) -> bool:
    """Whether the interpreter would start the same with this environment."""
    special = {name for name in env if name.startswith(("PYTHON", "LC_", "COVERAGE_"))} - HARMLESS
    is_same = env.get("PYTHONPATH", ROOT) == ROOT and env.get("LANG", "C.UTF-8") == "C.UTF-8"
    return is_same and not special


class _Forked(subprocess.Popen[Any]):
    """A program that was forked, and whose parent therefore is the other process; the rest of it is as usual."""

    def _execute_child(self, *given: Any) -> None:
        args, cwd, env, pipes = given[0], given[5], given[6], given[10:16]
        child_ends = [own if pipe == -1 else pipe for own, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        wanted = {"module": args[2], "arguments": args[3:], "cwd": os.fspath(cwd or Path.cwd()), "env": dict(env)}
        wanted["new_session"] = given[21]
        self.pid = _server.fork(wanted, child_ends)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]  # private

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        with self._waitpid_lock:  # type: ignore[attr-defined]  # private
            if self.returncode is None:
                pid, status = self._try_wait(os.WNOHANG)
                if pid == self.pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]  # private
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        while (status := _server.status(self.pid)) is None:
            if flags:
                return 0, 0
            time.sleep(POLL_S)
        return self.pid, status


class _Server:
    """The process that forks, as the tests see it. It is started with the first program."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def fork(self, wanted: Mapping[str, Any], streams: Sequence[int]) -> int:
        """Return the id of a new process."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))
        return int(self._ask(wanted, [rights]))

    def status(self, pid: int) -> int | None:
        """Return how a process ended, as `os.waitpid` has it, or None if it runs."""
        status: int | None = self._ask({"pid": pid})
        return status

    def _ask(self, request: Mapping[str, Any], ancillary: Sequence[Any] = ()) -> Any:
        with self._lock:
            if self._socket is None:
                self._socket = self._start()
            self._socket.sendmsg([json.dumps(request).encode()], ancillary)
            return json.loads(self._socket.recv(MAX_REQUEST_BYTES))

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST_BYTES)
        with theirs:
            command = [sys.executable, "-m", "tests.programs", str(theirs.fileno())]
            env = {"PATH": os.environ["PATH"], "PYTHONPATH": ROOT, "LANG": "C.UTF-8"}
            server = subprocess.Popen(command, env=env, cwd=ROOT, pass_fds=[theirs.fileno()])
        atexit.register(_end, server, ours)
        return ours


def _end(server: "subprocess.Popen[bytes]", connection: socket.socket) -> None:
    connection.close()
    server.wait()


_server = _Server()


def _serve(connection: socket.socket) -> Mapping[str, Any]:
    """Answer requests. Returns in a copy alone, with what it is to run; ends with the tests."""
    while True:
        message, ancillary, _, _ = connection.recvmsg(MAX_REQUEST_BYTES, RIGHTS_BYTES)
        if not message:
            sys.exit()
        request: Mapping[str, Any] = json.loads(message)
        if "pid" in request:
            pid, status = os.waitpid(request["pid"], os.WNOHANG)
            connection.send(json.dumps(status if pid else None).encode())
            continue
        streams = array.array("i", ancillary[0][2])
        if (pid := os.fork()) == 0:
            connection.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            os.closerange(3, max(streams) + 1)
            return request
        for stream in streams:
            os.close(stream)
        connection.send(str(pid).encode())


def _become(wanted: Mapping[str, Any]) -> None:
    """Run a program in this process, as if it had just been started."""
    if wanted["new_session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(wanted["env"])
    if "LANG" not in os.environ:
        os.environ["LC_CTYPE"] = "C.UTF-8"  # as PEP 538 has it
    time.tzset()
    os.chdir(wanted["cwd"])
    # The streams of the other process know whether they were terminals.
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", newline="\n", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", "\n", closefd=False)  # noqa: SIM115
    sys.argv = [wanted["module"], *wanted["arguments"]]
    try:
        runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        _exit(end.code)
        raise
    _exit(0)


def _exit(code: int) -> None:
    """End this process as the interpreter would, but leave its memory to the system.

    Taking the modules apart would copy every page that they share with the other process. Returns where a stream
    cannot be flushed: the interpreter has an exit code for that.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # private
    atexit._run_exitfuncs()
    gc.collect()  # what nobody awaited or closed is reported
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)


def _import_programs() -> None:
    for name in ("runtimed", "runtimectl"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    with suppress(ImportError):
        importlib.import_module("uvloop")
    app = importlib.import_module("runtimed.http.app")
    app.describe(app.NOUNS)  # as every daemon does


if __name__ == "__main__":
    _import_programs()
    gc.collect()
    gc.freeze()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
