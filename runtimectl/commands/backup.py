"""`runtimectl backup`: a copy of the store of a daemon that serves."""

import sys
import time
from typing import TYPE_CHECKING

import click

from runtimectl.client.session import Session, write_to_stderr
from runtimectl.options import command

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRESS_S = 0.2
"""The shortest time between two updates of the progress line."""

MIB = 2**20


@command()
@click.argument("file")
@click.option("--with-folders", is_flag=True, help="Also copy the folders of Workers, into a tar archive.")
@click.pass_obj
def backup(session: Session, file: str, with_folders: bool) -> None:
    """Copy the store of a daemon that serves.

    FILE appears whole or not at all, with mode 0600. `runtimed store restore` checks it and makes a store of it.

    \b
    Example:
      runtimectl backup rt.backup
    """
    from runtimectl.client.api import CHECK_TIMEOUT_S
    from runtimectl.client.download import download
    from runtimectl.client.paths import with_query
    from runtimectl.job.private_file import PrivateFile
    from runtimed.wire import routes

    target = PrivateFile(file)
    progress = _Progress(is_shown=sys.stderr.isatty() and not session.quiet)
    path = with_query(routes.RUNTIME_BACKUP, {"folders": "true"} if with_folders else {})
    try:
        progress.show("waiting for the copy of the store")
        with download(session.client().address, path, session.timeout or CHECK_TIMEOUT_S) as answer:
            for piece in answer.pieces:
                target.write(piece)
                progress.add(len(piece), answer.size_bytes)
        target.close()
    finally:
        target.abandon()
        progress.clear()
    session.notify(f"{file}: {progress.count} bytes, not checked")
    if with_folders and not target.is_direct:
        for entry in _left_out(file):
            session.notify(f"not in the backup: {entry}")


class _Progress:
    """Counts bytes, and shows the count on a line of the terminal."""

    def __init__(self, *, is_shown: bool) -> None:
        self.count = 0
        self._is_shown = is_shown
        self._due = 0.0

    def add(self, size: int, total: int | None) -> None:
        """Count bytes; `total` says how many there will be, if that is known."""
        self.count += size
        if self._is_shown and time.monotonic() >= self._due:
            self._due = time.monotonic() + PROGRESS_S
            of_total = "" if total is None else f" of {total / MIB:.1f}"
            self.show(f"{self.count / MIB:.1f}{of_total} MiB")

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._is_shown:
            write_to_stderr(f"\r\x1b[Kbackup: {text}")

    def clear(self) -> None:
        """Remove the line."""
        if self._is_shown:
            write_to_stderr("\r\x1b[K")


def _left_out(file: str) -> "Iterator[str]":
    """Yield what the daemon could not put into an archive; its last member lists it."""
    import tarfile

    with tarfile.open(file, "r:", encoding="utf-8", errors="surrogateescape") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined] # it keeps all, and typeshed does not know it
            listed = archive.extractfile(member) if member.name == "skipped" else None
            if listed is not None:
                yield from listed.read().decode("utf-8", "replace").splitlines()
