"""The title and the commands that items give a Worker."""

from typing import Any

import pytest

from runtimed.core import Runtime
from runtimed.core.state.session_info import MAX_COMMANDS, MAX_TITLE, commands_after, title_after
from runtimed.model.event import SystemItem
from runtimed.model.worker import SlashCommand
from tests.core.conftest import FakeBackend, RecordingSubscriber


def titled(title: object, **more: object) -> dict[str, Any]:
    return {"kind": "session_info_update", "content": {"title": title, **more}}


def offering(*commands: object) -> dict[str, Any]:
    return {"kind": "available_commands_update", "content": {"availableCommands": [*commands]}}


@pytest.mark.parametrize(
    ("item", "title"),
    [
        (titled("Mend  the\nroof "), "Mend the roof"),
        (titled("x" * 1000), "x" * MAX_TITLE),
        (titled(None), None),
        (titled(" "), None),
        (titled(7), None),
        ({"kind": "session_info_update", "content": {"updatedAt": "now"}}, "before"),
        ({"kind": "session_info_update"}, "before"),
        ({"kind": "plan", "content": {"title": "Plan"}}, "before"),
    ],
)
def test_an_item_gives_a_title_or_leaves_the_one_before(item: dict[str, Any], title: str | None) -> None:
    assert title_after(item, "before") == title


def test_a_list_of_commands_replaces_the_one_before_and_is_bounded() -> None:
    before = (SlashCommand("old"),)
    plan = {"name": "plan", "description": "Make\na plan", "input": {"hint": "what"}}

    assert commands_after(offering(plan, {"name": "x" * 1000}, {"name": 1}, 7, {"name": "go"}), before) == (
        SlashCommand("plan", "Make a plan", "what"),
        SlashCommand("go"),
    )
    assert len(commands_after(offering(*({"name": f"c{number}"} for number in range(1000))), ())) == MAX_COMMANDS
    assert commands_after(offering(), before) == ()
    assert commands_after({"kind": "available_commands_update", "content": 7}, before) == before
    assert commands_after(titled("x"), before) == before


async def test_a_worker_shows_its_title_also_in_lists_and_its_commands_while_its_agent_runs(
    runtime: Runtime, backend: FakeBackend, published: RecordingSubscriber
) -> None:
    worker = await runtime.create_worker()
    sink = backend.sinks[worker.worker_id]
    await sink.emit(SystemItem(titled("Mend the roof")), SystemItem(offering({"name": "plan"})))
    await published.until(lambda events: len(events) == 2)
    running = runtime.worker(worker.worker_ref)
    (listed,) = runtime.workers()

    await sink.lose("exit", "the agent ended")

    lost = runtime.worker(worker.worker_ref)
    assert (running.title, running.commands) == ("Mend the roof", (SlashCommand("plan"),))
    assert listed.title == "Mend the roof"
    assert (lost.title, lost.commands) == ("Mend the roof", ())
