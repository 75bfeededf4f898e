"""The limits of tenants, on a clock that a test moves."""

from types import SimpleNamespace

import pytest

from runtimed.core.limits import TenantLimits
from runtimed.core.services.quotas import Quotas
from runtimed.errors import InvalidRequest, RateLimited


@pytest.fixture
def now() -> SimpleNamespace:
    return SimpleNamespace(s=1_000.0)


def admitted(quotas: Quotas, tenant: str, tries: int) -> int:
    """Return how many of so many requests at once are admitted."""
    count = 0
    for _ in range(tries):
        try:
            quotas.take_request(tenant)
        except RateLimited:
            continue
        count += 1
    return count


def test_one_second_s_worth_of_requests_is_admitted_at_once_and_then_the_rate(now: SimpleNamespace) -> None:
    quotas = Quotas({"acme": TenantLimits(max_requests_per_s=10)}, lambda: now.s)

    counts = []
    for later_s in (0, 0, 0.5, 100, 0):
        now.s += later_s
        counts.append(admitted(quotas, "acme", 30))

    assert counts == [10, 0, 5, 10, 0]


def test_a_rate_below_one_a_second_admits_one_request_and_says_when_to_come_back(now: SimpleNamespace) -> None:
    quotas = Quotas({"acme": TenantLimits(max_creates_per_s=0.25)}, lambda: now.s)
    quotas.take_create("acme")

    with pytest.raises(RateLimited, match=r"max_creates_per_s .* retry after 4 s") as refused:
        quotas.take_create("acme")

    assert refused.value.retry_after_s == 4
    now.s += 3.9
    with pytest.raises(RateLimited) as refused:
        quotas.take_create("acme")
    assert refused.value.retry_after_s == 1
    now.s += 0.2
    quotas.take_create("acme")


def test_tenants_do_not_use_up_the_rates_of_each_other(now: SimpleNamespace) -> None:
    quotas = Quotas({name: TenantLimits(max_requests_per_s=2) for name in ("a", "b")}, lambda: now.s)

    counts = [admitted(quotas, name, 5) for name in ("a", "b", "unlimited")]

    assert counts == [2, 2, 5]


def test_new_limits_hold_at_once_and_a_rate_that_stays_is_not_filled_up(now: SimpleNamespace) -> None:
    kept, changed = TenantLimits(max_requests_per_s=2), TenantLimits(max_requests_per_s=5)
    quotas = Quotas({"kept": kept, "changed": kept, "freed": kept}, lambda: now.s)
    for name in ("kept", "changed", "freed"):
        admitted(quotas, name, 5)

    quotas.reload({"kept": kept, "changed": changed, "new": kept})

    assert [admitted(quotas, name, 9) for name in ("kept", "changed", "freed", "new")] == [0, 5, 9, 2]


def test_a_tenant_with_as_many_workers_as_it_may_have_gets_no_other_one() -> None:
    quotas = Quotas({"acme": TenantLimits(max_workers=2)})

    quotas.check_workers("acme", 1)
    quotas.check_workers("other", 1_000)

    with pytest.raises(InvalidRequest, match=r"^expected at most 2 Workers of this tenant \(max_workers\)$"):
        quotas.check_workers("acme", 2)
