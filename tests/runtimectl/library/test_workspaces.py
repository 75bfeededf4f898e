"""A program sees what a Worker changed in its workspaces."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runtimectl import AsyncClient, Client
from runtimectl.errors import ApiError, UsageProblem
from tests.runtimectl.conftest import Daemon


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit."""
    folder = tmp_path / "repository"
    git = ("git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", "init", "-q", str(folder)], check=True, capture_output=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True, capture_output=True)
    return folder


async def test_workspaces_are_listed_and_their_patches_read(
    start_daemon: Callable[..., Daemon], repository: Path, tmp_path: Path
) -> None:
    config = tmp_path / "workspaces.toml"
    config.write_text(f'[workspaces."ci:repo"]\npath = {json.dumps(str(repository))}\nmode = "worktree"\n')
    start_daemon("--store", f"fs:{tmp_path}/store", "--config", str(config))
    async with AsyncClient.from_env() as client:
        worker = await client.create_worker(
            profile="builtin:shell", capabilities=["shell"], workspaces={"cwd": "ci:repo"}
        )
        await worker.run("echo changed > new-file")

        [workspace] = await worker.workspaces()
        assert (workspace.name, workspace.mode, workspace.dirty) == ("cwd", "worktree", True)
        assert "+changed" in await worker.diff()
        assert await worker.diff("cwd") == await worker.diff()
        await worker.stop()
        with pytest.raises(ApiError) as refused:
            await worker.delete()
        assert refused.value.code == "workspace_dirty"
        await worker.delete(force=True)


def test_a_worker_without_workspaces_has_no_patch(client: Client) -> None:
    worker = client.create_worker()

    assert worker.workspaces() == ()
    with pytest.raises(UsageProblem, match="has no workspaces"):
        worker.diff()
