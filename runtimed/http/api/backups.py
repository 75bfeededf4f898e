"""The route of backups."""

import asyncio
import logging
from typing import Literal

from aiohttp import hdrs, web

from runtimed.core.ports import Backup
from runtimed.core.runtime import Runtime
from runtimed.errors import BackupUnavailable, RuntimedError, RuntimeStopped, StoreFull
from runtimed.http.web.binding import Routes
from runtimed.http.web.responses import BackupResponse
from runtimed.http.web.sessions import SESSION
from runtimed.model.principal import Principal
from runtimed.wire import routes as paths

UNREAD_TIMEOUT_S = 60.0
"""How long a client may read nothing of its backup before the connection is cut."""

MIN_BYTES_PER_S = 64 * 1024
"""How much a client has to read in a second on average. The copy takes space on the disk meanwhile."""

routes = Routes("backup")

log = logging.getLogger(__name__)


@routes.get(paths.RUNTIME_BACKUP, "backup", raises=(BackupUnavailable, RuntimeStopped, StoreFull))
async def get_backup(
    runtime: Runtime,
    principal: Principal,
    request: web.BaseRequest,
    folders: Literal["true", "false"] = "false",
) -> BackupResponse:
    """Get a consistent copy of the store, made while the daemon serves.

    It is an SQLite database, with its length in the head. With `folders=true` it is a tar archive that also holds the
    folders of Workers. One backup is made at a time. A backup whose token is revoked or expires is cut.
    """
    if request.method == hdrs.METH_HEAD:
        return BackupResponse(None)
    async with request[SESSION].limiting():
        backup = await runtime.backup(with_folders=folders == "true", principal=principal)
    try:
        return await _send(request, backup)
    finally:
        await backup.close()


async def _send(request: web.BaseRequest, backup: Backup) -> BackupResponse:
    response = BackupResponse(backup.size_bytes)
    await response.prepare(request)
    try:
        async with request[SESSION].limiting():
            await _write(response, backup)
            await response.write_eof()
    except (ConnectionError, TimeoutError, RuntimedError) as error:
        log.warning("a backup was not sent to its end", extra={"reason": str(error) or "its client is too slow"})
        _cut(request)
    except asyncio.CancelledError:
        _cut(request)
        raise
    return response


async def _write(response: BackupResponse, backup: Backup) -> None:
    """Write the blocks, and close the backup before the last one: whoever has all of it may ask for the next.

    Raises TimeoutError for a client that is too slow; what the daemon takes does not count.
    """
    clock, waited_s, count = asyncio.get_running_loop().time, 0.0, 0
    block = await backup.read()
    while block:
        following = await backup.read()
        if not following:
            await backup.close()
        began = clock()
        async with asyncio.timeout(UNREAD_TIMEOUT_S - max(0.0, waited_s - count / MIN_BYTES_PER_S)):
            await response.write(block)
        waited_s += clock() - began
        count += len(block)
        block = following


def _cut(request: web.BaseRequest) -> None:
    """Cut the connection. After the head, nothing else tells the client that this is not all."""
    if request.transport is not None:
        request.transport.abort()
