"""How any command starts and ends."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import runtimed
from tests.runtimectl.conftest import Ctl, Daemon, NewWorker, StartCtl


def test_version_alone_imports_neither_click_nor_json(plain_env: dict[str, str]) -> None:
    code = (
        "import sys; sys.argv = ['runtimectl', '--version']\n"
        "from runtimectl.cli import main; main(); print(sorted(m for m in sys.modules if m in {'click', 'json'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], env=plain_env, capture_output=True, text=True, check=True)
    assert found.stdout == f"runtimectl {runtimed.__version__}\n[]\n"


def test_version_is_accepted_behind_other_options(ctl: Ctl) -> None:
    assert ctl("-q", "--version").stdout == f"runtimectl {runtimed.__version__}\n"


def test_a_list_imports_no_heavy_libraries(plain_env: dict[str, str], daemon: Daemon) -> None:
    code = (
        "import sys; sys.argv = ['runtimectl', 'workers', 'list']\n"
        "from runtimectl.cli import main; main()\n"
        "heavy = {'http.client', 'orjson', 'cattrs', 'attrs', 'rich', 'websockets', 'aiohttp', 'yaml', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], env=plain_env, capture_output=True, text=True, check=True)
    assert found.stderr == "[]\n"
    assert found.stdout.startswith("WORKER ")


def test_help_works_without_a_daemon_and_names_every_command(ctl: Ctl) -> None:
    found = ctl("--help")
    assert found.returncode == 0
    for name in ("status", "workers", "transcript", "events", "bundles", "context", "completion"):
        assert f"\n  {name} " in found.stdout


@pytest.mark.parametrize(
    "args",
    [
        ("workers", "create"),
        ("workers", "list"),
        ("workers", "stop"),
        ("events", "tail"),
        ("bundles", "push"),
        ("context", "set"),
        ("status",),
        ("transcript",),
        ("completion",),
    ],
)
def test_each_help_has_an_example_and_the_common_options(ctl: Ctl, args: tuple[str, ...]) -> None:
    found = ctl(*args, "--help")
    assert found.returncode == 0
    assert "Example:\n    " in found.stdout
    assert "--token-file" in found.stdout
    own = found.stdout.partition("\nOptions:\n")[2].partition("\n\n")[0]
    assert all(line.startswith(("  -", "     ")) for line in own.splitlines()), "an argument is no option"


@pytest.mark.parametrize("group", [(), ("workers",), ("events",), ("permissions",), ("bundles",), ("context",)])
def test_the_summary_of_each_command_is_a_whole_sentence(ctl: Ctl, group: tuple[str, ...]) -> None:
    commands = ctl(*group, "--help").stdout.partition("\nCommands:\n")[2].splitlines()
    assert commands
    assert all(line.startswith("  ") and line.endswith(".") and not line.endswith("...") for line in commands)


def test_the_help_of_tail_accepts_a_worker_or_all(ctl: Ctl) -> None:
    assert "Usage: runtimectl events tail [OPTIONS] W|--all\n" in ctl("events", "tail", "--help").stdout


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",),
        ("workers", "get"),
        ("workers", "list", "--status", "asleep"),
        ("status", "-o", "xml"),
        ("status", "--timeout", "0"),
        ("status", "--timeout", "soon"),
        ("status", "--url", "ftp://127.0.0.1:1"),
        ("status", "--url", "http://127.0.0.1:99999"),
        ("status", "--url", "http://someone@127.0.0.1"),
        ("status", "--url", "unix:"),
        ("workers", "create", "--task", "a", "--role", "b"),
        ("workers", "create", "--mount", "name"),
        ("workers", "create", "--bundle", "only-an-id"),
        ("events", "tail", "w", "--until", "nonsense"),
        ("events", "tail", "w", "--cursor", "c", "--from-start"),
    ],
)
def test_an_invalid_command_line_prints_one_line_to_stderr_and_exits_2(ctl: Ctl, args: tuple[str, ...]) -> None:
    found = ctl(*args)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("runtimectl: ")
    assert found.stderr.count("\n") == 1


def test_a_group_without_a_command_shows_its_help_on_stderr_and_exits_2(ctl: Ctl) -> None:
    found = ctl("workers")
    assert (found.returncode, found.stdout) == (2, "")
    assert "Usage: runtimectl workers" in found.stderr


def test_common_options_are_accepted_anywhere_and_the_last_one_wins(ctl: Ctl, daemon: Daemon) -> None:
    assert ctl("-o", "name", "status").stdout == f"{daemon.runtime_id}\n"
    assert ctl("-o", "json", "status", "-o", "name").stdout == f"{daemon.runtime_id}\n"
    assert ctl("workers", "-o", "json", "list").stdout == '{"workers": []}\n'


def test_a_closed_pipe_ends_a_command_without_an_error(env: dict[str, str], daemon: Daemon) -> None:
    command = [sys.executable, "-m", "runtimectl", "status"]
    reading, writing = os.pipe()
    os.close(reading)
    found = subprocess.run(command, env=env, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (found.returncode, found.stderr) == (0, b"")


def test_a_closed_pipe_ends_a_feed_without_an_error(ctl: Ctl, env: dict[str, str], new_worker: NewWorker) -> None:
    worker = new_worker()
    assert ctl("workers", "input", worker, "hello", "--wait").returncode == 0
    tail = f"{sys.executable} -m runtimectl events tail {worker} --from-start --no-follow"
    found = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {tail} | head -1"], env=env, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.endswith("snapshot  idle entries=0 in_flight=0\n")


def test_a_full_disk_under_stdout_is_an_error(env: dict[str, str], daemon: Daemon) -> None:
    command = [sys.executable, "-m", "runtimectl", "status"]
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(command, env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, "runtimectl: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("args", ["status", "workers list -o json", "--version"])
def test_without_a_stdout_the_command_prints_one_error_and_does_nothing(
    env: dict[str, str], daemon: Daemon, args: str
) -> None:
    command = ["sh", "-c", f"{sys.executable} -m runtimectl {args} >&-"]
    found = subprocess.run(command, env=env, stderr=subprocess.PIPE, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, "runtimectl: cannot write the output: stdout is closed\n")


def test_without_a_stderr_the_exit_code_is_kept(env: dict[str, str], daemon: Daemon) -> None:
    for args, code in (("status", 0), ("workers get worker-ffffffff", 3), ("workers get", 2)):
        command = ["sh", "-c", f"{sys.executable} -m runtimectl {args} 2>&-"]
        assert subprocess.run(command, env=env, stdout=subprocess.PIPE, check=False).returncode == code


def test_an_interrupt_ends_with_130_and_without_a_traceback(new_worker: NewWorker, start_ctl: StartCtl) -> None:
    tail = start_ctl("events", "tail", new_worker())
    tail.wait_for("snapshot")
    tail.process.send_signal(signal.SIGINT)
    assert tail.finished() == 130
    assert tail.err == []


def test_a_command_that_is_terminated_ends_with_143_for_a_shell(new_worker: NewWorker, start_ctl: StartCtl) -> None:
    tail = start_ctl("events", "tail", new_worker())
    tail.wait_for("snapshot")
    tail.process.send_signal(signal.SIGTERM)
    assert tail.finished() == -signal.SIGTERM
    assert tail.err == []


def test_a_timeout_ends_an_endless_wait(new_worker: NewWorker, ctl: Ctl) -> None:
    found = ctl("events", "tail", new_worker(), "--timeout", "1.5")
    assert (found.returncode, found.stderr) == (8, "runtimectl: timed out: the time of --timeout is over\n")


def test_a_timeout_ends_the_reading_of_stdin(env: dict[str, str]) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "runtimectl", "bundles", "digest", "-", "--timeout", "0.5"]
    found = subprocess.run(command, env=env, stdin=reading, capture_output=True, text=True, check=False)
    os.close(reading)
    os.close(writing)
    assert found.returncode == 8


@pytest.mark.parametrize(("shell", "part"), [("bash", "complete -o"), ("zsh", "#compdef"), ("fish", "complete --")])
def test_a_completion_script_is_printed_for_each_shell(ctl: Ctl, shell: str, part: str) -> None:
    found = ctl("completion", shell)
    assert found.returncode == 0
    assert part in found.stdout
    assert "_RUNTIMECTL_COMPLETE" in found.stdout


def test_completion_completes_commands(ctl: Ctl) -> None:
    extra = {"_RUNTIMECTL_COMPLETE": "bash_complete", "COMP_WORDS": "runtimectl work", "COMP_CWORD": "1"}
    assert ctl(extra=extra).stdout == "plain,workers\nplain,workspaces\n"


def on_a_terminal(env: dict[str, str], *args: str) -> str:
    """Return what a command prints to a terminal."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "runtimectl", *args]
    shown = b""
    with subprocess.Popen(command, env={**env, "TERM": "xterm"}, stdout=follower, stderr=subprocess.PIPE) as process:
        os.close(follower)
        with contextlib.suppress(OSError):  # nobody has the other end any more
            while part := os.read(leader, 65536):
                shown += part
        os.close(leader)
        _, err = process.communicate()
    assert process.returncode == 0, err
    return shown.decode()


def test_a_terminal_gets_colors_unless_they_are_disabled(env: dict[str, str], new_worker: NewWorker) -> None:
    worker = new_worker()
    coloured = on_a_terminal(env, "workers", "list")
    assert "\x1b[32mrunning" in coloured
    assert worker in coloured
    assert "\x1b" not in on_a_terminal(env, "workers", "list", "--no-color")
    assert "\x1b" not in on_a_terminal({**env, "NO_COLOR": "1"}, "workers", "list")


def test_json_is_indented_only_on_a_terminal(env: dict[str, str], ctl: Ctl, daemon: Daemon) -> None:
    assert '\r\n  "runtime": {\r\n' in on_a_terminal(env, "status", "-o", "json")
    assert ctl("status", "-o", "json").stdout.count("\n") == 1


def test_a_terminal_as_stdin_is_refused(env: dict[str, str], new_worker: NewWorker) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "runtimectl", "workers", "input", new_worker(), "-"]
    found = subprocess.run(command, env=env, stdin=follower, capture_output=True, text=True, check=False)
    os.close(leader)
    os.close(follower)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "runtimectl: stdin: expected a pipe or a file, got a terminal\n"
