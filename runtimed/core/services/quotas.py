"""The limits of tenants: how many Workers each may have, and how fast its clients may ask."""

import math
import time
from collections.abc import Callable, Mapping

from runtimed.core.limits import NO_TENANT_LIMITS, TenantLimits
from runtimed.errors import InvalidRequest, RateLimited

RATES = ("max_requests_per_s", "max_creates_per_s")
"""The limits that are rates."""


class TokenBucket:
    """Admits `rate` requests a second on average, and one second's worth of them at once, at least one.

    Attributes:
        rate: Requests per second.
    """

    def __init__(self, rate: float, now_s: float) -> None:
        """Start full."""
        self.rate = rate
        self._capacity = self._level = max(1.0, rate)
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """Take one request. Returns 0, or in how many seconds there is one."""
        self._level = min(self._capacity, self._level + (now_s - self._at_s) * self.rate)
        self._at_s = now_s
        if self._level < 1:
            return (1 - self._level) / self.rate
        self._level -= 1
        return 0.0


class Quotas:
    """The limits of tenants by name. A tenant that the settings do not name has none.

    Each tenant with a limit of a rate has a bucket for it, so the settings bound the memory.

    Attributes:
        tenants: The limits.
    """

    def __init__(self, tenants: Mapping[str, TenantLimits], clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with the limits of each tenant; `clock` returns seconds that only grow."""
        self._clock = clock
        self.tenants: Mapping[str, TenantLimits] = {}
        self._buckets: dict[tuple[str, str], TokenBucket] = {}
        self.reload(tenants)

    def reload(self, tenants: Mapping[str, TenantLimits]) -> None:
        """Replace the limits. A rate that stays the same is counted on."""
        now = self._clock()
        rates = {(tenant, name): getattr(limits, name) for tenant, limits in tenants.items() for name in RATES}
        known = {key: bucket for key, bucket in self._buckets.items() if bucket.rate == rates.get(key)}
        fresh = {key: TokenBucket(rate, now) for key, rate in rates.items() if rate is not None and key not in known}
        self.tenants, self._buckets = dict(tenants), known | fresh

    def of(self, tenant: str | None) -> TenantLimits:
        """Return the limits of a tenant."""
        return NO_TENANT_LIMITS if tenant is None else self.tenants.get(tenant, NO_TENANT_LIMITS)

    def check_workers(self, tenant: str | None, count: int) -> None:
        """Raise InvalidRequest if a tenant with so many Workers may have no other one."""
        most = self.of(tenant).max_workers
        if most is not None and count >= most:
            raise InvalidRequest(f"expected at most {most} Workers of this tenant (max_workers)")

    def take_request(self, tenant: str) -> None:
        """Count a request of a tenant's client. Raises RateLimited."""
        self._take(tenant, "max_requests_per_s")

    def take_create(self, tenant: str | None) -> None:
        """Count the creation of a Worker of a tenant. Raises RateLimited."""
        if tenant is not None:
            self._take(tenant, "max_creates_per_s")

    def _take(self, tenant: str, name: str) -> None:
        bucket = self._buckets.get((tenant, name))
        if bucket is not None and (wait_s := bucket.take(self._clock())) > 0:
            raise RateLimited(name, math.ceil(wait_s))
