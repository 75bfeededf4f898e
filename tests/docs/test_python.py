"""The page and the notebook on the client library do what they say, against a real daemon."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest

from runtimectl import Client
from runtimectl.result import Outcome
from tests.docs.conftest import DOCS, Page
from tests.runtimectl.conftest import Daemon

GUIDE = "how-to/python.md"
REFERENCE = "reference/python.md"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    found = Daemon(dict(os.environ), "--store", "memory")
    found.await_ready()
    yield found
    found.end()


def test_each_program_of_the_page_prints_what_the_page_says(page: Callable[[str], Page], daemon: Daemon) -> None:
    guide = page(GUIDE)
    programs = [block for block in guide.blocks("python") if "Client" in block]
    printed = guide.blocks("")

    assert len(programs) == len(printed)
    for program, expected in zip(programs, printed, strict=True):
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
        )
        assert (ended.stderr, ended.stdout) == ("", expected), stored_events()


def stored_events() -> str:
    """Return all events of the daemon, to show what it kept when a program printed something else."""
    tail = [sys.executable, "-m", "runtimectl", "events", "tail", "--all", "--from-start", "--no-follow"]
    return subprocess.run(tail, capture_output=True, text=True, timeout=60, check=False).stdout


def test_each_cell_of_the_notebook_prints_what_it_shows(daemon: Daemon) -> None:
    notebook = json.loads((DOCS / "how-to/python.ipynb").read_text())
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
        shown = "".join("".join(output["text"]) for output in cell["outputs"])
        assert printed.getvalue() == shown, cell["id"]


def test_the_reference_names_each_method_of_the_client_and_of_a_worker(page: Callable[[str], Page]) -> None:
    from runtimectl.library.worker import Worker

    for title, kind in (("Client", Client), ("Worker", Worker)):
        rows = page(REFERENCE).section(title).rows
        named = {code.partition("(")[0] for row in rows for code in row.codes() if "(" in code}
        public = {name for name in vars(kind) if not name.startswith("_")} - {"from_env", "found_by"}
        assert named == public, title


def test_the_reference_explains_each_outcome(page: Callable[[str], Page]) -> None:
    rows = page(REFERENCE).section("Run").rows
    outcomes = set(get_args(Outcome))

    assert outcomes - {"refused"} <= {code for row in rows for code in row.codes()}
