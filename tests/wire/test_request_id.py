"""The id of a request, for whatever runs while it is served."""

import asyncio

import pytest

from runtimed.wire.request_id import RequestIds, current_request_id, given_request_id


@pytest.mark.parametrize("given", ["x", "x" * 64, "a/b:c~!"])
def test_an_id_of_visible_characters_is_taken_over(given: str) -> None:
    assert given_request_id([given]) == given


@pytest.mark.parametrize("values", [[], [""], ["x" * 65], ["a b"], ["a\n"], ["\x7f"], ["é"], ["a", "b"], ["a", "a"]])
def test_anything_else_is_not(values: list[str]) -> None:
    assert given_request_id(values) is None


async def test_what_a_request_starts_has_its_id_until_the_request_is_served() -> None:
    """A program that a request has started may run for days: what it logs then is not of that request."""
    go_on, seen = asyncio.Event(), []

    async def program() -> None:
        seen.append(current_request_id())
        await go_on.wait()
        seen.append(current_request_id())

    with RequestIds().begin("deploy-7"):
        running = asyncio.create_task(program())
        in_thread = await asyncio.to_thread(current_request_id)
    go_on.set()
    await running

    assert seen == ["deploy-7", None]
    assert in_thread == "deploy-7"
    assert current_request_id() is None


async def test_requests_at_the_same_time_have_their_own_ids() -> None:
    ids = RequestIds()

    async def serve(given: str | None) -> tuple[str, str | None]:
        with ids.begin(given) as scope:
            await asyncio.sleep(0)
            return scope.id, current_request_id()

    found = await asyncio.gather(*(serve(given) for given in ("a", "b", None, None)))

    assert all(own == current for own, current in found)
    assert len({own for own, _ in found}) == 4
