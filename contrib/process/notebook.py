#!/usr/bin/env python3
"""A Worker that keeps notes: a program for the backend `process`, which needs only Python's standard library.

    list              lists all notes
    find WORD         finds the notes with a word, as a tool call
    count N           counts to N, one number a second; an interrupt stops it
    quit              ends the program; the Worker is errored then
    anything else     is a note, saved in the file `notes` of the Worker's own directory

A profile for it, in the configuration of runtimed:

    [profiles."builtin:notebook"]
    backend = "process"
    command = ["/path/to/contrib/process/notebook.py"]

Inputs come on standard input, one JSON object a line. A separate thread reads them, so that an interrupt arrives
during a run. Output goes to standard output and must be flushed.
"""

import json
import queue
import sys
import threading
from pathlib import Path

NOTES = Path("notes")

heard = queue.SimpleQueue()
interrupted = threading.Event()


def listen():
    """Read what the Runtime sends. The end of the input counts as a stop."""
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "interrupt":
            interrupted.set()
        else:
            interrupted.clear()
            heard.put(message)
    heard.put({"type": "stop"})


def say(event, **data):
    """Print one event of the feed."""
    print(json.dumps({"event": event, "data": data}), flush=True)


def notes():
    return NOTES.read_text().splitlines() if NOTES.exists() else []


def find(word, input_id):
    """Make a tool call: observers see its beginning and its end."""
    say("tool_call_start", id=input_id, name="find")
    say("tool_call_done", id=input_id, name="find", arguments=json.dumps({"word": word}))
    found = [note for note in notes() if word in note]
    say("tool_result", id=input_id, summary=f"{len(found)} found", output="\n".join(found), is_error=False)
    print("\n".join(found) or "nothing", flush=True)


def count(number):
    """Do something slow. Returns False if it was interrupted."""
    for step in range(1, number + 1):
        print(step, flush=True)
        if interrupted.wait(1):
            return False
    return True


def answer(message):
    """Do what an input says, and return the result of the run."""
    command, _, rest = message["content"].partition(" ")
    if message["kind"] == "system":
        print("noted", flush=True)
    elif command == "list":
        print("\n".join(notes()) or "no notes", flush=True)
    elif command == "find":
        find(rest, message["input_id"])
    elif command == "count" and rest.isdecimal():
        return "finished" if count(int(rest)) else "rolled_back"
    elif command == "quit":
        sys.exit("I was asked to quit")
    else:
        with NOTES.open("a") as file:
            file.write(message["content"].replace("\n", " ") + "\n")
        print("kept", flush=True)
    return "finished"


def main():
    threading.Thread(target=listen, daemon=True).start()
    while (message := heard.get())["type"] == "input":
        try:
            result = answer(message)
        except OSError as error:
            say("error", code="tool_error", message=str(error))
            result = "rolled_back"
        say("run_end", result=result)


if __name__ == "__main__":
    main()
