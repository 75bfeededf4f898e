"""The systemd unit of the page on serving: what it says stands in it, and systemd takes it as it is."""

import re
import shutil
import subprocess

import pytest

BREAKS_NAMESPACES = {
    "RestrictNamespaces",
    "ProtectProc",
    "ProcSubset",
    "ProtectKernelTunables",
    "ProtectKernelLogs",
    "ProtectHostname",
    "SystemCallFilter",
}
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")


@pytest.fixture
def text(page):
    return page("how-to/serve.md").text


@pytest.fixture
def unit(page):
    [found] = [block for block in page("how-to/serve.md").blocks("ini") if "runtimed.service" in block]
    return found


def settings(unit):
    return dict(re.findall(r"^([A-Za-z]+)=(.*)$", unit, re.MULTILINE))


def analyzed(tmp_path, unit, *command):
    file = tmp_path / "runtimed.service"
    file.write_text(unit)
    return subprocess.run(
        ["systemd-analyze", *command, str(file)], capture_output=True, text=True, timeout=60, check=False
    )


def exposure(tmp_path, unit):
    found = analyzed(tmp_path, unit, "security", "--offline=true", "--no-pager")
    [level] = re.findall(r"Overall exposure level for runtimed\.service: ([0-9.]+ [A-Z]+)", found.stdout)
    return level


def test_the_unit_delegates_its_control_group_and_waits_until_the_daemon_serves(unit):
    found = settings(unit)
    assert (found["Delegate"], found["Type"]) == ("yes", "notify")
    assert found["RestartPreventExitStatus"] == "2 3"


def test_the_unit_sets_nothing_that_forbids_the_namespaces_of_workers(unit, text):
    assert not BREAKS_NAMESPACES & settings(unit).keys()
    assert all(f"`{name}=`" in text for name in BREAKS_NAMESPACES)


@needs_systemd
def test_systemd_knows_every_setting_of_the_unit(tmp_path, unit):
    runnable = unit.replace("/usr/local/bin/runtimed", "/bin/true").replace("User=runtimed", "User=root")
    found = analyzed(tmp_path, runnable, "verify")
    assert (found.returncode, found.stderr) == (0, "")


@needs_systemd
def test_the_level_of_security_is_the_one_that_the_page_states(tmp_path, unit, text):
    bare = re.sub(r"^NoNewPrivileges=.*?\n\n", "\n", unit, flags=re.MULTILINE | re.DOTALL)
    [(stated, name, without, other)] = re.findall(
        r"rates it ([0-9.]+) \((\w+)\); without the second half of `\[Service\]` it is ([0-9.]+) \((\w+)\)", text
    )
    assert exposure(tmp_path, unit) == f"{stated} {name}"
    assert exposure(tmp_path, bare) == f"{without} {other}"
