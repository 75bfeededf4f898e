"""What a host gives Workers, at the start and after a reload."""

from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from runtimed.execution.confinement.probe import Mechanisms
from runtimed.host import Host
from runtimed.model.profile import MechanismCheck
from runtimed.settings import Settings

WORKING = Mechanisms((), (MechanismCheck("bubblewrap", works=True),))
LATE = Mechanisms((), (MechanismCheck("bubblewrap", works=False, problem="bwrap did not answer in time"),))
CONFINED: Mapping[str, object] = {"mode": "best"}
UNCONFINED: Mapping[str, object] = {"mode": "off"}


class Probe:
    """Stands for trying out the mechanisms, which may take longer than it should on a busy host."""

    def __init__(self) -> None:
        self.found = WORKING
        self.calls = 0

    def __call__(self, _uid: int | None) -> Mechanisms:
        self.calls += 1
        return self.found


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    made = Probe()
    monkeypatch.setattr("runtimed.host.find_mechanisms", made)
    return made


def at_start(settings: Settings, folder: Path) -> Host:
    return Host.find(settings, folder / "store", None)


def test_a_reload_keeps_what_confines_workers_and_tries_nothing_again(probe: Probe, tmp_path: Path) -> None:
    settings = Settings(sandbox=dict(CONFINED))
    host = at_start(settings, tmp_path)
    probe.found = LATE

    after = host.after(attrs.evolve(settings, mounts={"data": {"path": str(tmp_path)}}), (), None)

    assert after.mechanisms == WORKING
    assert probe.calls == 1


def test_mechanisms_are_tried_by_the_first_reload_that_asks_for_confinement(probe: Probe, tmp_path: Path) -> None:
    host = at_start(Settings(sandbox=dict(UNCONFINED)), tmp_path)
    assert host.mechanisms == Mechanisms()

    host = host.after(Settings(sandbox=dict(UNCONFINED)), (), None)
    assert probe.calls == 0
    host = host.after(Settings(sandbox=dict(CONFINED)), (), None)
    host = host.after(Settings(sandbox=dict(CONFINED)), (), None)

    assert host.mechanisms == WORKING
    assert probe.calls == 1


def test_a_host_is_another_if_mounts_hidden_files_or_mechanisms_are(probe: Probe, tmp_path: Path) -> None:
    settings = Settings(sandbox=dict(UNCONFINED))
    host = at_start(settings, tmp_path)

    mounted = host.after(attrs.evolve(settings, mounts={"data": {"path": str(tmp_path)}}), (), None)
    hiding = host.after(settings, (tmp_path / "token",), None)
    confining = host.after(Settings(sandbox=dict(CONFINED)), (), None)

    assert host.after(attrs.evolve(settings, max_workers=5), (), None) == host
    assert all(other != host for other in (mounted, hiding, confining))


def test_what_was_hidden_once_stays_hidden(probe: Probe, tmp_path: Path) -> None:
    host = at_start(Settings(token_file=str(tmp_path / "first")), tmp_path)

    host = host.after(Settings(token_file=str(tmp_path / "second")), (tmp_path / "third",), None)
    host = host.after(Settings(), (), None)

    assert {tmp_path / name for name in ("store", "first", "second", "third")} <= set(host.paths.hidden)
