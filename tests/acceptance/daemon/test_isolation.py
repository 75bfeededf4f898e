"""Interface section 4, targets section 3: what a Worker is not given, and what it leaves behind."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch, Until

ALLOWED = {"PATH", "HOME", "LANG", "TERM", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL"}
OF_THE_SHELL = {"PWD", "OLDPWD", "SHLVL", "_"}
OF_THE_SANDBOX = {"NODE_USE_ENV_PROXY"} | {
    name for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") for name in (proxy, proxy.lower())
}
"""How a confined program reaches the network."""

IMPATIENT = """
[profiles."builtin:shell"]
backend = "shell"
capabilities = ["shell"]
stop_grace_s = 0.2
"""


def _said(daemon: Daemon, worker_id: str, script: str) -> str:
    events = daemon.run(worker_id, script)
    return "".join(one["payload"]["data"]["text"] for one in events if one["payload"]["event"] == "text_done")


def _running(marker: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (folder / "cmdline").read_text():
                found.append(folder.name)
        except OSError:
            continue
    return found


def test_a_worker_inherits_a_short_list_of_the_environment(launch: Launch, store: str) -> None:
    secrets = {"RUNTIMED_TOKEN": "hidden-0123456789abcdef", "RUNTIMED_LOG_LEVEL": "info", "AWS_SECRET": "hidden"}
    daemon = launch(store=store, env=secrets).ready()
    worker_id = daemon.shell()
    environment = _said(daemon, worker_id, "cat /proc/self/environ | tr '\\0' '\\n'; env; export")
    assert "RUNTIMED_" not in environment
    assert "hidden" not in environment
    names = {line.partition("=")[0] for line in _said(daemon, worker_id, "env").splitlines()}
    allowed = ALLOWED | OF_THE_SHELL | OF_THE_SANDBOX
    assert {name for name in names if not name.startswith("LC_")} <= allowed


def test_a_worker_has_no_file_descriptor_but_its_standard_streams(daemon: Daemon) -> None:
    worker_id = daemon.shell()
    listed = _said(daemon, worker_id, "ls -l /proc/self/fd")
    found = dict(re.findall(r"(\d+) -> (.*)", listed))
    # The fourth is the folder that ls itself reads.
    assert set(found) - {name for name, target in found.items() if re.fullmatch(r"/proc/\d+/fd", target)} == set(
        "012"
    )
    own, parent = (_said(daemon, worker_id, f"ls -l /proc/{pid}/fd 2>&1") for pid in ("$$", "$PPID"))
    assert "-> " in own
    assert "-> " in parent or "Permission denied" in parent  # the first process of a sandbox shows nothing of itself
    targets = re.findall(r"-> (.*)", own + parent)
    assert all(re.fullmatch(r"pipe:\[\d+\]|/dev/null", target) for target in targets)


@pytest.mark.parametrize("verb", ["stop", "cancel"])
def test_nothing_that_a_worker_started_outlives_it(daemon: Daemon, until: Until, verb: str) -> None:
    worker_id = daemon.shell()
    marker = f"sleep\0{100_000 + daemon.pid}.{int(worker_id[-8:], 16):010}\0"
    command = marker.replace("\0", " ")
    daemon.run(worker_id, f"{command} & nohup {command} & (setsid {command} &) ; (trap '' TERM; {command}) & echo")
    until(lambda: len(_running(marker)) >= 4)
    daemon.call("POST", f"/v1/workers/{worker_id}/{verb}").ok("ack")
    until(lambda: not _running(marker))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_that_a_worker_started_outlives_the_daemon(
    launch: Launch, store: str, tmp_path: Path, until: Until, how: int
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(IMPATIENT)
    daemon = launch("--config", str(path), store=store).ready()
    marker = f"sleep\0{100_000 + daemon.pid}.25\0"
    command = marker.replace("\0", " ")
    daemon.run(daemon.shell(), f"{command} & (setsid {command} &) ; echo")
    daemon.input(daemon.shell(), f"trap '' TERM; {command}")
    until(lambda: len(_running(marker)) >= 3)
    os.kill(daemon.pid, how)
    daemon.ended()
    until(lambda: not _running(marker))


def test_a_worker_cannot_read_the_environment_of_the_daemon(launch: Launch, tmp_path: Path) -> None:
    drop = []
    if os.geteuid() == 0:
        # Root may read everything: both sides do without that privilege.
        drop = [shutil.which("setpriv") or "setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    daemon = launch(wrapper=drop, env={"RUNTIMED_TOKEN": "hidden-0123456789abcdef"}).ready()
    worker_id = daemon.shell()
    assert "PATH=" in _said(daemon, worker_id, "cat /proc/self/environ")
    said = _said(daemon, worker_id, "for p in /proc/[0-9]*; do cat $p/environ; done 2>/dev/null; echo .")
    assert "hidden" not in said
