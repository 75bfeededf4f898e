"""requirements.lock and THIRD_PARTY.md: they agree with setup.cfg, with each other and with what is installed."""

import configparser
import re
from collections.abc import Iterator
from importlib.metadata import requires, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from distribution.licenses import HEAD, LIST, license_of
from distribution.lock import EXTRAS, LOCK, Pin, read

ROW = re.compile(r"^\| (\S+) \| ([0-9]\S*) \| (.+) \|$", re.MULTILINE)


@pytest.fixture
def pins() -> dict[NormalizedName, Pin]:
    return {pin.name: pin for pin in read(LOCK.read_text())}


def stated() -> Iterator[Requirement]:
    """What setup.cfg asks for in the image."""
    metadata = configparser.ConfigParser()
    metadata.read(LOCK.with_name("setup.cfg"))
    extras = metadata["options.extras_require"]
    for text in (metadata["options"]["install_requires"], *(extras[name] for name in EXTRAS)):
        yield from map(Requirement, filter(None, text.split("\n")))


def needed_by(requirement: Requirement) -> Iterator[NormalizedName]:
    """A distribution and, by the metadata of what is installed, all that it needs."""
    yield canonicalize_name(requirement.name)
    for text in requires(requirement.name) or ():
        further = Requirement(text)
        extras = requirement.extras or {""}
        if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
            yield from needed_by(further)


def test_the_lock_has_a_version_that_setup_cfg_accepts_for_each_requirement(pins: dict[NormalizedName, Pin]) -> None:
    wrong = [
        str(one)
        for one in stated()
        if (pin := pins.get(canonicalize_name(one.name))) is None or not one.specifier.contains(pin.version)
    ]

    assert wrong == [], "write the lock anew: make lock"


def test_the_lock_has_what_the_requirements_need_and_nothing_else(pins: dict[NormalizedName, Pin]) -> None:
    needed = {name for requirement in stated() for name in needed_by(requirement)}

    assert needed == pins.keys()


def test_each_version_in_the_lock_has_hashes(pins: dict[NormalizedName, Pin]) -> None:
    assert [pin.name for pin in pins.values() if not pin.hashes] == []


def test_the_lock_names_no_place_to_download_from() -> None:
    text = LOCK.read_text()

    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text


@pytest.mark.parametrize(
    "line", ["aiohttp>=3", "--index-url x", "aiohttp @ file:///tmp/x", "aiohttp==3 --hash=md5:00"]
)
def test_a_lock_with_anything_but_pins_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="expected NAME==VERSION with hashes"):
        list(read(f"# a comment\nattrs==26.1.0\n{line}\n"))


def test_the_list_of_licenses_has_every_version_of_the_lock(pins: dict[NormalizedName, Pin]) -> None:
    text = LIST.read_text()

    assert text.startswith(HEAD)
    assert [(name, version) for name, version, _ in ROW.findall(text)] == [
        (pin.name, str(pin.version)) for pin in pins.values()
    ]


def test_the_list_has_the_license_that_each_installed_distribution_states(pins: dict[NormalizedName, Pin]) -> None:
    listed = {name: found for name, _, found in ROW.findall(LIST.read_text())}
    installed = {name for name, pin in pins.items() if Version(version(name)) == pin.version}

    assert {name: license_of(name) for name in installed} == {name: listed[name] for name in installed}
