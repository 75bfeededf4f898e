"""What must still work for programs that are confined."""

import shutil
import subprocess
from collections.abc import Mapping

import pytest

from tests.security.conftest import (
    FindSite,
    Mechanism,
    User,
    each_mechanism,
    each_mechanism_once,
    each_user,
    share_sites,
)

pytestmark = share_sites

IDENTITY = "git config user.name worker && git config user.email worker@example.org"
OWN_IDENTITY = IDENTITY.replace("git config", "git config --global")
SERVER = """
import http.server, threading, urllib.request
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
assert opener.open(f"http://127.0.0.1:{server.server_port}/").status == 200
"""
WORKERS = """
from multiprocessing import Pool, shared_memory
shared = shared_memory.SharedMemory(create=True, size=1 << 20)
shared.unlink()
with Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
"""
PROCESSES = """
import subprocess
many = [subprocess.Popen(["sleep", "100"]) for _ in range(200)]
assert all(one.poll() is None for one in many)
for one in many:
    one.kill()
    one.wait()
"""
TERMINAL = """
import os, pty
assert pty.spawn(["sh", "-c", "test -t 0 && stty size"]) == 0
"""
MAKEFILE = "all: $(addprefix out-,1 2 3 4 5 6 7 8)\\nout-%%:\\n\\techo $@ >$@\\n"

TASKS: Mapping[str, str] = {
    "git commits, and checks out a worktree": f"""
        git init -q repository && cd repository && {IDENTITY}
        echo text >file && git add file && git commit -q -m first
        git worktree add -q ../worktree -b other && grep -q text ../worktree/file
    """,
    "python3 makes a virtual environment": """
        python3 -m venv --without-pip environment
        environment/bin/python -c 'import sys; assert sys.prefix != sys.base_prefix'
    """,
    "node runs a script, and a program": """
        node -e 'require("child_process").execFileSync("true"); require("fs").writeFileSync("node", "text")'
        grep -q text node
    """,
    "make runs 8 jobs at a time": f"""
        printf '{MAKEFILE}' >Makefile
        make -s -j8 && test $(cat out-* | wc -l) = 8
    """,
    "200 processes run at a time": f"python3 -c '{PROCESSES}'",
    "multiprocessing shares memory": f"python3 -c '{WORKERS}'",
    "a server is reached on the loopback address": f"python3 -c '{SERVER}'",
    "a program runs in a terminal of its own": f"python3 -c '{TERMINAL}'",
    "files are made in HOME and in the folder for temporary files": """
        echo text >"$HOME/made" && grep -q text "$HOME/made"
        file=$(mktemp) && echo text >"$file" && rm "$file"
    """,
}
REFUSED_BY_LANDLOCK = {
    "multiprocessing shares memory",
    "a server is reached on the loopback address",
    "a program runs in a terminal of its own",
}
"""/dev/shm, /dev/pts and the loopback address belong to the whole host: Landlock cannot give a part of them."""

NEEDED = {"git": "git", "node": "node", "make": "make"}


@pytest.mark.parametrize("task", TASKS)
@each_mechanism_once
def test_usual_work_goes_on_confined(find_site: FindSite, mechanism: Mechanism, user: User, task: str) -> None:
    tool = NEEDED.get(task.partition(" ")[0])
    if tool and shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    site = find_site(user, mechanism)

    output = site.run("shell", "sh", "-ec", f"cd $(mktemp -d -p .)\n{TASKS[task]}\necho all is fine")

    if mechanism == "landlock" and task in REFUSED_BY_LANDLOCK:
        assert "Permission denied" in output or "out of pty devices" in output
    else:
        assert output.endswith("all is fine\n")


@each_user
@each_mechanism
def test_a_commit_in_a_worktree_workspace_is_in_the_repository(
    find_site: FindSite, mechanism: Mechanism, user: User
) -> None:
    site = find_site(user, mechanism)
    worker_id = site.create_in_worktree()

    script = f"{OWN_IDENTITY}; echo text >made; git add made; git commit -q -m 'made inside'; git status"
    output = site.run("shell", "sh", "-ec", script, worker_id=worker_id)

    assert "working tree clean" in output
    log = site.place.command("git", "-C", str(site.place.repository), "log", "--all", "--format=%s")
    done = subprocess.run(log, env={"HOME": "/", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["made inside", "first"]
