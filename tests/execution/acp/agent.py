"""An ACP agent that does what a script says: a stand-alone program without any library.

Run as `python agent.py SCRIPT`, SCRIPT being a JSON file. What it is told goes to `heard.jsonl` beside the script, or
nowhere if it is confined and may not write there.
The script is an object of method names, each with a list of steps; those of `session/prompt` are lists of such lists,
one for each prompt, the last for all that follow. A step is a list, its first item the name of a function below.
"""

import fcntl
import io
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import IO, Any, NoReturn


def open_heard() -> IO[str]:
    try:
        return (script_path.parent / "heard.jsonl").open("a")
    except OSError:
        return io.StringIO()


script_path = Path(sys.argv[1])
script = json.loads(script_path.read_text())
stdin = io.FileIO(0)
heard = open_heard()
session = script.get("session", f"session-{os.getpid()}")
state: dict[str, Any] = {"prompts": 0, "cancelled": False, "next": 1000, "request": None, "answered": False}

CAPABILITIES = script.get("capabilities", {})
DEFAULTS: dict[str, list[Any]] = {
    "initialize": [["answer", {"protocolVersion": 1, "agentCapabilities": CAPABILITIES}]],
    "session/new": [["answer", {"sessionId": session}]],
    "session/load": [["answer", None]],
    "session/resume": [["answer", {}]],
    "session/prompt": [[["text", "hello"], ["end"]]],
}


def write(message: dict[str, Any]) -> None:
    raw(json.dumps(message))


def raw(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def send(session_update: str, **fields: Any) -> None:
    params = {"sessionId": session, "update": {"sessionUpdate": session_update, **fields}}
    write({"jsonrpc": "2.0", "method": "session/update", "params": params | state.get("meta", {})})


def update(fields: dict[str, Any]) -> None:
    send(fields.pop("sessionUpdate"), **fields)


def text(content: str, kind: str = "agent_message_chunk") -> None:
    send(kind, content={"type": "text", "text": content})


def thought(content: str) -> None:
    text(content, "agent_thought_chunk")


def texts(count: int, content: str) -> None:
    for number in range(count):
        text(f"{content}{number} ")


def answer(result: Any) -> None:
    state["answered"] = True
    write({"jsonrpc": "2.0", "id": state["request"], "result": result})


def end(reason: str = "end_turn", **fields: Any) -> None:
    answer({"stopReason": reason, **fields})


def end_with(response: Any) -> None:
    answer(response)


def error(code: int, message: str, data: Any = None) -> None:
    state["answered"] = True
    write({"jsonrpc": "2.0", "id": state["request"], "error": {"code": code, "message": message, "data": data}})


def call(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Ask the client for something, and return what it answers; the script goes on meanwhile where it must."""
    number = state["next"] = state["next"] + 1
    write({"jsonrpc": "2.0", "id": number, "method": method, "params": {"sessionId": session, **params}})
    while True:
        told = hear()
        if told is None:
            sys.exit(0)
        if told.get("id") == number and "method" not in told:
            return told
        note(told)


def ask(tool_call: dict[str, Any], options: list[dict[str, Any]]) -> None:
    """Ask for a permission and say what came of it."""
    told = call("session/request_permission", {"toolCall": tool_call, "options": options})
    text(json.dumps((told["result"] if "result" in told else told["error"])["outcome"]))


def tell(method: str, params: dict[str, Any]) -> None:
    """Ask the client for something and say its answer; `$terminal` stands for the terminal made last."""
    params = json.loads(json.dumps(params).replace("$terminal", state.get("terminal", "")))
    told = call(method, params)
    result = told.get("result")
    if isinstance(result, dict) and "terminalId" in result:
        state["terminal"] = result["terminalId"]
    text(json.dumps({key: told[key] for key in ("result", "error") if key in told}))


def stderr(size: int) -> None:
    sys.stderr.write("e" * size)
    sys.stderr.flush()


def long_line(size: int) -> None:
    sys.stdout.write('{"long": "')
    for _ in range(size // 65536):
        sys.stdout.write("x" * 65536)
    raw('"}')


def leave(status: int, words: str = "") -> NoReturn:
    sys.stderr.write(words)
    sys.stderr.flush()
    os._exit(status)


def hang() -> NoReturn:
    while True:
        time.sleep(1)


def flood() -> NoReturn:
    """Talk without an end, whatever is said meanwhile."""
    while True:
        text("x")


def until_cancel() -> None:
    while not state["cancelled"]:
        told = hear()
        if told is None:
            sys.exit(0)
        note(told)


def ignore_end(signals: bool = True) -> None:
    """From now on neither the end of the input nor SIGTERM ends this program."""
    state["deaf"] = True
    if signals:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


until_interrupt = until_cancel


def finish() -> None:
    """End the run as an agent does that was told to, or has come to its end."""
    end("cancelled" if state["cancelled"] else "end_turn")


def daemon() -> None:
    """Leave a process behind that is in a session of its own."""
    import subprocess

    subprocess.Popen(["sh", "-c", "while :; do sleep 1; done", script_path], start_new_session=True)


def pause(seconds: float) -> None:
    time.sleep(seconds)


def until_file(name: str) -> None:
    """Wait until there is such a file in the folder of the Worker."""
    while not Path(name).exists():
        time.sleep(0.01)


def close_output() -> None:
    os.close(1)


def meta(fields: dict[str, Any]) -> None:
    state["meta"] = {"_meta": fields}


def unlock() -> None:
    """From now on a session may be opened."""
    script["session/new"] = DEFAULTS["session/new"]


def enroll() -> None:
    """Give this agent a name, which its session gets, and note it. A lock is held on a file while the agent lives.

    Process ids tell nothing: they are those of a namespace. The agent ends once there is a file `die-NAME`.
    """
    name = os.urandom(4).hex()
    globals()["session"] = f"session-{name}"
    DEFAULTS["session/new"] = [["answer", {"sessionId": session}]]
    state["lock"] = (script_path.parent / f"alive-{name}").open("w")
    fcntl.flock(state["lock"], fcntl.LOCK_EX)
    env = {key: value for key, value in os.environ.items() if key != "RUNTIMED_TREE"}
    with (script_path.parent / "agents.jsonl").open("a") as file:
        file.write(json.dumps({"name": name, "env": env}) + "\n")
    import threading

    threading.Thread(target=die, args=(script_path.parent / f"die-{name}",), daemon=True).start()


def die(file: Path) -> None:
    while not file.exists():
        time.sleep(0.01)
    os._exit(9)


def call_python(code: str) -> None:
    exec(code)


def obey() -> None:
    """`echo` what the prompt says; anything else goes on until it is cancelled."""
    said = state["params"]["prompt"][-1]["text"]
    if said.startswith("echo "):
        text(said.removeprefix("echo "))
        end()
        return
    while not state["cancelled"]:
        text("again")
        if select.select([stdin], [], [], 0.01)[0]:
            told = hear()
            if told is None:
                sys.exit(0)
            note(told)
    end("cancelled")


def run(steps: list[list[Any]]) -> None:
    for name, *arguments in steps:
        globals()[name](*arguments)


def hear() -> dict[str, Any] | None:
    line = stdin.readline().decode()
    if not line:
        while state.get("deaf"):
            time.sleep(1)
        return None
    heard.write(line)
    heard.flush()
    told: dict[str, Any] = json.loads(line)
    return told


def note(told: dict[str, Any]) -> None:
    if told.get("method") == "session/cancel":
        state["cancelled"] = True


def steps_for(method: str) -> list[list[Any]] | None:
    steps: list[Any] | None = script.get(method, DEFAULTS.get(method))
    if method == "session/prompt":
        assert steps is not None
        state["prompts"] += 1
        steps = steps[min(state["prompts"], len(steps)) - 1]
    return steps


def main() -> None:
    run(script.get("start", []))
    while (told := hear()) is not None:
        note(told)
        method = told.get("method")
        if method is None or "id" not in told:
            continue
        state.update(request=told["id"], params=told["params"], cancelled=False)
        steps = steps_for(method)
        if steps is None:
            error(-32601, "Method not found")
        else:
            run(steps)


main()
