"""A Git server by `git http-backend`."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import attrs
from aiohttp import web
from multidict import CIMultiDict

from tests.gateways.conftest import DEADLINE_S

QUIET = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


async def git(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run git, and return its exit status and all that it prints."""
    process = await asyncio.create_subprocess_exec(
        "git",
        *arguments,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **QUIET, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    return process.returncode or 0, said.decode()


@attrs.define
class Remotes:
    """A Git server by `git http-backend`, which asks for a password if it has one.

    Attributes:
        folder: Where the repositories are.
        url: The URL of the server.
        password: What it expects in `Authorization`.
        seen: The headers of its requests.
    """

    folder: Path
    url: str = ""
    password: str = ""
    moved: str = ""
    seen: list[tuple[str, CIMultiDict[str]]] = attrs.field(factory=list)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((f"{request.method} {request.raw_path}", CIMultiDict(request.headers)))
        if self.password and request.headers.get("Authorization") != self.password:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="git"'})
        if self.moved and request.raw_path.startswith("/old/"):
            return web.Response(
                status=301, headers={"Location": self.url + request.raw_path.replace("/old/", "/team/")}
            )
        return await self._backend(request)

    async def _backend(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        variables = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": "somebody",
            "REQUEST_METHOD": request.method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            **QUIET,
        }
        process = await asyncio.create_subprocess_exec(
            "git",
            "http-backend",
            env=variables,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate(await request.content.read())
        head, _, body = said.partition(b"\r\n\r\n")
        headers = CIMultiDict[str]()
        for name, _, value in (line.partition(": ") for line in head.decode().split("\r\n")):
            headers.add(name, value)
        return web.Response(status=int(headers.pop("Status", "200")[:3]), body=body, headers=headers)

    async def add(self, *names: str) -> None:
        """Make the repository `NAME/app.git` for each name, with one commit."""
        for name in names:
            work, bare = str(self.folder / f"{name}-work"), str(self.folder / name / "app.git")
            for command in (
                ("init", "-q", "-b", "main", work),
                ("-C", work, "commit", "-q", "--allow-empty", "-m", f"of {name}"),
                ("clone", "-q", "--bare", work, bare),
                ("-C", bare, "config", "http.receivepack", "true"),
            ):
                status, said = await git(self.folder, *command)
                assert status == 0, said
