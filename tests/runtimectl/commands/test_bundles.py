"""Config bundles are read from files, uploaded and checked."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtimectl.client.bundle_file import MAX_BYTES
from tests.runtimectl.conftest import Ctl, Daemon

KNOWN_DIGEST = "f1faffb46524a985fff79a4a3e9165e776187d2e3a67773995806ac557f3320a"
METADATA: dict[str, Any] = {
    "id": "bundle-1",
    "revision": "rev-1",
    "workspace_id": "workspace-1",
    "created_at": "2026-06-26T00:00:00Z",
    "provenance": {"source": "test"},
}
BUNDLE: dict[str, Any] = {
    "metadata": METADATA,
    "profiles": [{"selector": {"kind": "builtin", "value": "builtin:coder"}}],
    "declarations": [{"kind": "secret_ref", "name": "credential", "reference": "secret:github-token"}],
}
YAML = """\
metadata:
  id: bundle-1
  revision: rev-1
  workspace_id: workspace-1
  created_at: 2026-06-26T00:00:00Z
  provenance: {source: test}
profiles:
  - selector: {kind: builtin, value: "builtin:coder"}
declarations:
  - {kind: secret_ref, name: credential, reference: "secret:github-token"}
"""
TOML = """\
[metadata]
id = "bundle-1"
revision = "rev-1"
workspace_id = "workspace-1"
created_at = "2026-06-26T00:00:00Z"
provenance = { source = "test" }

[[profiles]]
selector = { kind = "builtin", value = "builtin:coder" }

[[declarations]]
kind = "secret_ref"
name = "credential"
reference = "secret:github-token"
"""
FILES = {"bundle.json": json.dumps({"bundle": BUNDLE}), "bundle.yaml": YAML, "bundle.yml": YAML, "bundle.toml": TOML}


@pytest.mark.parametrize("name", FILES)
def test_the_digest_of_a_file_is_computed_without_a_daemon(ctl: Ctl, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(FILES[name])
    found = ctl("bundles", "digest", str(path))
    assert (found.returncode, found.stdout) == (0, f"{KNOWN_DIGEST}\n")


@pytest.mark.parametrize("text", [json.dumps(BUNDLE), YAML, TOML], ids=["json", "yaml", "toml"])
def test_the_digest_of_stdin_is_computed_whatever_its_format(ctl: Ctl, text: str) -> None:
    assert ctl("bundles", "digest", "-", "-o", "name", stdin=text).stdout == f"bundle-1@{KNOWN_DIGEST}\n"


def test_a_file_above_the_limit_is_refused(ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    path.touch()
    os.truncate(path, MAX_BYTES + 1)

    found = ctl("bundles", "digest", str(path))

    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"runtimectl: {path}: expected at most {MAX_BYTES} bytes\n"


def test_a_bundle_is_pushed_listed_checked_and_used(ctl: Ctl, daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "bundle.yaml"
    path.write_text(YAML)
    reference = ctl("bundles", "push", str(path), "-o", "name").stdout.strip()
    assert reference == f"bundle-1@{KNOWN_DIGEST}"
    assert ctl("bundles", "list", "-o", "name").stdout.strip() == reference
    assert KNOWN_DIGEST in ctl("bundles", "list").stdout
    assert ctl("bundles", "check", reference).returncode == 0
    created = ctl("workers", "create", "--bundle", reference, "--profile", "builtin:coder", "-q", "-o", "json")
    assert json.loads(created.stdout)["worker"]["config_bundle"] == {"id": "bundle-1", "digest": KNOWN_DIGEST}


def test_a_given_digest_is_checked_by_the_daemon(ctl: Ctl, daemon: Daemon) -> None:
    wrong = {**BUNDLE, "metadata": {**METADATA, "digest": "0" * 64}}
    found = ctl("bundles", "push", "-", stdin=json.dumps(wrong))
    assert found.returncode == 5
    assert found.stderr.startswith("runtimectl: config_bundle_digest_mismatch: ")


def test_a_missing_bundle_is_not_found_with_3(ctl: Ctl, daemon: Daemon) -> None:
    found = ctl("bundles", "check", f"bundle-1@{KNOWN_DIGEST}")
    assert found.returncode == 3
    assert found.stderr.startswith("runtimectl: config_bundle_missing: ")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("b.json", "{", "expected JSON"),
        ("b.json", '{"metadata": {"id": "a", "id": "b"}}', "metadata.id: duplicate field"),
        ("b.yaml", "a: [", "expected YAML"),
        ("b.yaml", "a: 1\na: 2", "duplicate key"),
        ("b.yaml", "? [a]\n: 1", "expected YAML"),
        ("b.toml", "a = ", "expected TOML"),
        (
            "b.toml",
            TOML.replace('"2026-06-26T00:00:00Z"', "2026-06-26T00:00:00Z"),
            "metadata.created_at: expected a string",
        ),
        ("b.json", json.dumps({"metadata": {"id": "bundle-1"}}), "bundle.metadata."),
        ("b.json", json.dumps({**BUNDLE, "surprise": 1}), "bundle.surprise: unknown field"),
        ("b.yaml", YAML.replace("rev-1", "1"), "bundle.metadata.revision: expected a string, got a number"),
        ("b.json", "[]", "bundle: expected an object"),
        ("b.yaml", "", "bundle: expected an object"),
    ],
)
def test_an_invalid_bundle_is_a_usage_error_that_names_the_field(
    ctl: Ctl, tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    found = ctl("bundles", "digest", str(path))
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith(f"runtimectl: {path}: ")
    assert said in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_missing_file_is_a_usage_error(ctl: Ctl, tmp_path: Path) -> None:
    found = ctl("bundles", "push", str(tmp_path / "none.json"))
    assert (found.returncode, found.stderr) == (2, f"runtimectl: {tmp_path}/none.json: No such file or directory\n")


@pytest.mark.parametrize(("name", "text"), [("deep.yaml", "a: " + "[" * 3_000), ("deep.toml", "a = " + "[" * 3_000)])
def test_a_file_that_is_nested_too_deeply_is_refused_in_one_line(
    ctl: Ctl, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    done = ctl("bundles", "digest", str(tmp_path / name))
    assert done.returncode == 2
    assert "nested too deeply" in done.stderr
    assert done.stderr.count("\n") == 1


def pushed(ctl: Ctl, folder: Path, selector: str, declaration: dict[str, str]) -> str:
    bundle = {
        "metadata": METADATA,
        "profiles": [{"selector": {"kind": "builtin", "value": selector}}],
        "declarations": [declaration],
    }
    path = folder / "bundle.json"
    path.write_text(json.dumps(bundle))
    return ctl("bundles", "push", str(path), "-o", "name").stdout.strip()


def test_a_bundle_that_the_host_would_reject_is_shown_by_declaration(
    ctl: Ctl, daemon: Daemon, tmp_path: Path
) -> None:
    declaration = {"kind": "secret_ref", "name": "credential", "reference": "secret:github-token"}
    reference = pushed(ctl, tmp_path, "builtin:shell", declaration)

    table = ctl("bundles", "check", "--on-host", reference)
    body = ctl("bundles", "check", "--on-host", reference, "-o", "json")

    assert (table.returncode, body.returncode) == (5, 5)
    assert table.stderr == "runtimectl: bundle: this host would reject Workers of bundle-1\n"
    heading, row = table.stdout.splitlines()
    assert heading.split() == ["PROFILE", "KIND", "NAME", "REFERENCE", "OUTCOME", "DETAIL"]
    assert row.split(maxsplit=5)[:5] == [
        "builtin:shell",
        "secret_ref",
        "credential",
        "secret:github-token",
        "unknown",
    ]
    assert row.endswith("this host has no 'github-token' in [secrets]")
    [profile] = json.loads(body.stdout)["check"]["profiles"]
    assert profile["declarations"][0]["outcome"] == "unknown"


def test_a_bundle_that_holds_on_the_host_passes(ctl: Ctl, daemon: Daemon, tmp_path: Path) -> None:
    declaration = {"kind": "capability_grant", "name": "tools", "reference": "capability:shell"}
    reference = pushed(ctl, tmp_path, "builtin:shell", declaration)

    found = ctl("bundles", "check", "--on-host", reference)

    assert (found.returncode, found.stderr) == (0, "")
    assert "enforced" in found.stdout


def test_a_profile_that_the_host_does_not_have_is_a_row(ctl: Ctl, daemon: Daemon, tmp_path: Path) -> None:
    declaration = {"kind": "capability_grant", "name": "tools", "reference": "capability:shell"}
    reference = pushed(ctl, tmp_path, "builtin:coder", declaration)

    found = ctl("bundles", "check", "--on-host", reference, "-o", "jsonl")

    assert found.returncode == 5
    row = json.loads(found.stdout)
    assert (row["profile"], row["kind"], row["outcome"]) == ("builtin:coder", "profile", "rejected")


def test_a_bundle_that_is_not_there_cannot_be_checked_on_the_host(ctl: Ctl, daemon: Daemon) -> None:
    assert ctl("bundles", "check", "--on-host", f"none@{KNOWN_DIGEST}").returncode == 3
