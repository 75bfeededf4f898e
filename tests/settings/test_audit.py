"""Settings of the audit log."""

from pathlib import Path

import pytest

from runtimed.audit import AuditPolicy
from runtimed.errors import ConfigurationError
from runtimed.settings import load


def loaded(tmp_path: Path, text: str) -> AuditPolicy:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load({}, str(file)).audit_policy()


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", AuditPolicy()),
        ('[audit]\nfile = "/var/log/runtimed/audit.jsonl"\n', AuditPolicy("/var/log/runtimed/audit.jsonl")),
        ('[audit]\nfile = "journal"\nrequired = true\n', AuditPolicy("journal", required=True)),
    ],
)
def test_the_table_names_a_file_or_the_journal(tmp_path: Path, text: str, policy: AuditPolicy) -> None:
    assert loaded(tmp_path, text) == policy


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('file = "audit.jsonl"', r"audit\.file: expected an absolute path, or \"journal\""),
        ("required = true", r"audit\.file: required = true needs"),
        ('files = "/x"', r"audit\.files: no such key; did you mean file\?"),
        ("file = 7", r"audit\.file: expected a string"),
        ('file = "/x"\nrequired = "yes"', r"audit\.required: expected"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{problem}"):
        loaded(tmp_path, f"[audit]\n{text}\n")
