"""The lines of the page on CI run as they stand there."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtimed.execution import Profile
from runtimed.execution.policy import SandboxPolicy
from runtimed.settings import load
from tests.docs.conftest import DOCS, ReadPage
from tests.runtimectl.job.conftest import AGENT

PAGE = "how-to/ci.md"
JOB_TIMEOUT_S = 90.0
ANSWER = '{"session/prompt": [[["text", "They pass now."], ["end"]]]}'


@pytest.fixture
def job(page: ReadPage, tmp_path: Path) -> Path:
    """A folder with the configuration of the page, and programs of its own."""
    (tmp_path / "ci.toml").write_text("\n".join(page(PAGE).blocks("toml")))
    (tmp_path / "bin").mkdir()
    return tmp_path


def add_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


async def run(job: Path, line: str) -> "subprocess.CompletedProcess[str]":
    """Run a line of the page in the folder of a job."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RUNTIMED_", "RUNTIMECTL_"))}
    environment = kept | {"PATH": f"{job / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}", "CI": "true"}
    return await asyncio.to_thread(
        subprocess.run,
        ["sh", "-c", line],
        cwd=job,
        env=environment,
        capture_output=True,
        text=True,
        timeout=JOB_TIMEOUT_S,
        check=False,
    )


async def test_the_line_of_the_page_ends_with_the_status_of_the_tests(page: ReadPage, job: Path) -> None:
    add_program(job / "run-tests", 'echo "here: $PWD"; exit 7')
    ended = await run(job, page(PAGE).blocks("sh")[0])
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, f"here: {job}\n", "")


async def test_the_line_in_the_readme_runs_make_in_the_current_folder(job: Path) -> None:
    readme = (DOCS.parent / "README.md").read_text()
    [line] = [line.removeprefix("$ ") for line in readme.splitlines() if line.startswith("$ runtimed exec")]
    (job / "Makefile").write_text("test:\n\t@echo tested in $(CURDIR); exit 3\n")
    ended = await run(job, line)
    assert ended.returncode == 2
    assert ended.stdout.startswith(f"tested in {job}\n")


async def test_the_configuration_of_the_page_passes_variables_on(page: ReadPage, job: Path) -> None:
    add_program(job / "run-tests", 'echo "CI is $CI"')
    line = page(PAGE).blocks("sh")[0].replace("exec --", "exec --config ci.toml --")
    ended = await run(job, line)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "CI is true\n", "")


async def test_the_agent_of_the_page_works_in_the_folder(page: ReadPage, job: Path) -> None:
    (job / "script.json").write_text(ANSWER)
    (job / "agent.py").write_text(AGENT.read_text())
    add_program(job / "bin" / "opencode", f"exec {sys.executable} {job}/agent.py {job}/script.json")
    ended = await run(job, page(PAGE).blocks("sh")[1])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "They pass now.\n", "")


def test_the_profiles_on_the_page_are_accepted(page: ReadPage, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("\n".join(page(PAGE).blocks("toml")))

    profiles = load({}, str(file)).profile_table()

    assert profiles["builtin:shell"] == Profile(
        "shell", capabilities=("shell",), env_pass=("CI",), max_run_s=1200, sandbox=SandboxPolicy(network="host")
    )
    assert profiles["builtin:ci-agent"].capabilities == ("read", "write", "shell")
