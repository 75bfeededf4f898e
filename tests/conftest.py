"""What every test stands on: no blocking call on the event loop of our packages, and no leftover endpoint file."""

import gc
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

from tests.certificates import Authority
from tests.event_loops import is_left_to_the_other_loop, loop_factories

COVERAGE_VARIABLES = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
"""What a program with an environment of its own needs for `make coverage` to measure it; nothing in other runs."""

# The time of an example depends on how busy the machine is.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How thorough the tests in faults/ are; here, because pytest reads options before it looks into folders."""
    parser.addoption("--faults", choices=["short", "long"], default="short", help="how long tests/faults goes on")
    parser.addoption("--loops", choices=["all", "asyncio"], default="all", help="which event loops tests run on")


def pytest_configure() -> None:
    """Programs inherit ignored signals: SIGINT and SIGQUIT in the background of a script, SIGHUP below nohup.

    They do not inherit a handler, and with one pytest itself goes on as before.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that run on another event loop."""
    if len(loop_factories(config)) > 1:
        dropped = {item for item in items if is_left_to_the_other_loop(item)}
        items[:] = [item for item in items if item not in dropped]
        config.hook.pytest_deselected(items=list(dropped))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what pytest holds of all tests; many tests collect garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def blockbuster() -> Iterator[BlockBuster]:
    """The event loop never blocks."""
    with blockbuster_ctx(["runtimed", "runtimectl"]) as found:
        yield found


@pytest.fixture(autouse=True)
def user_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime, a configuration and a home folder of this test's own, and no setting of who runs the tests."""
    for name in ("run", "config", "home"):
        (tmp_path / name).mkdir(mode=0o700)
    for name in os.environ:
        if name.startswith(("RUNTIMED_", "RUNTIMECTL_", "LISTEN_")) or name in {"NO_COLOR", "NOTIFY_SOCKET"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that issues certificates."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder of the test's own that confined Workers can write to, if the configuration grants it."""
    return make_shared(tmp_path)


def make_shared(parent: Path) -> Path:
    """Make a folder that Workers can write to as any user."""
    folder = parent / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def granting(*folders: Path) -> str:
    """Return the table of a configuration by which confined Workers can write to these folders."""
    return f"[sandbox]\nwritable = {json.dumps([str(folder) for folder in folders])}\n"


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Return a function that installs a distribution of one module, found by an entry point for its FACTORY.

    Its arguments are the group and the name of the entry point, and the source of the module.
    """

    def install(group: str, name: str, source: str) -> None:
        (tmp_path / f"{name}_plugin.py").write_text(source)
        metadata = tmp_path / f"{name}_plugin-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}_plugin:FACTORY\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install
