"""contrib/systemd: systemd takes each file as it is, and each exception from hardening has its reason."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "contrib" / "systemd"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "systemd.md"
BREAKS_CONFINEMENT = {
    "RestrictNamespaces",
    "ProtectProc",
    "ProcSubset",
    "ProtectKernelTunables",
    "ProtectKernelLogs",
    "ProtectHostname",
    "PrivateUsers",
    "SystemCallFilter",
    "RestrictSUIDSGID",
    "DynamicUser",
}
BREAKS_WORKERS = {"ProtectControlGroups", "MemoryDenyWriteExecute", "PrivateNetwork", "IPAddressDeny"}

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")


def read(name: str) -> str:
    return (FOLDER / name).read_text()


def settings(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z]+)=(.*)$", text, re.MULTILINE))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_service_waits_for_readiness_delegates_its_control_group_and_stops_the_daemon_alone() -> None:
    found = settings(read("runtimed.service"))

    assert (found["Type"], found["Delegate"], found["KillMode"]) == ("notify", "yes", "mixed")
    assert (found["RestartPreventExitStatus"], found["WatchdogSec"]) == ("2 3", "30")
    assert found["ExecReload"].endswith("kill -HUP $MAINPID")


def test_what_would_break_confinement_and_workers_is_left_out_with_its_reason() -> None:
    text = read("runtimed.service")
    breaking = BREAKS_CONFINEMENT | BREAKS_WORKERS
    comments = " ".join(line for line in text.splitlines() if line.startswith("#"))

    assert not breaking & settings(text).keys()
    assert all(re.search(rf"\b{name}\b", comments) for name in breaking)
    assert all(f"`{name}=`" in PAGE.read_text() for name in breaking)


@needs_systemd
def test_systemd_knows_every_setting_of_the_units_and_of_the_drop_in(tmp_path: Path) -> None:
    for name in ("runtimed.service", "runtimed.socket"):
        text = read(name).replace("/usr/local/bin/runtimed", "/bin/true")
        (tmp_path / name).write_text(re.sub(r"=runtimed$", "=root", text, flags=re.MULTILINE))
    drop_in = tmp_path / "runtimed.service.d" / "credentials.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(read("credentials.conf"))

    found = run("systemd-analyze", "verify", *(str(tmp_path / f"runtimed.{kind}") for kind in ("service", "socket")))

    assert (found.returncode, found.stderr) == (0, "")


@needs_systemd
def test_the_level_of_security_is_the_one_that_the_unit_and_the_page_state() -> None:
    unit = str(FOLDER / "runtimed.service")
    found = run("systemd-analyze", "security", "--offline=yes", "--no-pager", unit)
    [level] = re.findall(r"Overall exposure level for runtimed\.service: ([0-9.]+ [A-Z]+)", found.stdout)
    rated = re.compile(r"rates (?:it|the service) ([0-9.]+) \((\w+)\)")

    for text in (read("runtimed.service"), PAGE.read_text()):
        assert [" ".join(match) for match in rated.findall(text)] == [level]
    threshold = f"--threshold={float(level.split()[0]) * 10:.0f}"
    assert run("systemd-analyze", "security", "--offline=yes", threshold, unit).returncode == 0


@needs_systemd
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes users and their folders")
def test_the_user_and_the_folders_are_made(tmp_path: Path) -> None:
    for name in ("sysusers", "tmpfiles"):
        made = tmp_path / "etc" / f"{name}.d" / "runtimed.conf"
        made.parent.mkdir(parents=True)
        made.write_text(read(f"{name}.conf"))
    (tmp_path / "etc" / "runtimed").mkdir()
    (tmp_path / "etc" / "runtimed" / "config.toml").touch()

    made_user = run("systemd-sysusers", f"--root={tmp_path}", "runtimed.conf")
    made_folders = run("systemd-tmpfiles", f"--root={tmp_path}", "--create", "runtimed.conf")

    assert (made_user.returncode, made_folders.returncode) == (0, 0)
    [user] = [line for line in (tmp_path / "etc" / "passwd").read_text().splitlines() if line.startswith("runtimed:")]
    _, _, uid, gid, _, home, shell = user.split(":")
    assert (home, shell) == ("/var/lib/runtimed", "/usr/sbin/nologin")
    paths = ("etc/runtimed", "etc/runtimed/config.toml", "etc/runtimed/credentials", "var/lib/runtimed")
    found = [(tmp_path / path).stat() for path in paths]
    assert [(one.st_mode & 0o7777, one.st_uid, one.st_gid) for one in found] == [
        (0o750, 0, int(gid)),
        (0o640, 0, int(gid)),
        (0o700, 0, 0),
        (0o700, int(uid), int(gid)),
    ]


def test_the_page_installs_every_file() -> None:
    text = PAGE.read_text()

    assert all(f"contrib/systemd/{path.name}" in text for path in FOLDER.iterdir())
