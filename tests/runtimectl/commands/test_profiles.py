"""Profiles from the command line, against a real daemon."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def configured(tmp_path: Path, start_daemon: Callable[..., Any]) -> None:
    """A daemon with a profile that is described, and one whose program is missing."""
    config = tmp_path / "config.toml"
    config.write_text(
        '[sandbox]\nmode = "off"\n'
        '[profiles."builtin:described"]\nbackend = "shell"\ncapabilities = ["shell"]\ndescription = "for tests"\n'
        '[profiles."builtin:missing"]\nbackend = "process"\ncommand = ["no-such-program"]\n'
    )
    start_daemon("--config", str(config))


def test_profiles_are_listed_with_what_they_need_and_why_one_is_not_available(
    ctl: Callable[..., Any], configured: None
) -> None:
    listed = {line.split()[0]: line for line in ctl("profiles", "list").stdout.splitlines()}

    titles = ["PROFILE", "BACKEND", "CAPABILITIES", "SANDBOX", "NETWORK", "AVAILABLE", "NOTE"]
    assert listed["PROFILE"].split() == titles
    assert listed["builtin:described"].split(maxsplit=6) == (
        ["builtin:described", "shell", "shell", "none", "host", "yes", "for tests"]
    )
    assert listed["builtin:missing"].split(maxsplit=6)[1:6] == ["process", "-", "none", "host", "no"]
    assert "command: 'no-such-program'" in listed["builtin:missing"]


def test_the_names_of_profiles_are_selectors_for_a_create(ctl: Callable[..., Any], configured: None) -> None:
    names = ctl("profiles", "list", "-o", "name").stdout.split()

    assert {"builtin:described", "builtin:missing"} <= set(names)
    created = ctl("workers", "create", "--profile", "builtin:described", "--capability", "shell", "-o", "name")
    assert created.returncode == 0
