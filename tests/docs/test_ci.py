"""The job of the page on CI runs as it stands there."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtimed.execution import Profile
from runtimed.settings import load

PAGE = "how-to/ci.md"
JOB_TIMEOUT_S = 90.0


@pytest.fixture
def job(page: Callable[[str], Any], tmp_path: Path) -> Path:
    """A folder with the configuration and the script of the page."""
    guide = page(PAGE)
    (tmp_path / "ci.toml").write_text(guide.blocks("toml")[0])
    [script] = guide.blocks("sh")
    (tmp_path / "ci.sh").write_text(script)
    return tmp_path


async def run(job: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """Run the job with this text as its script `run-tests`."""
    path = job / "run-tests"
    path.write_text(f"#!/bin/sh\n{tests}\n")
    path.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RUNTIMED_", "RUNTIMECTL_"))}
    environment = kept | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(job / "config"),
        "CI": "true",
    }
    return await asyncio.to_thread(
        subprocess.run,
        ["sh", "ci.sh"],
        cwd=job,
        env=environment,
        capture_output=True,
        text=True,
        timeout=JOB_TIMEOUT_S,
        check=False,
    )


async def test_a_job_whose_script_succeeds_ends_with_0_and_keeps_the_events(job: Path) -> None:
    ended = await run(job, 'echo "CI is $CI"')

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "CI is true\n", "")
    names = [json.loads(line)["payload"]["event"] for line in (job / "events.jsonl").read_text().splitlines()]
    assert names[0] == "user_message"
    assert names[-1] == "run_end"
    assert not list((job / "runtime" / "runtimed").glob("*.json")), "the daemon has ended and took its endpoint away"


async def test_a_job_whose_script_fails_ends_with_1(job: Path) -> None:
    ended = await run(job, "echo broken; exit 7")

    assert (ended.returncode, ended.stdout) == (1, "broken\n")
    assert "exit status 7" in ended.stderr


def test_the_profiles_on_the_page_are_accepted(page: Callable[[str], Any], tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("\n".join(page(PAGE).blocks("toml")))

    profiles = load({}, str(file)).profile_table()

    assert profiles["builtin:shell"] == Profile("shell", capabilities=("shell",), env_pass=("CI",), max_run_s=1200)
    assert profiles["builtin:ci-agent"].permissions == "deny"
