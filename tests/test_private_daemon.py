"""`runtimed exec` runs a command beside a daemon of its own, which ends with it."""

import contextlib
import json
import os
import pty
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.conftest import COVERAGE_VARIABLES
from tests.programs import RUNTIMED
from tests.runtimectl.job.conftest import programs_with

DEADLINE_S = 60
ROOT = Path(__file__).parents[1]
CTL = f"{sys.executable} -m runtimectl"
Exec = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def env(user_folders: Path) -> dict[str, str]:
    """The environment of the commands: folders of this test, and a short one for temporary files."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME")}
    return {**kept, "PYTHONPATH": str(ROOT), "TMPDIR": str(user_folders), "LANG": "C.UTF-8", **COVERAGE_VARIABLES}


@pytest.fixture
def start(env: dict[str, str]) -> Iterator[Exec]:
    """Starts `runtimed exec`, unless told not to by a fork. What still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(
        *args: str, extra: dict[str, str] | None = None, by_fork: bool = True, **how: Any
    ) -> "subprocess.Popen[str]":
        piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [*RUNTIMED, "exec", *args]
        open_process = programs.start if by_fork else subprocess.Popen
        started.append(open_process(command, env={**env, **(extra or {})}, text=True, **{**piped, **how}))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def completed(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


def read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


def has_ended(pid: int) -> bool:
    status = read(Path(f"/proc/{pid}/stat"))
    return not status or status.rpartition(")")[2].split()[0] in "ZX"


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_the_status_of_the_command_is_the_exit_code(start: Exec, script: str, code: int) -> None:
    assert completed(start("--", "sh", "-c", f"echo out; {script}")) == (code, "out\n", "")


@pytest.mark.parametrize(("command", "code"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_be_started_has_a_code_of_its_own(start: Exec, command: str, code: int) -> None:
    found, out, err = completed(start("--", command))
    assert (found, out) == (code, "")
    assert err.startswith(f"runtimed: exec: {command}: ")


def test_the_command_reaches_the_daemon_and_no_other_does(start: Exec, env: dict[str, str], tmp_path: Path) -> None:
    script = f"""
        stat -c %a "${{RUNTIMECTL_TOKEN_FILE%/*}}" "$RUNTIMECTL_TOKEN_FILE"
        {CTL} workers create -o name
        env -u RUNTIMECTL_URL -u RUNTIMECTL_TOKEN_FILE {CTL} status 2>&1
        echo "${{RUNTIMECTL_URL#unix:}}" >{tmp_path}/socket
    """
    code, out, _ = completed(start("--", "sh", "-c", script))
    folder, token, worker, elsewhere = out.splitlines()
    assert (folder, token, worker) == ("700", "600", "worker-00000001")
    assert "no daemon is running here" in elsewhere
    assert code == 0
    assert not Path((tmp_path / "socket").read_text().strip()).parent.exists()


def test_settings_in_the_environment_do_not_count_but_the_configuration_file_does(
    start: Exec, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('display_name = "from the file"')
    extra = {
        "RUNTIMED_CONFIG": str(config),
        "RUNTIMED_RUNTIME_ID": "other",
        "RUNTIMED_STORE": "fs:/nonexistent/store",
    }
    code, out, err = completed(start("--", "sh", "-c", f"{CTL} status -o json; echo $RUNTIMED_STORE", extra=extra))
    assert (code, err) == (0, "")
    assert '"from the file"' in out
    assert '"other"' not in out
    assert "fs:/nonexistent/store" in out


def test_an_address_for_metrics_in_the_configuration_is_left_to_the_daemon_of_the_service(
    start: Exec, env: dict[str, str]
) -> None:
    folder = Path(env["XDG_CONFIG_HOME"]) / "runtimed"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (folder / "config.toml").write_text(f'listen_metrics = "{address}"\n')

        assert completed(start("--", "true"))[0] == 0


def test_the_audit_log_the_drain_and_the_service_manager_are_left_to_the_daemon_of_the_service(
    start: Exec, env: dict[str, str], user_folders: Path
) -> None:
    folder = Path(env["XDG_CONFIG_HOME"]) / "runtimed"
    folder.mkdir()
    audit, name = user_folders / "audit", user_folders / "notify"
    (folder / "config.toml").write_text(f'drain_s = 600\n[audit]\nfile = "{audit}"\n')
    variables = {"NOTIFY_SOCKET": str(name), "WATCHDOG_USEC": "20000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(name))
        manager.setblocking(False)

        made = f"{CTL} workers create && printenv NOTIFY_SOCKET"
        code, out, err = completed(start("--", "sh", "-c", made, extra=variables))

        assert (code, out.splitlines()[-1]) == (0, str(name)), err
        with pytest.raises(BlockingIOError):
            manager.recv(4096)
    assert not audit.exists()


@pytest.mark.parametrize("kind", ["config", "store"])
def test_a_daemon_that_cannot_start_is_exit_125_and_the_command_does_not_run(
    start: Exec, tmp_path: Path, kind: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("no_such_setting = 1" if kind == "config" else "")
    store = "memory" if kind == "config" else f"fs:{config}/below"
    code, out, err = completed(start("--config", str(config), "--store", store, "--", "echo", "ran"))
    assert (code, out) == (125, "")
    assert err.startswith("runtimed: ")


def test_files_of_tls_that_are_for_another_daemon_do_not_matter(start: Exec, user_folders: Path) -> None:
    config = user_folders / "config.toml"
    config.write_text('tls_cert = "/nowhere/tls.pem"\ntls_key = "/nowhere/tls.key"\nlisten = ["0.0.0.0:0"]\n')
    command = ("sh", "-c", f"{CTL} status -o name > /dev/null && echo yes")
    ended = completed(start("--config", str(config), "--", *command))
    assert ended == (0, "yes\n", "")


@pytest.mark.parametrize("args", [(), ("--",), ("--listen", ":0", "--", "true")])
def test_wrong_usage_is_exit_2(start: Exec, args: tuple[str, ...]) -> None:
    assert completed(start(*args))[0] == 2


def test_the_current_directory_is_among_the_workspace_roots(start: Exec, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    code, out, err = completed(start("--", "sh", "-c", f"{CTL} run -C . -- pwd", cwd=folder))
    assert (code, out, err) == (0, f"{folder}\n", "")
    code, _, err = completed(start("--", "sh", "-c", f"{CTL} run -C .. -- pwd", cwd=folder))
    assert code == 125
    assert "workspace_roots" in err


def test_a_durable_store_is_there_again_for_the_next_command(start: Exec, tmp_path: Path) -> None:
    store = ("--store", f"fs:{tmp_path}/store")
    assert completed(start(*store, "--", "sh", "-c", f"{CTL} workers create -o name"))[1] == "worker-00000001\n"
    assert completed(start(*store, "--", "sh", "-c", f"{CTL} workers list -o name"))[1] == "worker-00000001\n"


def test_a_long_path_for_temporary_files_is_no_obstacle(start: Exec, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    code, out, _ = completed(start("--", "sh", "-c", f"{CTL} status -o name", extra={"TMPDIR": str(folder)}))
    assert (code, out.startswith("runtime-")) == (0, True)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_handed_on_to_the_command(start: Exec, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got; exit 3' {name}; echo ready; while :; do sleep 0.05; done"
    process = start("--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert completed(process)[:2] == (3, "got\n")


def test_a_signal_that_was_ignored_at_the_start_stays_ignored(start: Exec) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start("--", "echo", "ran", by_fork=False)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.stdout is not None
    while not select.select([process.stdout], [], [], 0.01)[0]:
        process.send_signal(signal.SIGHUP)
    assert completed(process) == (0, "ran\n", "")


def test_an_interrupt_from_the_terminal_reaches_the_command_once_and_not_the_daemon(
    env: dict[str, str], tmp_path: Path
) -> None:
    script = f"""
        trap 'echo got >>{tmp_path}/got' INT
        echo >{tmp_path}/ready
        until [ -e {tmp_path}/got ]; do sleep 0.05; done
        sleep 0.3
        {CTL} status -o name >{tmp_path}/status
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-m", "runtimed", "exec", "--", "sh", "-c", script], env)
    until((tmp_path / "ready").exists, "the command has started")
    os.write(terminal, b"\x03")
    status = until(lambda: read(tmp_path / "status"), "the daemon answers after the interrupt")
    os.waitpid(pid, 0)
    os.close(terminal)
    assert status.startswith("runtime-")
    assert (tmp_path / "got").read_text() == "got\n"


def test_a_run_beside_a_daemon_that_is_killed_ends_at_once_which_a_line_reports(start: Exec, tmp_path: Path) -> None:
    result = tmp_path / "result"
    script = f"{CTL} run --result {result} -- sh -c 'echo begun; sleep 600'; echo ended with $?; exit 3"
    process = start("--", "sh", "-c", script, by_fork=False)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"

    os.kill(daemon_of(process.pid), signal.SIGKILL)

    code, out, err = completed(process)
    assert (code, out) == (3, "ended with 125\n")
    assert "runtimed: exec: the daemon was ended by signal 9\n" in err
    assert json.loads(result.read_text())["outcome"] == "lost"


def test_a_command_that_is_killed_takes_the_daemon_and_its_workers_with_it(
    start: Exec, tmp_path: Path, user_folders: Path
) -> None:
    mark = str(tmp_path / "mark")
    process = start(
        "--", *CTL.split(), "run", "--", "sh", "-c", f"exec sh -c 'sleep 600; true' {mark}", by_fork=False
    )
    until(lambda: programs_with(mark), "the program of the Worker runs")
    assert list(user_folders.glob("runtimed-*"))
    daemon = daemon_of(process.pid)
    [command] = [child for child in children_of(process.pid) if child != daemon]

    os.kill(command, signal.SIGKILL)

    assert completed(process) == (137, "", "")
    assert has_ended(daemon)
    until(lambda: not programs_with(mark), "the program of the Worker has ended")
    assert not list(user_folders.glob("runtimed-*")), "the folder of the daemon is gone"


def children_of(pid: int) -> list[int]:
    return [int(child) for child in read(Path(f"/proc/{pid}/task/{pid}/children")).split()]


def daemon_of(pid: int) -> int:
    """Return the process of the daemon beside the command of `runtimed exec`."""
    [daemon] = [child for child in children_of(pid) if "runtimed\0exec" in read(Path(f"/proc/{child}/cmdline"))]
    return daemon


def test_the_daemon_ends_with_its_workers_even_if_exec_is_killed(start: Exec, tmp_path: Path) -> None:
    script = f"""
        {CTL} workers create --profile builtin:shell --capability shell -o name
        {CTL} workers input worker-00000001 'sleep 600'
        {CTL} workers wait worker-00000001 --for busy
        echo "${{RUNTIMECTL_URL#unix:}}" >{tmp_path}/socket
        exec sleep 600
    """
    process = start("--", "sh", "-c", script, by_fork=False)
    until(lambda: read(tmp_path / "socket"), "the Worker runs")
    socket = Path((tmp_path / "socket").read_text().strip())
    assert stat.S_ISSOCK(socket.stat().st_mode)
    children, daemon = children_of(process.pid), daemon_of(process.pid)

    process.kill()

    until(lambda: has_ended(daemon), "the daemon has ended")
    assert not socket.parent.exists()
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
