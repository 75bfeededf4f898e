"""A Worker whose folder is removed goes on in a new one, on either store."""

import json
import shutil
from pathlib import Path

from tests.acceptance.daemon.conftest import Daemon, Launch


def _alerts(daemon: Daemon, worker_id: str) -> list[str]:
    page = json.loads(daemon.call("GET", f"/v1/workers/{worker_id}/events").body)
    told = [event["payload"] for event in page["events"]]
    return [payload["data"]["message"] for payload in told if payload["event"] == "alert"]


def test_a_script_that_removes_the_folder_of_its_worker_does_not_lose_the_worker(
    launch: Launch, store: str, tmp_path: Path
) -> None:
    config = tmp_path / "unconfined.toml"
    config.write_text('[sandbox]\nmode = "off"\n')
    daemon = launch("--config", str(config), store=store).ready()
    worker_id = daemon.shell()

    daemon.run(worker_id, 'cd ..; rm -rf "$PWD"')
    daemon.run(worker_id, "echo alive; ls -A")

    assert daemon.items(worker_id)[-1]["content"] == "alive\n"
    assert ["was gone" in message for message in _alerts(daemon, worker_id)] == [True]


def test_a_cleaner_of_temporary_files_does_not_lose_the_workers_in_memory(launch: Launch, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    daemon = launch(env={"TMPDIR": str(scratch)}).ready()
    worker_id = daemon.shell()
    (made,) = scratch.iterdir()

    shutil.rmtree(made)
    daemon.run(worker_id, "echo alive")

    assert daemon.items(worker_id)[-1]["content"] == "alive\n"
    assert made.stat().st_mode & 0o777 == 0o700
