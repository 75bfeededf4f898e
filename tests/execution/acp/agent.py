"""An ACP agent that does what a script says: a stand-alone program without any library.

Run as `python agent.py SCRIPT`, SCRIPT being a JSON file. What it is told goes to `heard.jsonl` beside the script.
The script is an object of method names, each with a list of steps; those of `session/prompt` are lists of such lists,
one for each prompt, the last for all that follow. A step is a list, its first item the name of a function below.
"""

import fcntl
import io
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

script_path = Path(sys.argv[1])
script = json.loads(script_path.read_text())
stdin = io.FileIO(0)
heard = (script_path.parent / "heard.jsonl").open("a")
session = script.get("session", f"session-{os.getpid()}")
state = {"prompts": 0, "cancelled": False, "next": 1000, "request": None, "answered": False}

CAPABILITIES = script.get("capabilities", {})
DEFAULTS = {
    "initialize": [["answer", {"protocolVersion": 1, "agentCapabilities": CAPABILITIES}]],
    "session/new": [["answer", {"sessionId": session}]],
    "session/load": [["answer", None]],
    "session/resume": [["answer", {}]],
    "session/prompt": [[["text", "hello"], ["end"]]],
}


def write(message):
    raw(json.dumps(message))


def raw(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def send(session_update, **fields):
    params = {"sessionId": session, "update": {"sessionUpdate": session_update, **fields}}
    write({"jsonrpc": "2.0", "method": "session/update", "params": params | state.get("meta", {})})


def update(fields):
    send(fields.pop("sessionUpdate"), **fields)


def text(content, kind="agent_message_chunk"):
    send(kind, content={"type": "text", "text": content})


def thought(content):
    text(content, "agent_thought_chunk")


def texts(count, content):
    for number in range(count):
        text(f"{content}{number} ")


def answer(result):
    state["answered"] = True
    write({"jsonrpc": "2.0", "id": state["request"], "result": result})


def end(reason="end_turn", **fields):
    answer({"stopReason": reason, **fields})


def end_with(response):
    answer(response)


def error(code, message, data=None):
    state["answered"] = True
    write({"jsonrpc": "2.0", "id": state["request"], "error": {"code": code, "message": message, "data": data}})


def call(method, params):
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


def ask(tool_call, options):
    """Ask for a permission and say what came of it."""
    told = call("session/request_permission", {"toolCall": tool_call, "options": options})
    text(json.dumps(told.get("result", told.get("error"))["outcome"]))


def tell(method, params):
    """Ask the client for something and say its answer; `$terminal` stands for the terminal made last."""
    params = json.loads(json.dumps(params).replace("$terminal", state.get("terminal", "")))
    told = call(method, params)
    result = told.get("result")
    if isinstance(result, dict) and "terminalId" in result:
        state["terminal"] = result["terminalId"]
    text(json.dumps({key: told[key] for key in ("result", "error") if key in told}))


def stderr(size):
    sys.stderr.write("e" * size)
    sys.stderr.flush()


def long_line(size):
    sys.stdout.write('{"long": "')
    for _ in range(size // 65536):
        sys.stdout.write("x" * 65536)
    raw('"}')


def leave(status, words=""):
    sys.stderr.write(words)
    sys.stderr.flush()
    os._exit(status)


def hang():
    while True:
        time.sleep(1)


def flood():
    """Talk without an end, whatever is said meanwhile."""
    while True:
        text("x")


def until_cancel():
    while not state["cancelled"]:
        told = hear()
        if told is None:
            sys.exit(0)
        note(told)


def ignore_end(signals=True):
    """From now on neither the end of the input nor SIGTERM ends this program."""
    state["deaf"] = True
    if signals:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


until_interrupt = until_cancel


def finish():
    """End the run as an agent does that was told to, or has come to its end."""
    end("cancelled" if state["cancelled"] else "end_turn")


def daemon():
    """Leave a process behind that is in a session of its own."""
    subprocess.Popen(["sh", "-c", "while :; do sleep 1; done", script_path], start_new_session=True)


def pause(seconds):
    time.sleep(seconds)


def until_file(name):
    """Wait until there is such a file in the folder of the Worker."""
    while not Path(name).exists():
        time.sleep(0.01)


def close_output():
    os.close(1)


def meta(fields):
    state["meta"] = {"_meta": fields}


def unlock():
    """From now on a session may be opened."""
    script["session/new"] = DEFAULTS["session/new"]


def enroll():
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
    threading.Thread(target=die, args=(script_path.parent / f"die-{name}",), daemon=True).start()


def die(file):
    while not file.exists():
        time.sleep(0.01)
    os._exit(9)


def call_python(code):
    exec(code)


def obey():
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


def run(steps):
    for name, *arguments in steps:
        globals()[name](*arguments)


def hear():
    line = stdin.readline().decode()
    if not line:
        while state.get("deaf"):
            time.sleep(1)
        return None
    heard.write(line)
    heard.flush()
    return json.loads(line)


def note(told):
    if told.get("method") == "session/cancel":
        state["cancelled"] = True


def steps_for(method):
    steps = script.get(method, DEFAULTS.get(method))
    if method == "session/prompt":
        state["prompts"] += 1
        steps = steps[min(state["prompts"], len(steps)) - 1]
    return steps


def main():
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
