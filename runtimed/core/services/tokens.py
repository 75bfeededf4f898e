"""The tokens of a Runtime, besides the first one: made, found, revoked, and expired in time."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

from runtimed.core.engine.sequencer import Sequencer
from runtimed.core.ports import Clock
from runtimed.core.services.admission import Admission
from runtimed.core.state import token_rules
from runtimed.core.state.change import Change, TokenRecord
from runtimed.model.principal import Principal
from runtimed.model.token import CreateTokenRequest, NewToken, Token

SECRET_BYTES = 32
"""256 bits, which are 43 characters."""

MAX_TIMER_S = 60.0
"""The longest time between two looks for expired tokens. Timers of an event loop stand still while the machine sleeps
and do not follow a wall clock that is set."""

T = TypeVar("T")

TokenListener = Callable[[str], None]
"""Called with the name of a token that is refused from now on."""

log = logging.getLogger(__name__)


class Tokens:
    """Tokens by name, in memory and in the store. One Change of them is in flight at a time.

    A token is found by the SHA-256 of its secret. That look-up needs no constant time: how long it takes depends on
    digests, and nobody can choose the digest of a guess, so it tells nothing about a secret.
    """

    def __init__(
        self, sequencer: Sequencer, clock: Clock, admission: Admission, held: Iterable[TokenRecord], limit: int
    ) -> None:
        """Take over the tokens of the store; at most `limit` are held."""
        self._sequencer = sequencer
        self._clock = clock
        self._admission = admission
        self._limit = limit
        now, records = clock.unix_ms(), tuple(held)
        self._held = {record.token.name: record.token for record in records}
        self._by_digest = {record.digest: record.token for record in records if not record.token.is_expired(now)}
        self._listeners: list[TokenListener] = []
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._expire()

    def find(self, secret: str) -> Principal | None:
        """Return the client that sends this secret, or None if no token that is valid has it."""
        token = self._by_digest.get(token_rules.digest_of(secret))
        return None if token is None or token.is_expired(self._clock.unix_ms()) else token.principal

    def visible_to(self, principal: Principal) -> tuple[Token, ...]:
        """Return the tokens that a client sees, the first one first, the others by name."""
        tokens = [token_rules.FIRST, *(self._held[name] for name in sorted(self._held))]
        return tuple(token for token in tokens if token_rules.is_visible(token, principal))

    async def create(self, request: CreateTokenRequest, principal: Principal) -> NewToken:
        """Make a token, as Runtime.create_token says."""
        return await self._finished(self._create(request, principal))

    async def revoke(self, name: str, principal: Principal) -> None:
        """Revoke a token, as Runtime.revoke_token says."""
        await self._finished(self._revoke(name, principal))

    def watch(self, listener: TokenListener) -> None:
        """Call the listener with each token that is revoked or expires from now on."""
        self._listeners.append(listener)

    def unwatch(self, listener: TokenListener) -> None:
        """Stop calling the listener."""
        self._listeners.remove(listener)

    async def close(self) -> None:
        """Wait for what was begun, and look for expired tokens no more."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._timer is not None:
            self._timer.cancel()

    async def _create(self, request: CreateTokenRequest, principal: Principal) -> NewToken:
        async with self._changing:
            self._admission.check()
            now = self._clock.unix_ms()
            maker = token_rules.held_by(principal, self._held, now)
            token = token_rules.new_token(request, maker, now)
            displaced = token_rules.find_displaced(token, self._held, self._limit, now)
            secret = secrets.token_urlsafe(SECRET_BYTES)
            record = TokenRecord(token, token_rules.digest_of(secret))
            change = Change(token=record, revoked=displaced)
            await self._sequencer.commit_and_apply(change, partial(self._add, record, displaced))
        fields = {"token": token.name, "role": token.role, "tenant": token.tenant, "principal": principal.name}
        log.info("made a token", extra=fields)
        return NewToken(token, secret)

    async def _revoke(self, name: str, principal: Principal) -> None:
        async with self._changing:
            self._admission.check()
            token_rules.held_by(principal, self._held, self._clock.unix_ms())
            token_rules.check_revocation(name, self._held, principal)
            await self._sequencer.commit_and_apply(Change(revoked=name), partial(self._remove, name))
        log.info("revoked a token", extra={"token": name, "principal": principal.name})

    def _add(self, record: TokenRecord, displaced: str | None) -> None:
        for name in (record.token.name, displaced):
            if name in self._held:
                self._remove(name)
        self._held[record.token.name] = self._by_digest[record.digest] = record.token
        self._expire()

    def _remove(self, name: str) -> None:
        del self._held[name]
        self._by_digest = {digest: token for digest, token in self._by_digest.items() if token.name != name}
        self._notify(name)

    def _expire(self) -> None:
        """Find no expired token any more, and look again when the next one expires."""
        now = self._clock.unix_ms()
        expired = [token.name for token in self._by_digest.values() if token.is_expired(now)]
        self._by_digest = {digest: token for digest, token in self._by_digest.items() if not token.is_expired(now)}
        for name in expired:
            log.info("a token has expired", extra={"token": name})
            self._notify(name)
        if self._timer is not None:
            self._timer.cancel()
        due_ms = min((token.expires_at_ms for token in self._by_digest.values() if token.expires_at_ms), default=None)
        if due_ms is not None:
            delay_s = min((due_ms - now) / 1_000, MAX_TIMER_S)
            self._timer = self._sequencer.loop.call_later(delay_s, self._expire)

    def _notify(self, name: str) -> None:
        for listener in tuple(self._listeners):
            listener(name)

    async def _finished(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a task that goes on if the caller is cancelled."""
        task = self._sequencer.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may be gone, and nothing else retrieves it
