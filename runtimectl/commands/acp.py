"""`runtimectl acp`: the Runtime as an agent for editors."""

import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from runtimectl.client.requests import create_request
from runtimectl.client.session import Session
from runtimectl.commands.creation import creation_options
from runtimectl.errors import OutputClosed, UsageProblem
from runtimectl.options import command

if TYPE_CHECKING:
    from runtimectl.acp.agent import Agent
    from runtimectl.acp.jsonrpc import Peer
    from runtimectl.acp.workers import ClientWorkers
    from runtimectl.client.requests import Json

INTERRUPTED, TERMINATED = 130, 143


@command()
@creation_options
@click.option("--stop-on-exit", is_flag=True, help="Stop the Workers of this editor when it ends.")
@click.pass_obj
def acp(session: Session, /, stop_on_exit: bool, **fields: Any) -> None:
    """Serve an editor as an agent, on stdin and stdout.

    The editor speaks the Agent Client Protocol. Each of its sessions is a Worker, created with these options. It
    works in the folder of the editor unless --workspace names another cwd. It lives on when the editor ends.

    \b
    Example:
      runtimectl acp --profile builtin:coder
    """
    from runtimectl.acp.agent import Agent
    from runtimectl.acp.stdio import connect
    from runtimectl.signals import exit_at_once

    request = create_request(**fields)
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageProblem("stdin: expected an editor that speaks the Agent Client Protocol, got a terminal")
    peer = connect()
    agent = Agent(peer, lambda: _workers(session, request))
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _serve(peer, agent)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # The end of an editor often has several signs.
        if stop_on_exit:
            agent.stop_workers()
    exit_at_once(code)


def _serve(peer: "Peer", agent: "Agent") -> int:
    """Serve the editor until it closes stdin or stdout, or a signal comes. Returns the exit code."""
    from runtimectl.acp.stdio import serve
    from runtimectl.signals import require_reader

    try:
        with require_reader():
            serve(peer, agent)
    except SystemExit:
        return TERMINATED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputClosed:
        pass
    return 0


def _workers(session: Session, request: "Json") -> "ClientWorkers":
    from runtimectl.acp.workers import ClientWorkers
    from runtimectl.client.discovery import find_address
    from runtimectl.library.client import Client
    from runtimectl.library.decoding import structured
    from runtimed.model.worker import CreateWorkerRequest

    options = session.daemon_options()
    client = Client.found_by(
        lambda runtime_id: find_address(options, runtime_id), reconnect_for=session.reconnect_for
    )
    return ClientWorkers(client, structured(request, CreateWorkerRequest))


def _terminate(_signal: int, _frame: object) -> None:
    sys.exit(TERMINATED)
