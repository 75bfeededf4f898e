"""What the page on workspaces configures is accepted, and what it quotes is said."""

import inspect
from pathlib import Path

import attrs

from runtimed.execution.workspaces import catalog, worktree
from runtimed.execution.workspaces.catalog import ConfiguredWorkspace
from runtimed.settings import load
from tests.docs.conftest import ReadPage

PAGE = "how-to/workspaces.md"


def test_the_examples_of_the_configuration_are_accepted(page: ReadPage, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("\n".join(page(PAGE).blocks("toml")))

    loaded = load({}, str(file))

    assert loaded.workspace_roots == ("/srv/checkouts",)
    assert loaded.workspace_table() == {"team:website": ConfiguredWorkspace("/srv/website", "worktree", "main")}


def test_every_key_of_a_workspace_has_its_default(page: ReadPage) -> None:
    rows = page("reference/settings.md").section("Workspaces").rows

    shown = {row.codes()[0]: row.cells[1].strip("`") for row in rows}

    assert shown == {
        field.name: "required" if field.default is attrs.NOTHING else str(field.default or "none")
        for field in attrs.fields(ConfiguredWorkspace)
    }


def test_the_messages_of_the_page_are_those_of_the_daemon(page: ReadPage) -> None:
    said = inspect.getsource(catalog) + inspect.getsource(worktree)

    for row in page(PAGE).section("If a spawn is refused").rows:
        assert all(part in said for part in row.codes()[0].split("'…'")), row.cells[0]
