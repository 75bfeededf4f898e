"""Paths of which some are within others."""

from collections.abc import Iterable, Sequence
from pathlib import Path


def is_within(path: Path, folders: Iterable[Path]) -> bool:
    """Return whether a path is one of these folders, or within one."""
    return any(path.is_relative_to(folder) for folder in folders)


def outer_first(paths: Iterable[Path]) -> Sequence[Path]:
    """Return each path once, the outer ones before the inner ones."""
    return sorted(dict.fromkeys(paths), key=lambda path: len(path.parts))


def outermost(paths: Iterable[Path]) -> Sequence[Path]:
    """Return those of the paths that are within no other."""
    found: list[Path] = []
    for path in outer_first(paths):
        if not is_within(path, found):
            found.append(path)
    return found
