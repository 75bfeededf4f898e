"""Tokens of a Runtime: what makes room for a new one, when one expires, and what a store keeps of them."""

import asyncio
import time
from pathlib import Path

import attrs
import pytest

from runtimed.core import Runtime
from runtimed.core.limits import Limits
from runtimed.core.services import tokens
from runtimed.errors import Forbidden, InvalidRequest, RuntimeStopped, TokenExists
from runtimed.model.principal import Principal
from runtimed.model.token import CreateTokenRequest, Token
from runtimed.store.memory import MemoryStore
from runtimed.store.sqlite import SqliteStore

BORN_MS = 1_800_000_000_000


@attrs.define
class Clock:
    """A clock that a test puts forward."""

    now_ms: int = BORN_MS

    def unix_ms(self) -> int:
        return self.now_ms


def wanted(name: str, expires_in_s: int | None = None) -> CreateTokenRequest:
    return CreateTokenRequest(name, "observer", expires_in_s=expires_in_s)


def names(runtime: Runtime) -> list[str]:
    return [token.name for token in runtime.tokens()]


async def test_an_expired_token_is_refused_and_makes_room_for_the_next() -> None:
    clock, limits = Clock(), Limits(max_tokens=2)
    async with Runtime(MemoryStore(), clock=clock, limits=limits) as runtime:
        short, long = [await runtime.create_token(wanted(name, life)) for name, life in (("b", 1), ("a", 2))]
        with pytest.raises(InvalidRequest, match=r"expected at most 2 tokens \(max_tokens\)"):
            await runtime.create_token(wanted("c"))
        clock.now_ms += 1_000

        assert (runtime.authenticate(short.secret), runtime.authenticate(long.secret)) == (None, long.token.principal)
        assert names(runtime) == ["default", "a", "b"]
        await runtime.create_token(wanted("c"))
        assert names(runtime) == ["default", "a", "c"]


async def test_an_expired_token_is_replaced_by_one_with_its_name_and_its_listeners_are_told() -> None:
    clock, ended = Clock(), list[str]()
    async with Runtime(MemoryStore(), clock=clock) as runtime:
        runtime.watch_tokens(ended.append)
        first = await runtime.create_token(wanted("ci", 5))
        with pytest.raises(TokenExists, match="there is a token ci already"):
            await runtime.create_token(wanted("ci"))
        clock.now_ms += 5_000
        second = await runtime.create_token(wanted("ci"))

        assert ended == ["ci"]
        assert runtime.authenticate(first.secret) is None
        assert runtime.authenticate(second.secret) == second.token.principal
        await runtime.revoke_token("ci")
        runtime.unwatch_tokens(ended.append)


async def test_a_token_expires_by_itself_and_its_listeners_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_TIMER_S", 0.2)  # a long wait is divided
    ended = asyncio.Queue[str]()
    async with Runtime(MemoryStore()) as runtime:
        runtime.watch_tokens(ended.put_nowait)
        made = await runtime.create_token(wanted("ci", 1))
        await runtime.create_token(wanted("later", 3_600))

        async with asyncio.timeout(20):
            assert await ended.get() == "ci"
        assert runtime.authenticate(made.secret) is None
        await asyncio.sleep(0)
        assert ended.empty()


async def test_a_token_expires_by_the_wall_clock_though_the_machine_was_asleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokens, "MAX_TIMER_S", 0.05)
    wall_ns, ended = time.time_ns, asyncio.Queue[str]()
    async with Runtime(MemoryStore()) as runtime:
        runtime.watch_tokens(ended.put_nowait)
        made = await runtime.create_token(wanted("ci", 3_600))

        monkeypatch.setattr(time, "time_ns", lambda: wall_ns() + 3_601 * 10**9)

        assert runtime.authenticate(made.secret) is None
        async with asyncio.timeout(20):
            assert await ended.get() == "ci"


async def test_a_wall_clock_that_is_set_back_prolongs_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    wall_ns = time.time_ns
    async with Runtime(MemoryStore()) as runtime:
        monkeypatch.setattr(time, "time_ns", lambda: wall_ns() - 3_600 * 10**9)
        made = await runtime.create_token(wanted("ci", 1))

        async with asyncio.timeout(20):
            while runtime.authenticate(made.secret) is not None:
                await asyncio.sleep(0.05)


async def test_a_token_lives_as_long_as_asked_though_the_wall_clock_was_late_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns() - 86_400 * 10**9)
    async with Runtime(MemoryStore()) as runtime:
        monkeypatch.setattr(time, "time_ns", wall_ns)
        made = await runtime.create_token(wanted("ci", 3_600))

        assert runtime.authenticate(made.secret) == made.token.principal
        assert abs((made.token.expires_at_ms or 0) - wall_ns() // 10**6 - 3_600_000) < 600_000


async def test_a_restart_knows_what_was_made_revoked_and_expired(tmp_path: Path) -> None:
    clock = Clock()
    async with Runtime(SqliteStore(tmp_path), clock=clock) as runtime:
        kept, gone, short = [
            await runtime.create_token(wanted(name, life))
            for name, life in (("kept", None), ("gone", None), ("short", 60))
        ]
        await runtime.revoke_token("gone")
    clock.now_ms += 60_000

    async with Runtime(SqliteStore(tmp_path), clock=clock) as runtime:
        assert runtime.authenticate(kept.secret) == kept.token.principal
        assert [runtime.authenticate(one.secret) for one in (gone, short)] == [None, None]
        assert names(runtime) == ["default", "kept", "short"]
        assert runtime.tokens()[1] == Token("kept", "observer", BORN_MS, created_by="token:default")


async def test_tokens_that_are_made_and_revoked_at_once_end_in_the_order_of_the_calls(
    tmp_path: Path,
) -> None:
    async with Runtime(SqliteStore(tmp_path)) as runtime:
        create, revoke = runtime.create_token, runtime.revoke_token
        _, _, last = await asyncio.gather(create(wanted("ci")), revoke("ci"), create(wanted("ci")))

    async with Runtime(SqliteStore(tmp_path)) as runtime:
        assert names(runtime) == ["default", "ci"]
        assert runtime.authenticate(last.secret) == last.token.principal


async def admin(runtime: Runtime, name: str, expires_in_s: int | None = None) -> Principal:
    """The client of a new token with the role admin."""
    made = await runtime.create_token(CreateTokenRequest(name, "admin", expires_in_s=expires_in_s))
    return made.token.principal


async def test_a_token_that_is_revoked_while_its_request_waits_makes_and_revokes_none(tmp_path: Path) -> None:
    async with Runtime(SqliteStore(tmp_path)) as runtime:
        ended = await admin(runtime, "ended")
        await runtime.create_token(wanted("other"))

        outcomes = await asyncio.gather(
            runtime.revoke_token("ended"),
            runtime.create_token(wanted("successor"), principal=ended),
            runtime.revoke_token("other", principal=ended),
            return_exceptions=True,
        )

        assert [type(one) for one in outcomes] == [type(None), Forbidden, Forbidden]
        assert names(runtime) == ["default", "other"]


async def test_the_namesake_of_a_revoked_token_does_not_lend_it_its_rights() -> None:
    async with Runtime(MemoryStore()) as runtime:
        ended = await admin(runtime, "ci")
        await runtime.revoke_token("ci")
        await runtime.create_token(wanted("ci"))

        with pytest.raises(Forbidden, match="the token of this request was revoked or has expired"):
            await runtime.create_token(wanted("successor"), principal=ended)


async def test_a_token_that_expires_makes_none_that_outlives_it() -> None:
    clock = Clock()
    async with Runtime(MemoryStore(), clock=clock) as runtime:
        short = await admin(runtime, "short", 3_600)
        clock.now_ms += 600_000

        for life in (None, 3_001):
            with pytest.raises(Forbidden, match="expires_in_s: expected at most 3000: the token that makes this one"):
                await runtime.create_token(wanted("long", life), principal=short)
        made = await runtime.create_token(wanted("heir", 3_000), principal=short)

        assert made.token.expires_at_ms == BORN_MS + 3_600_000
        clock.now_ms += 3_000_000
        with pytest.raises(Forbidden, match="has expired"):
            await runtime.create_token(wanted("late", 1), principal=short)


async def test_a_token_names_the_token_that_made_it() -> None:
    async with Runtime(MemoryStore()) as runtime:
        lead = await admin(runtime, "lead")
        await runtime.create_token(wanted("ci"), principal=lead)

        assert {token.name: token.created_by for token in runtime.tokens()} == {
            "default": None,
            "ci": "token:lead",
            "lead": "token:default",
        }


async def test_a_call_whose_caller_leaves_is_finished() -> None:
    async with Runtime(MemoryStore()) as runtime:
        making = asyncio.create_task(runtime.create_token(wanted("ci")))
        await asyncio.sleep(0)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        with pytest.raises(TokenExists):
            await runtime.create_token(wanted("ci"))


async def test_a_closed_runtime_makes_and_revokes_no_token() -> None:
    async with Runtime(MemoryStore()) as runtime:
        await runtime.create_token(wanted("ci"))
    with pytest.raises(RuntimeStopped):
        await runtime.create_token(wanted("cd"))
    with pytest.raises(RuntimeStopped):
        await runtime.revoke_token("ci")
