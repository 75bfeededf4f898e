"""Execution backends that are found by the name that profiles use."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtimed.errors import ConfigurationError
from runtimed.execution.factories import installed_backends
from runtimed.settings import load

PLUGIN = """
import attrs

from runtimed.execution.factories import BackendFactory
from runtimed.execution.profile import Profile


@attrs.frozen
class RemoteProfile(Profile):
    region: str = "here"


FACTORY = BackendFactory(lambda profile, folders, supervisor: profile.region, settings=RemoteProfile)
"""


@pytest.fixture
def plugin(install_plugin: Callable[[str, str, str], None]) -> Iterator[None]:
    """Install a distribution with a backend of its own."""
    install_plugin("runtimed.backends", "remote", PLUGIN)
    installed_backends.cache_clear()
    yield
    installed_backends.cache_clear()


def configured(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return file


def test_the_backends_of_this_distribution_are_installed() -> None:
    assert list(installed_backends()) == ["acp", "echo", "process", "shell"]


@pytest.mark.usefixtures("plugin")
def test_a_backend_of_another_distribution_brings_profiles_with_fields_of_its_own(tmp_path: Path) -> None:
    file = configured(tmp_path, '[profiles.far]\nbackend = "remote"\nregion = "there"\nmax_run_s = 5\n')

    profile = load({}, str(file)).profile_table()["far"]

    assert (profile.backend, profile.max_run_s) == ("remote", 5.0)
    made: object = installed_backends()["remote"].make(profile, None, None)  # type: ignore[arg-type] # it uses neither
    assert made == "there"


@pytest.mark.usefixtures("plugin")
def test_a_field_of_one_backend_is_unknown_to_another(tmp_path: Path) -> None:
    file = configured(tmp_path, '[profiles.near]\nbackend = "shell"\nregion = "there"\n')

    with pytest.raises(ConfigurationError, match=r'profiles."near".region'):
        load({}, str(file))


def test_an_unknown_backend_is_refused_with_those_that_are_installed(tmp_path: Path) -> None:
    file = configured(tmp_path, '[profiles.far]\nbackend = "remote"\n')

    with pytest.raises(ConfigurationError, match="backend: expected one of acp, echo, process, shell"):
        load({}, str(file))
