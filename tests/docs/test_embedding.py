"""The programs on the page about embedding do what it says."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

from pytest_aiohttp import AiohttpClient

from tests.docs.conftest import ReadPage

EMBEDDED = "how-to/embed.md"
LOADED = """
import sys
print(sorted({"aiohttp", "click", "apsw"} & sys.modules.keys()), file=sys.stderr)
"""


async def run(program: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_the_embedded_runtime_prints_what_the_page_says(page: ReadPage) -> None:
    guide = page(EMBEDDED)
    ended = await run(guide.blocks("python")[0])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == guide.blocks("")[0]


async def test_the_embedded_runtime_loads_no_http_no_command_line_and_no_database(page: ReadPage) -> None:
    ended = await run(page(EMBEDDED).blocks("python")[0] + LOADED)
    assert (ended.returncode, ended.stderr) == (0, "[]\n")


async def test_the_api_is_served_where_the_page_mounts_it(
    page: ReadPage, tmp_path: Path, aiohttp_client: AiohttpClient
) -> None:
    names: dict[str, Any] = {}
    exec(page(EMBEDDED).blocks("python")[1], names)
    client = await aiohttp_client(await names["program"]("secret", tmp_path / "workers"))
    bearer = {"Authorization": "Bearer secret"}
    async with client.get("/") as answer:
        assert await answer.text() == "home"
    async with client.get("/agents/v1/runtime") as answer:
        assert answer.status == 401
    async with client.post("/agents/v1/workers", headers=bearer, json={}) as answer:
        worker = (await answer.json())["worker"]
    assert worker["execution"]["run_state"] == "idle"
