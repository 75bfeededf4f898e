"""The audit log of a daemon, as its page describes it."""

import json
from pathlib import Path

from runtimed.audit.record import MAX_TEXT
from runtimed.http.web.audit import MAX_REFUSALS
from tests.acceptance.daemon.conftest import Launch
from tests.docs.conftest import DOCS, Page

PAGE = Page(DOCS / "how-to" / "audit.md", (DOCS / "how-to" / "audit.md").read_text())


def test_a_daemon_with_the_configuration_of_the_page_writes_the_lines_of_the_page(
    tmp_path: Path, launch: Launch
) -> None:
    file, [table] = tmp_path / "audit.jsonl", PAGE.blocks("toml")
    config = tmp_path / "config.toml"
    config.write_text(table.replace("/var/log/runtimed/audit.jsonl", str(file)))
    daemon = launch("--config", str(config)).ready()
    daemon.create()
    daemon.call("POST", "/v1/workers/worker-00000001/stop", {}).ok("ack")
    assert daemon.call("DELETE", "/v1/workers/worker-00000001").status == 204
    daemon.call("DELETE", "/v1/workers/worker-00000001").refused(404, "worker_not_found")
    daemon.call("GET", "/v1/runtime", token="wrong").refused(401, "unauthorized")
    daemon.stop()

    created, _, _, deleted, refused = [json.loads(line) for line in file.read_bytes().splitlines()]
    shown = [json.loads(line) for line in PAGE.blocks("json")[0].splitlines()]

    varying = {"time": "", "request_id": ""}
    assert {**created, **varying} == {**shown[0], **varying}
    assert {**deleted, **varying} == {**shown[1], **varying}
    assert {**refused, **varying, "remote": "unix"} == {**shown[2], **varying}
    assert created["request_id"] != refused["request_id"]
    assert [list(line) for line in shown] == [list(created)] * 3
    assert PAGE.section("Read it").names()[:8] == list(created)


def test_the_limits_are_those_of_the_page() -> None:
    text = PAGE.text
    assert f"At most {MAX_REFUSALS} of them in a second" in text
    assert f"at most {MAX_TEXT} characters" in text


def test_a_daemon_with_an_audit_log_that_cannot_be_opened_does_not_start(tmp_path: Path, launch: Launch) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[audit]\nfile = "{tmp_path}/missing/audit.jsonl"\n')
    daemon = launch("--config", str(config))

    assert daemon.ended() == 2
    assert daemon.errors == f"runtimed: audit.file: {tmp_path}/missing/audit.jsonl: No such file or directory\n"
