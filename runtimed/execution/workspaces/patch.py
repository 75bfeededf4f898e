"""Write what was changed in a working tree as a patch of bounded size."""

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from runtimed.execution.workspaces.git import Git, Place
from runtimed.execution.workspaces.index import own_index
from runtimed.execution.workspaces.record import Prepared
from runtimed.model.workspace import WorkspaceDiff

MAX_PATCH_BYTES = 8 * 2**20
"""The largest patch; whole files are left out above it."""

MAX_FILE_BYTES = 64 * 2**20
"""The largest file that is compared at all."""

MAX_UNTRACKED = 50_000
"""How many untracked files a patch may have; the others are left out."""

DIFF_DEADLINE_S = 120.0
HEADER = b"diff --git "
REMOVED = "0"

DIFF = (
    "diff-index",
    "--patch",
    "--binary",
    "--full-index",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--no-renames",
    "--no-relative",
    "--unified=3",
    "--inter-hunk-context=0",
    "--submodule=short",
    "--ignore-submodules=dirty",
    "--src-prefix=a/",
    "--dst-prefix=b/",
)


class PatchFilter:
    """Keeps the files of a patch that fit into a size, and counts the others.

    A line of a hunk begins with a space, a sign or a letter of base85, so a line that begins with HEADER is a file's.
    """

    def __init__(self, room: int = MAX_PATCH_BYTES) -> None:
        self._room = room
        self._kept = bytearray()
        self._file = bytearray()
        self._line_start = bytearray()
        self._is_skipping = False
        self.left_out = 0

    def take(self, data: bytes) -> bool:
        """Take the next piece of the patch."""
        data = bytes(self._line_start) + data
        self._line_start.clear()
        while data:
            start = self._next_file(data)
            self._add(data[:start])
            data = data[start:]
            if not data:
                break
            if len(data) < len(HEADER):
                self._line_start += data
                break
            self._end_file()
            self._file += HEADER
            data = data[len(HEADER) :]
        return True

    def result(self, left_out: int) -> WorkspaceDiff:
        """Return what was kept; `left_out` files are missing for other reasons."""
        self._add(bytes(self._line_start))
        self._end_file()
        return WorkspaceDiff(bytes(self._kept), self.left_out + left_out)

    def _next_file(self, data: bytes) -> int:
        """Return where the next file begins in the data, or may begin at its end."""
        if self._at_line_start and HEADER.startswith(data[: len(HEADER)]):
            return 0
        found = data.find(b"\n" + HEADER)
        if found >= 0:
            return found + 1
        last = data.rfind(b"\n", max(0, len(data) - len(HEADER))) + 1
        return last if last and HEADER.startswith(data[last:]) else len(data)

    @property
    def _at_line_start(self) -> bool:
        return (not self._file and not self._is_skipping) or self._file.endswith(b"\n")

    def _add(self, data: bytes) -> None:
        if self._is_skipping:
            self._file[:] = data[-1:] or self._file
            return
        self._file += data
        if len(self._file) > self._room:
            self._is_skipping = True
            self._file[:] = self._file[-1:]

    def _end_file(self) -> None:
        if self._is_skipping:
            self.left_out += 1
        elif self._file:
            self._kept += self._file
            self._room -= len(self._file)
        self._file.clear()
        self._is_skipping = False


@attrs.frozen
class _Untracked:
    """Paths that the index lacks, and how many more there are."""

    paths: Sequence[bytes]
    left_out: int


class PatchWriter:
    """Writes patches by means of an index of its own, so that nothing in the repository changes."""

    def __init__(self, git: Git) -> None:
        self._git = git

    async def write(self, prepared: Prepared, place: Place) -> WorkspaceDiff:
        """Return what was changed since the base, with the files that are not tracked.

        Args:
            prepared: The workspace.
            place: Its working tree.

        Raises:
            GitFailed: It cannot be told.
        """
        async with own_index(self._git, await self._git.hardened(place)) as own:
            return await self._write(prepared, own)

    async def _write(self, prepared: Prepared, place: Place) -> WorkspaceDiff:
        base = prepared.base or await self._empty_tree(place)
        top = attrs.evolve(place, cwd=place.work_tree or place.cwd)
        added = await self._untracked(place)
        unmerged = await self._paths(top, "ls-files", "--unmerged", "-z")
        large = await self._large(place, top, base)
        entries = await self._entries(top, added.paths, unmerged, large)
        await self._git.run(top, "update-index", "-z", "--index-info", stdin=entries)
        held = b"".join(path + b"\0" for path, told in large.items() if not _is_new(told))
        await self._git.run(top, "update-index", "--assume-unchanged", "-z", "--stdin", stdin=held)
        kept = PatchFilter()
        await self._git.run(place, *DIFF, base, "--", ".", take=kept.take, deadline_s=DIFF_DEADLINE_S)
        return kept.result(added.left_out + len(large))

    async def _empty_tree(self, place: Place) -> str:
        return (await self._git.run(place, "hash-object", "-t", "tree", "--stdin")).text

    async def _untracked(self, place: Place) -> _Untracked:
        """Return the files that are neither tracked nor ignored, by their path from the top."""
        args = ("ls-files", "--others", "--exclude-standard", "--full-name", "-z", "--", ".")
        found = await self._paths(place, *args)
        files = [path for path in found if not path.endswith(b"/")]
        top = place.work_tree or place.cwd
        fitting = await asyncio.to_thread(_not_larger, top, files[:MAX_UNTRACKED])
        return _Untracked(fitting, len(found) - len(fitting))

    async def _large(self, place: Place, top: Place, base: str) -> dict[bytes, str]:
        """Return the tracked files that are too large to compare, each with its entry in the base."""
        changed = await self._git.run(
            place,
            "diff-index",
            "--raw",
            "-z",
            "--no-renames",
            "--full-index",
            "--ignore-submodules=dirty",
            base,
            "--",
            ".",
        )
        raw = changed.output.split(b"\0")
        entries = {path: told.decode() for told, path in zip(raw[::2], raw[1::2], strict=False) if told}
        names = list(entries)
        fitting = set(await asyncio.to_thread(_not_larger, top.work_tree or top.cwd, names))
        sizes = await self._sizes(top, entries)
        too_large = [name for name in names if name not in fitting or sizes.get(name, 0) > MAX_FILE_BYTES]
        return {name: entries[name] for name in too_large if _is_regular(entries[name])}

    async def _sizes(self, top: Place, entries: dict[bytes, str]) -> dict[bytes, int]:
        """Return the sizes of the files in the base and in the index, whichever is larger."""
        wanted = [(path, told.split()[index]) for path, told in entries.items() for index in (2, 3)]
        asked = "".join(f"{blob}\n" for _, blob in wanted).encode()
        answer = await self._git.run(top, "cat-file", "--batch-check=%(objectsize)", stdin=asked)
        sizes: dict[bytes, int] = {}
        for (path, _), told in zip(wanted, answer.text.split("\n"), strict=False):
            sizes[path] = max(sizes.get(path, 0), int(told) if told.isdecimal() else 0)
        return sizes

    async def _entries(
        self, top: Place, added: Iterable[bytes], unmerged: Iterable[bytes], large: dict[bytes, str]
    ) -> bytes:
        """Return what `update-index --index-info` reads: each file gets an entry that is never up to date."""
        empty = (await self._git.run(top, "hash-object", "--stdin")).text
        null = "0" * len(empty)
        conflicts = {line.partition(b"\t")[2] for line in unmerged}
        lines = [f"{REMOVED} {null}\t".encode() + path for path in conflicts]
        folder = top.work_tree or top.cwd
        present = await asyncio.to_thread(_modes, folder, [*added, *conflicts])
        lines += [f"{mode} {empty}\t".encode() + path for path, mode in present]
        lines += [line for path, told in large.items() for line in _as_in_base(path, told, null)]
        return b"".join(line + b"\0" for line in lines)

    async def _paths(self, place: Place, *args: str) -> list[bytes]:
        found = await self._git.run(place, *args, deadline_s=DIFF_DEADLINE_S)
        return [path for path in found.output.split(b"\0") if path]


def _is_regular(told: str) -> bool:
    return "10" in {told[1:3], told.split()[1][:2]}


def _is_new(told: str) -> bool:
    return not told.split()[2].strip("0")


def _as_in_base(path: bytes, told: str, null: str) -> Iterator[bytes]:
    """Make the entry of a file in the index that of the base: the patch then says nothing of it."""
    mode, _, blob = told.split()[:3]
    yield f"{REMOVED} {null}\t".encode() + path
    if not _is_new(told):
        yield f"{mode.removeprefix(':')} {blob}\t".encode() + path


def _not_larger(top: Path, paths: Iterable[bytes]) -> list[bytes]:
    """Return the paths that are missing, or not too large to compare."""
    return [path for path in paths if _size(top, path) <= MAX_FILE_BYTES]


def _size(top: Path, path: bytes) -> int:
    try:
        return os.lstat(os.path.join(os.fsencode(top), path)).st_size  # noqa: PTH118 the path is bytes
    except OSError:
        return 0


def _modes(top: Path, paths: Iterable[bytes]) -> list[tuple[bytes, str]]:
    """Return the mode of each path that is a file or a link, as git writes it."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            mode = os.lstat(os.path.join(os.fsencode(top), path)).st_mode  # noqa: PTH118 the path is bytes
            if stat.S_ISLNK(mode):
                found.append((path, "120000"))
            elif stat.S_ISREG(mode):
                found.append((path, "100755" if mode & stat.S_IXUSR else "100644"))
    return found
