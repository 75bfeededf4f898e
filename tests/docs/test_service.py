"""The systemd unit of the page on serving: what it says stands in it, and systemd takes it as it is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.conftest import ReadPage

BREAKS_NAMESPACES = {
    "RestrictNamespaces",
    "ProtectProc",
    "ProcSubset",
    "ProtectKernelTunables",
    "ProtectKernelLogs",
    "ProtectHostname",
    "SystemCallFilter",
}
BREAKS_CONFINEMENT = {"RestrictSUIDSGID", "DynamicUser"}
"""They take away openat2, which Landlock's launcher needs."""

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")


@pytest.fixture
def text(page: ReadPage) -> str:
    return page("how-to/serve.md").text


@pytest.fixture
def unit(page: ReadPage) -> str:
    [found] = [block for block in page("how-to/serve.md").blocks("ini") if "runtimed.service" in block]
    return found


def settings(unit: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z]+)=(.*)$", unit, re.MULTILINE))


def analyzed(tmp_path: Path, unit: str, *command: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "runtimed.service"
    file.write_text(unit)
    return subprocess.run(
        ["systemd-analyze", *command, str(file)], capture_output=True, text=True, timeout=60, check=False
    )


def exposure(tmp_path: Path, unit: str) -> str:
    found = analyzed(tmp_path, unit, "security", "--offline=true", "--no-pager")
    [level] = re.findall(r"Overall exposure level for runtimed\.service: ([0-9.]+ [A-Z]+)", found.stdout)
    return str(level)


def test_the_unit_delegates_its_control_group_and_waits_until_the_daemon_serves(unit: str) -> None:
    found = settings(unit)
    assert (found["Delegate"], found["Type"]) == ("yes", "notify")
    assert found["RestartPreventExitStatus"] == "2 3"


def test_the_unit_sets_nothing_that_forbids_the_namespaces_and_the_confinement_of_workers(
    unit: str, text: str
) -> None:
    breaking = BREAKS_NAMESPACES | BREAKS_CONFINEMENT
    assert not breaking & settings(unit).keys()
    assert all(f"`{name}=`" in text for name in breaking)


@needs_systemd
def test_systemd_knows_every_setting_of_the_unit(tmp_path: Path, unit: str) -> None:
    runnable = unit.replace("/usr/local/bin/runtimed", "/bin/true").replace("User=runtimed", "User=root")
    found = analyzed(tmp_path, runnable, "verify")
    assert (found.returncode, found.stderr) == (0, "")


@needs_systemd
def test_the_level_of_security_is_the_one_that_the_page_states(tmp_path: Path, unit: str, text: str) -> None:
    bare = re.sub(r"^NoNewPrivileges=.*?\n\n", "\n", unit, flags=re.MULTILINE | re.DOTALL)
    [(stated, name, without, other)] = re.findall(
        r"rates it ([0-9.]+) \((\w+)\); without the second half of `\[Service\]` it is ([0-9.]+) \((\w+)\)", text
    )
    assert exposure(tmp_path, unit) == f"{stated} {name}"
    assert exposure(tmp_path, bare) == f"{without} {other}"
