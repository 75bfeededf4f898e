"""`runtimed` with the LoadBackend. Everything else is as in the installed daemon."""

from typing import Any

from benchmarks.backend import LoadBackend
from runtimed import cli, daemon


def _backend(*_profiles: Any, **_options: Any) -> LoadBackend:
    return LoadBackend()


if __name__ == "__main__":
    daemon.ProfileRegistry = _backend  # type: ignore[attr-defined,assignment]
    cli.main()
