"""An ACP agent that runs the commands that it is told, and shows their output.

    python3 agent.py here|terminal

The text of a prompt is a command as a JSON array. The agent runs it itself, or has the client run it in a terminal.
Or it is an object of a `method` and its `params`: the agent sends this request, and shows the answer.
"""

import itertools
import json
import subprocess
import sys
from typing import Any

SESSION = "session-1"
numbers = itertools.count(1000)


def write(message: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def ask(method: str, **params: Any) -> dict[str, Any]:
    """Return the result of a request to the client."""
    number = next(numbers)
    write({"id": number, "method": method, "params": {"sessionId": SESSION, **params}})
    for line in sys.stdin:
        message: dict[str, Any] = json.loads(line)
        if message.get("id") == number and "method" not in message:
            return dict(message.get("result") or message)
    sys.exit()


def run_here(command: list[str]) -> str:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    ).stdout


def run_in_terminal(command: list[str]) -> str:
    made = ask("terminal/create", command=command[0], args=command[1:])
    if "terminalId" not in made:
        return json.dumps(made)
    terminal = {"terminalId": made["terminalId"]}
    ask("terminal/wait_for_exit", **terminal)
    output = ask("terminal/output", **terminal)["output"]
    ask("terminal/release", **terminal)
    return str(output)


def obey(told: Any) -> str:
    if isinstance(told, dict):
        return json.dumps(ask(told["method"], **told["params"]))
    return run_in_terminal(told) if sys.argv[1] == "terminal" else run_here(told)


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a request from the client."""
    if method == "initialize":
        return {"protocolVersion": 1, "agentCapabilities": {}}
    if method == "session/new":
        return {"sessionId": SESSION}
    text = obey(json.loads(params["prompt"][-1]["text"]))
    update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
    write({"method": "session/update", "params": {"sessionId": SESSION, "update": update}})
    return {"stopReason": "end_turn"}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message and "method" in message:
        write({"id": message["id"], "result": answer(message["method"], message["params"])})
