"""The commands that are run for agents."""

from pathlib import Path

import pytest

from runtimed.execution import Profile
from runtimed.execution.acp.terminals import Terminal, Terminals
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.model.identity import WorkerId


async def test_a_terminal_that_cannot_be_ended_is_logged_and_ended_by_the_next_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor()
    terminals = Terminals(Profile("acp"), supervisor, WorkerId("worker-00000001"))
    terminal = terminals.get(await terminals.create(["sleep", "600"], tmp_path, {}, None))

    async def resist(_terminal: Terminal) -> None:
        raise TimeoutError("these processes can't be ended")

    with monkeypatch.context() as resisting:
        resisting.setattr(Terminal, "kill", resist)
        await terminals.close()
    assert "not all of a terminal has ended" in caplog.text
    was_gone = terminal.is_gone

    await terminals.close()

    assert (was_gone, terminal.is_gone) == (False, True)
    await supervisor.close()
