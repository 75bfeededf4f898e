"""Contexts: names for daemons, kept in a private file without tokens."""

import json
from pathlib import Path

import pytest

from tests.runtimectl.conftest import Ctl

URL = "http://127.0.0.1:38800"


@pytest.fixture
def file(user_folders: Path) -> Path:
    """The path of the file of contexts."""
    return user_folders / "config" / "runtimectl" / "contexts.json"


def test_contexts_are_set_used_listed_and_removed(ctl: Ctl) -> None:
    assert (
        ctl("context", "set", "lab", "--url", URL).stderr
        == "runtimectl: context lab is stored; select it with: runtimectl context use lab\n"
    )
    assert ctl("context", "set", "den", "--url", "unix:/run/den.sock", "-q").stderr == ""
    assert ctl("context", "use", "lab").returncode == 0
    assert ctl("context", "list", "-o", "name").stdout == "den\nlab\n"
    assert json.loads(ctl("context", "list", "-o", "json").stdout)["contexts"][1] == {
        "name": "lab",
        "current": True,
        "url": URL,
        **dict.fromkeys(("token_file", "ca", "cert", "key")),
    }
    assert ctl("context", "remove", "lab").returncode == 0
    assert ctl("context", "list", "-o", "name").stdout == "den\n"
    assert "*" not in ctl("context", "list").stdout


def test_the_file_is_private_and_names_the_token_file_by_its_full_path(
    ctl: Ctl, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ctl("context", "set", "lab", "--url", URL, "--token-file", "lab.token")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert json.loads(file.read_text())["contexts"]["lab"]["token_file"] == str(tmp_path / "lab.token")


@pytest.mark.parametrize(
    "args", [("use", "nobody"), ("remove", "nobody"), ("set", "lab"), ("set", "lab", "--url", "ftp://x")]
)
def test_an_unknown_name_or_a_missing_or_invalid_url_is_a_usage_error(ctl: Ctl, args: tuple[str, ...]) -> None:
    found = ctl("context", *args)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1


def test_an_unknown_context_is_a_usage_error_of_every_command(ctl: Ctl) -> None:
    assert ctl("status", "--context", "nobody").returncode == 2
    assert ctl("status", extra={"RUNTIMECTL_CONTEXT": "nobody"}).returncode == 2


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"current": null, "contexts": {"a": {"url": 1}}}', '{"current": 1, "contexts": []}']
)
def test_an_invalid_file_of_contexts_is_named(ctl: Ctl, file: Path, content: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(content)
    found = ctl("status")
    assert found.returncode == 2
    assert found.stderr.startswith(f"runtimectl: {file}: ")


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65])
def test_a_name_with_unusual_characters_is_refused(ctl: Ctl, file: Path, name: str) -> None:
    done = ctl("context", "set", name, "--url", URL)
    assert (done.returncode, done.stderr.partition(":")[2].strip().partition(":")[0]) == (2, "name")
    assert not file.exists()
