"""Backups over HTTP: what is sent, what is refused, and what is left of one that is not read."""

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from runtimed.audit import AuditLog, AuditPolicy
from runtimed.core import Runtime
from runtimed.http.api import backups
from runtimed.model.token import CreateTokenRequest
from runtimed.store.sqlite import SqliteStore, copying, online_backup
from runtimed.store.sqlite.restore import restore
from runtimed.wire import routes as paths
from tests.http.conftest import TOKEN, Served, serving

DEADLINE_S = 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def stored(folder: Path, tmp_path: Path) -> AsyncIterator[Served]:
    """A server whose Runtime has a durable store with a Worker, and an audit log."""
    log = await asyncio.to_thread(AuditLog, AuditPolicy(str(tmp_path / "audit")))
    async with Runtime(SqliteStore(folder)) as runtime, serving(runtime, audit_log=log) as served:
        await runtime.create_worker()
        yield served
    await log.close()


async def recorded(tmp_path: Path, count: int) -> list[tuple[str, str]]:
    """The verbs and outcomes in the audit log, once there are so many."""
    async with asyncio.timeout(DEADLINE_S):
        while len(outcomes(tmp_path)) < count:
            await asyncio.sleep(0.01)
    return outcomes(tmp_path)


def outcomes(tmp_path: Path) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    return [(line["verb"], line["outcome"]) for line in lines]


def workers_in(database: Path, content: bytes) -> int:
    database.write_bytes(content)
    with sqlite3.connect(database) as connection:
        [count] = connection.execute("SELECT count(*) FROM worker").fetchone()
    connection.close()
    return int(count)


async def get(served: Served, query: str = "", token: str = TOKEN) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"}
    async with served.client.get(f"{served.url}{paths.RUNTIME_BACKUP}{query}", headers=headers) as answer:
        return answer.status, await answer.read()


async def test_a_backup_is_sent_with_its_length_and_recorded(stored: Served, tmp_path: Path) -> None:
    async with stored.client.get(f"{stored.url}{paths.RUNTIME_BACKUP}") as answer:
        content = await answer.read()
        assert (answer.status, answer.content_type) == (200, "application/octet-stream")
        assert answer.content_length == len(content)
        assert answer.headers["Cache-Control"] == "no-store"

    assert workers_in(tmp_path / "copy", content) == 1
    assert await recorded(tmp_path, 2) == [("backup", "begun"), ("backup", "200")]


async def test_an_archive_is_sent_in_chunks_and_a_head_makes_no_copy(
    stored: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stored.client.get(f"{stored.url}{paths.RUNTIME_BACKUP}?folders=true") as answer:
        content = await answer.read()
        assert (answer.status, answer.content_length) == (200, None)
    assert content.startswith(b"runtime.sqlite3\0")

    monkeypatch.setattr(copying, "SPARE_BYTES", 2**60)
    async with stored.client.head(f"{stored.url}{paths.RUNTIME_BACKUP}") as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_a_lack_of_space_is_507_and_says_how_much_is_needed(
    stored: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "SPARE_BYTES", 2**60)

    status, body = await get(stored)

    error = json.loads(body)["error"]
    assert (status, error["code"]) == (507, "store_full")
    assert "bytes are needed" in error["message"]
    assert not await asyncio.to_thread((folder / "runtime.sqlite3-backup").exists)


async def test_a_second_backup_is_refused_until_the_first_one_was_read(stored: Served) -> None:
    first = await stored.runtime.backup()

    status, body = await get(stored)

    assert (status, json.loads(body)["error"]["code"]) == (503, "unavailable")
    await first.close()
    assert (await get(stored))[0] == 200


@pytest.mark.parametrize("query", ["", "?folders=true"])
async def test_whoever_has_all_of_a_backup_gets_the_next_at_once(
    stored: Served, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = online_backup.OnlineBackup._close

    def close_slowly(backup: online_backup.OnlineBackup) -> None:
        time.sleep(0.3)  # as if the disk were busy
        close(backup)

    monkeypatch.setattr(online_backup.OnlineBackup, "_close", close_slowly)

    for _ in range(3):  # on a connection of its own, as each command does
        async with stored.client.get(
            f"{stored.url}{paths.RUNTIME_BACKUP}{query}", headers={"Connection": "close"}
        ) as got:
            assert (got.status, bool(await got.read())) == (200, True)


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_client_that_does_not_read_to_the_end_makes_room_for_the_next_one(
    stored: Served, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    monkeypatch.setattr(backups, "UNREAD_TIMEOUT_S", 0.2)
    await asyncio.to_thread(make_worker_files, folder)
    reader, writer = await asyncio.open_connection("127.0.0.1", stored.port, limit=1)
    head = f"GET {paths.RUNTIME_BACKUP}?folders=true HTTP/1.1\r\nHost: 127.0.0.1:{stored.port}\r\n"
    writer.write(f"{head}Authorization: Bearer {TOKEN}\r\n\r\n".encode())
    assert await reader.readexactly(12) == b"HTTP/1.1 200"
    assert await recorded(tmp_path, 1) == [("backup", "begun")]
    if leaves:
        writer.close()

    async with asyncio.timeout(DEADLINE_S):
        while (await get(stored))[0] == 503:
            await asyncio.sleep(0.02)
        while ("backup", "cut") not in outcomes(tmp_path):
            await asyncio.sleep(0.02)

    writer.close()


async def test_a_download_ends_with_its_token_and_makes_room_for_the_next_one(stored: Served, folder: Path) -> None:
    await asyncio.to_thread(make_worker_files, folder)
    made = await stored.runtime.create_token(CreateTokenRequest("leaver", "admin"))
    reader, writer = await asyncio.open_connection("127.0.0.1", stored.port, limit=1)
    head = f"GET {paths.RUNTIME_BACKUP}?folders=true HTTP/1.1\r\nHost: 127.0.0.1:{stored.port}\r\n"
    writer.write(f"{head}Authorization: Bearer {made.secret}\r\n\r\n".encode())
    assert await reader.readexactly(12) == b"HTTP/1.1 200"

    await stored.runtime.revoke_token("leaver")

    async with asyncio.timeout(DEADLINE_S):
        while (await get(stored))[0] == 503:
            await asyncio.sleep(0.02)
        assert not (await rest(reader)).endswith(b"0\r\n\r\n")
    writer.close()


async def test_a_token_that_ends_while_the_store_is_copied_gets_401_and_the_copy_is_given_up(
    stored: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying_since = threading.Event()

    def copy_for_ever(_source: object, _target: Path, progress: Callable[[int, int], None]) -> None:
        copying_since.set()
        while True:
            progress(0, 1)
            time.sleep(0.01)

    made = await stored.runtime.create_token(CreateTokenRequest("leaver", "admin"))
    with monkeypatch.context() as patched:
        patched.setattr(online_backup, "copy_database", copy_for_ever)
        asking = asyncio.ensure_future(get(stored, token=made.secret))
        assert await asyncio.to_thread(copying_since.wait, DEADLINE_S)

        await stored.runtime.revoke_token("leaver")

        async with asyncio.timeout(DEADLINE_S):
            status, body = await asking
    assert (status, json.loads(body)["error"]["code"]) == (401, "unauthorized")
    assert (await get(stored))[0] == 200
    assert not await asyncio.to_thread((folder / "runtime.sqlite3-backup").exists)


async def test_a_client_that_reads_too_slowly_is_cut_off(
    stored: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "UNREAD_TIMEOUT_S", 2.0)
    monkeypatch.setattr(backups, "MIN_BYTES_PER_S", 2**40)
    await asyncio.to_thread(make_worker_files, folder)
    reader, writer = await asyncio.open_connection("127.0.0.1", stored.port, limit=1)
    head = f"GET {paths.RUNTIME_BACKUP}?folders=true HTTP/1.1\r\nHost: 127.0.0.1:{stored.port}\r\n"
    writer.write(f"{head}Authorization: Bearer {TOKEN}\r\n\r\n".encode())

    async with asyncio.timeout(DEADLINE_S):
        while await found(reader, 2**16):
            await asyncio.sleep(0.1)

    assert (await get(stored))[0] == 200
    writer.close()


def make_worker_files(folder: Path) -> None:
    home = folder / "workers" / "worker-00000001" / "home"
    home.mkdir(parents=True)
    (home / "file").write_bytes(bytes(30_000_000))


async def test_a_stop_amid_a_backup_cuts_the_client_off(folder: Path) -> None:
    async with Runtime(SqliteStore(folder)) as runtime, serving(runtime, {"drain_timeout_s": 0.1}) as served:
        await asyncio.to_thread(make_worker_files, folder)
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1)
        head = f"GET {paths.RUNTIME_BACKUP}?folders=true HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
        writer.write(f"{head}Authorization: Bearer {TOKEN}\r\n\r\n".encode())
        assert await reader.readexactly(12) == b"HTTP/1.1 200"
        await served.server.close()

    assert not (await rest(reader)).endswith(b"0\r\n\r\n")
    writer.close()


async def found(reader: asyncio.StreamReader, count: int) -> bytes:
    """So many bytes of a connection, or what comes before its end."""
    try:
        return await reader.readexactly(count)
    except (ConnectionError, asyncio.IncompleteReadError):
        return b""


async def rest(reader: asyncio.StreamReader) -> bytes:
    """The last bytes that come on a connection, however it ends."""
    last = b""
    with contextlib.suppress(ConnectionError):
        while found := await reader.read(2**16):
            last = (last + found)[-16:]
    return last


async def test_a_token_that_does_not_see_all_data_gets_no_backup(stored: Served, tmp_path: Path) -> None:
    requests = [
        CreateTokenRequest("of-a-tenant", "admin", "acme"),
        CreateTokenRequest("of-a-team", "admin", labels={"team": "a"}),
        CreateTokenRequest("of-an-operator", "operator"),
    ]
    made = [await stored.runtime.create_token(request) for request in requests]

    assert [(await get(stored, token=one.secret))[0] for one in made] == [403] * 3
    assert await recorded(tmp_path, 3) == [("backup", "403 forbidden")] * 3


async def test_the_tokens_and_what_belongs_to_tenants_come_back_with_a_backup(stored: Served, tmp_path: Path) -> None:
    made = await stored.runtime.create_token(CreateTokenRequest("ci", "operator", "acme"))
    client = stored.runtime.authenticate(made.secret)
    assert client is not None
    worker = await stored.runtime.create_worker(principal=client)
    _, content = await get(stored)
    await stored.runtime.revoke_token("ci")
    (tmp_path / "backup").write_bytes(content)

    await asyncio.to_thread(restore, tmp_path / "backup", tmp_path / "restored")

    assert made.secret.encode() not in content
    async with Runtime(SqliteStore(tmp_path / "restored")) as restored:
        assert restored.authenticate(made.secret) == client
        assert [found.worker_id for found in restored.workers(principal=client)] == [worker.worker_id]
