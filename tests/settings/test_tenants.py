"""Settings of tenants: what is accepted, and what is said of a wrong one."""

from pathlib import Path

import pytest

from runtimed.core.limits import TenantLimits
from runtimed.errors import ConfigurationError
from runtimed.settings import Settings, load
from runtimed.settings.tenants import MAX_TENANTS

WHOLE = """
[tenants.acme]
max_workers = 200
max_requests_per_s = 50
max_creates_per_s = 0.5
max_event_bytes = 268435456

[tenants."team.red_1-x"]
"""


def loaded(folder: Path, text: str) -> Settings:
    file = folder / "config.toml"
    file.write_text(text)
    return load({}, str(file))


def test_the_limits_of_tenants_are_read_by_name(tmp_path: Path) -> None:
    limits = loaded(tmp_path, WHOLE).tenant_limits()

    assert limits == {"acme": TenantLimits(200, 50.0, 0.5, 268_435_456), "team.red_1-x": TenantLimits()}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[tenants.acme]\nmax_worker = 1", "tenants.acme.max_worker: no such key; did you mean max_workers?"),
        ("[tenants.acme]\nquota = 1", "tenants.acme.quota: no such key; expected one of max_workers, max_requests"),
        ("[tenants.acme]\nmax_workers = 0", "tenants.acme.max_workers: expected a number, at least 1"),
        ("[tenants.acme]\nmax_workers = -1", "tenants.acme.max_workers: expected a whole number, 0 to"),
        ("[tenants.acme]\nmax_workers = 1.5", "tenants.acme.max_workers: expected a whole number"),
        ("[tenants.acme]\nmax_workers = true", "tenants.acme.max_workers: expected a whole number"),
        ('[tenants.acme]\nmax_event_bytes = "1"', "tenants.acme.max_event_bytes: expected a whole number"),
        (
            "[tenants.acme]\nmax_requests_per_s = 0",
            "tenants.acme.max_requests_per_s: expected a number, at least 0.001",
        ),
        ("[tenants.acme]\nmax_creates_per_s = nan", "tenants.acme.max_creates_per_s: expected a number"),
        ("[tenants.acme]\nmax_creates_per_s = inf", "tenants.acme.max_creates_per_s: expected a number"),
        ("[tenants]\nacme = 1", "tenants.acme: expected a table"),
        ('[tenants."a/b"]', "tenants.a/b: expected a name of 1 to 63 characters"),
        ('[tenants.""]', "tenants.: expected a name of 1 to 63 characters"),
        (f"[tenants.{'x' * 64}]", "expected a name of 1 to 63 characters"),
        ("tenants = 1", "tenants: expected a table in the configuration file"),
    ],
)
def test_a_wrong_limit_is_named_with_what_is_accepted(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        loaded(tmp_path, text)

    assert problem in refused.value.message


def test_there_are_at_most_ten_thousand_tables(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"tenants: expected at most {MAX_TENANTS} tables"):
        loaded(tmp_path, "".join(f"[tenants.t{number}]\n" for number in range(MAX_TENANTS + 1)))
