"""A program for the backend `process`: it runs the commands that it is told, and shows their output.

The content of an input is a command as a JSON array.
"""

import json
import subprocess
import sys

for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "input":
        command = json.loads(message["content"])
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        print(done.stdout)
        print(json.dumps({"event": "run_end", "data": {"result": "finished"}}), flush=True)
