"""The recipes for agents: configurations that the daemon accepts, for the programs that the doctor looks for."""

import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from runtimectl.doctor import KNOWN_AGENTS
from runtimed.execution.confinement.references import references
from runtimed.gateways.credentials import SECRET
from tests import programs
from tests.programs import RUNTIMED

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "contrib" / "agents").glob("*.toml"))
HOW_TO = ROOT / "docs" / "how-to" / "agents.md"


def check(config: Path) -> subprocess.CompletedProcess[str]:
    return programs.run([*RUNTIMED, "--check-config", "--config", str(config)], os.environ, timeout=60)


def profiles(recipe: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = tomllib.loads(recipe.read_text())["profiles"]
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_the_daemon_accepts_each_recipe(recipe: Path) -> None:
    found = check(recipe)
    assert (found.returncode, found.stderr) == (0, "")


def test_the_daemon_accepts_all_recipes_in_one_file(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("\n".join(recipe.read_text() for recipe in RECIPES))
    found = check(config)
    assert (found.returncode, found.stderr) == (0, "")


def test_a_recipe_with_a_key_misspelled_would_not_be_accepted(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(RECIPES[0].read_text().replace("permissions", "permission"))
    found = check(config)
    assert found.returncode == 2
    assert "permission" in found.stderr


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_is_one_profile_of_its_name_that_has_its_user_asked(recipe: Path) -> None:
    (name, profile), *others = profiles(recipe).items()
    assert not others
    assert name == f"builtin:{recipe.stem}"
    assert (profile["backend"], profile["permissions"]) == ("acp", "ask")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_confines_its_agent_and_keeps_the_key_in_the_gateway(recipe: Path) -> None:
    [profile] = profiles(recipe).values()
    [(name, gateway)] = tomllib.loads(recipe.read_text())["gateways"].items()
    given = references(profile["env"])

    assert profile["sandbox"] == {"mode": "required", "network": "none"}
    assert given == {f"gateway:{name}", f"gateway-key:{name}"}
    assert SECRET.findall(" ".join(gateway["headers"].values())) == [recipe.stem]


def test_there_is_a_recipe_for_each_agent_that_the_doctor_looks_for() -> None:
    started = {profile["command"][0] for recipe in RECIPES for profile in profiles(recipe).values()}
    assert {agent.program for agent in KNOWN_AGENTS} <= started


def test_the_recipes_and_the_how_to_say_what_the_doctor_says_to_install() -> None:
    told = "\n".join(recipe.read_text() for recipe in RECIPES)
    for agent in KNOWN_AGENTS:
        assert f"npm install -g {agent.package}\n" in told or f"npm install -g {agent.package} " in told
        assert agent.package in HOW_TO.read_text()
