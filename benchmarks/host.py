"""`runtimed` with the LoadBackend: the installed daemon in every other part, down to its options and its exit."""

from typing import Any

from benchmarks.backend import LoadBackend
from runtimed import cli, daemon


def _backend(*_profiles: Any, **_options: Any) -> LoadBackend:
    return LoadBackend()


if __name__ == "__main__":
    daemon.ProfileRegistry = _backend  # type: ignore[attr-defined,assignment]
    cli.main()
