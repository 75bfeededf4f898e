"""`runtimectl tokens`, against a real daemon. The page on tokens is tested here too: its commands run in order."""

import json
import shlex
import stat
import time
from pathlib import Path

import pytest

from runtimectl.commands import tokens
from tests.docs.conftest import DOCS, Page
from tests.runtimectl.conftest import Ctl, StartCtl

PAGE = DOCS / "how-to" / "tokens.md"


def made(ctl: Ctl, name: str, role: str, *options: str) -> str:
    """The secret of a new token."""
    done = ctl("tokens", "create", name, "--role", role, *options, "-o", "json")
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["secret"])


def with_token(secret: str) -> dict[str, str]:
    return {"RUNTIMECTL_TOKEN": secret}


@pytest.mark.usefixtures("daemon")
def test_a_token_is_made_listed_used_and_revoked(ctl: Ctl) -> None:
    created = ctl(
        "tokens", "create", "ci", "--role", "observer", "--tenant", "acme", "--label", "a=b", "--expires", "2h"
    )
    shown = dict(line.split(maxsplit=1) for line in created.stdout.splitlines())
    secret = shown["Secret"]

    assert created.stderr == "runtimectl: keep the secret now: nothing shows it again\n"
    assert [shown[name] for name in ("Token", "Role", "Tenant", "Labels")] == ["ci", "observer", "acme", "a=b"]
    listed = [line.split() for line in ctl("tokens", "list").stdout.splitlines()]
    assert listed[0] == ["TOKEN", "ROLE", "TENANT", "LABELS", "AGE", "EXPIRES"]
    assert [row[:4] for row in listed[1:]] == [["default", "admin", "-", "-"], ["ci", "observer", "acme", "a=b"]]
    assert secret not in ctl("tokens", "list", "-o", "json").stdout
    assert ctl("workers", "list", extra=with_token(secret)).returncode == 0
    refused = ctl("workers", "create", extra=with_token(secret))
    assert (refused.returncode, "forbidden: a token with the role observer" in refused.stderr) == (4, True)
    revoked = ctl("tokens", "revoke", "ci")
    assert (revoked.returncode, revoked.stdout, revoked.stderr) == (0, "", "runtimectl: revoked ci\n")
    assert ctl("workers", "list", extra=with_token(secret)).returncode == 4
    assert ctl("tokens", "revoke", "ci").returncode == 3
    assert ctl("tokens", "list", "-o", "name").stdout == "default\n"


@pytest.mark.usefixtures("daemon")
def test_each_format_has_the_secret_where_a_script_finds_it(ctl: Ctl) -> None:
    create = ("tokens", "create", "--role", "observer")

    assert json.loads(ctl(*create, "a", "-o", "json").stdout).keys() == {"token", "secret"}
    assert json.loads(ctl(*create, "b", "-o", "jsonl").stdout).keys() >= {"name", "secret"}
    assert "secret: " in ctl(*create, "c", "-o", "yaml").stdout
    assert ctl(*create, "d", "-o", "name").stdout == "d\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--role", "root"), "'root' is not one of"),
        (("--role", "observer", "--expires", "soon"), "expected a whole number and a unit: 90s, 30m, 12h or 7d"),
        (("--role", "observer", "--expires", "5"), "expected a whole number and a unit"),
        (("--role", "observer", "--label", "a"), "--label: expected K=V"),
        ((), "Missing option '--role'"),
    ],
)
def test_a_wrong_option_ends_with_2_and_asks_no_daemon(ctl: Ctl, options: tuple[str, ...], message: str) -> None:
    done = ctl("tokens", "create", "ci", *options, "--url", "http://127.0.0.1:9")

    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1_800), ("12h", 43_200), ("7d", 604_800)])
def test_a_duration_has_a_unit(text: str, seconds: int) -> None:
    assert tokens.Duration().convert(text, None, None) == seconds


@pytest.mark.usefixtures("daemon")
def test_a_secret_file_is_new_and_private_and_left_behind_only_with_a_secret(ctl: Ctl, tmp_path: Path) -> None:
    file, other = tmp_path / "ci.token", tmp_path / "other.token"
    create = ("tokens", "create", "--role", "observer", "-o", "json", "--secret-file")
    done = ctl(*create, str(file), "ci")

    assert (json.loads(done.stdout).keys(), done.stderr) == ({"token"}, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ctl("workers", "list", "--token-file", str(file)).returncode == 0
    again = ctl(*create, str(file), "cd")
    assert (again.returncode, "expected a file that does not exist" in again.stderr) == (2, True)
    assert ctl(*create, str(other), "ci").returncode == 5
    assert not other.exists()
    assert ctl("tokens", "list", "-o", "name").stdout == "default\nci\n"


@pytest.mark.usefixtures("daemon")
def test_a_follower_whose_token_is_revoked_ends_with_4(ctl: Ctl, start_ctl: StartCtl, tmp_path: Path) -> None:
    file = tmp_path / "watch.token"
    ctl("tokens", "create", "watch", "--role", "observer", "--secret-file", str(file))
    worker_id = ctl("workers", "create", "-o", "name").stdout.strip()
    tail = start_ctl("events", "tail", worker_id, "--from-start", "--token-file", str(file))
    ctl("workers", "input", worker_id, "hello", "--wait")
    tail.wait_for("run_end")

    ctl("tokens", "revoke", "watch")

    assert tail.finished() == 4
    assert "unauthorized" in "".join(tail.err)


@pytest.mark.usefixtures("daemon")
def test_a_shell_completes_the_names_of_tokens(ctl: Ctl) -> None:
    made(ctl, "ci", "observer")
    words = {"_RUNTIMECTL_COMPLETE": "bash_complete", "COMP_WORDS": "runtimectl tokens revoke c", "COMP_CWORD": "3"}

    assert ctl(extra=words).stdout == "plain,ci\n"


def test_the_list_marks_a_token_that_has_expired() -> None:
    past = {"expires_at_ms": int(time.time() * 1_000) - 1}

    assert tokens.EXPIRES.value(past) == "expired"
    assert tokens.EXPIRES.value({}) is None


@pytest.mark.usefixtures("daemon")
def test_the_commands_of_the_page_run_one_after_another(
    ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in Page(PAGE, PAGE.read_text()).blocks("sh"):
        for line in block.splitlines():
            program, *words = shlex.split(line)
            done = ctl(*words)
            assert (program, done.returncode) == ("runtimectl", 0), (line, done.stderr)

    names = ctl("tokens", "list", "-o", "name").stdout.split()
    assert names == ["default", "acme-admin", "acme-ci", "ci-2", "web-watch"]
