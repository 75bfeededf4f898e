"""The CI jobs in contrib run as they stand there, step by step, with the installed programs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

JOBS = Path(__file__).parents[2] / "contrib" / "ci"
STEP_TIMEOUT_S = 90
ARTIFACTS = {"transcript.txt", "events.jsonl", "result.json"}


def github_steps() -> Iterator[str]:
    [job] = yaml.safe_load((JOBS / "github.yml").read_text())["jobs"].values()
    assert [step["with"]["path"] for step in job["steps"] if step.get("if") == "always()"] == ["run/"]
    yield from (step["run"] for step in job["steps"] if "run" in step)


def gitlab_steps() -> Iterator[str]:
    [job] = yaml.safe_load((JOBS / "gitlab.yml").read_text()).values()
    assert job["artifacts"] == {"when": "always", "paths": ["run/"]}
    yield from (*job["before_script"], *job["script"])


def shell_steps() -> Iterator[str]:
    yield f"sh {JOBS / 'ci.sh'}"


@pytest.mark.parametrize(
    ("steps", "status"), [(github_steps, 7), (gitlab_steps, 7), (shell_steps, 7), (shell_steps, 0)]
)
def test_each_step_of_a_job_runs_and_its_artifacts_are_whole(
    steps: Callable[[], Iterator[str]], status: int, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    script = repository / "run-tests"
    script.write_text(f"#!/bin/sh\necho tests in $PWD\nexit {status}\n")
    script.chmod(0o755)

    *before, last = [_step(step, repository) for step in steps()]

    assert [step.returncode for step in before] == [0] * len(before)
    assert (last.returncode, last.stdout, last.stderr) == (status, f"tests in {repository}\n", "")
    assert {path.name for path in (repository / "run").iterdir()} == ARTIFACTS
    result = json.loads((repository / "run" / "result.json").read_text())
    assert (result["outcome"], result["exit_status"]) == ("finished", status)
    assert f"assistant: tests in {repository}" in (repository / "run" / "transcript.txt").read_text()
    events = [json.loads(line) for line in (repository / "run" / "events.jsonl").read_text().splitlines()]
    assert [events[0]["payload"]["event"], events[-1]["payload"]["event"]] == ["user_message", "shutdown"]


def _step(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-e", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "CI": "true"},
        capture_output=True,
        text=True,
        timeout=STEP_TIMEOUT_S,
        check=False,
    )
