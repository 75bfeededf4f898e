"""The description of the machine of a run."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("runtimed", "aiohttp", "apsw", "uvloop", "orjson", "attrs", "cattrs")
REPOSITORY = Path(__file__).parents[1]


def describe(folder: Path) -> dict[str, object]:
    """Return what affects the figures. The stores of the run are in `folder`."""
    return {
        "cpu": _line("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _line("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "event_loop": "asyncio" if _version("uvloop") is None else "uvloop",
        "packages": {name: _version(name) for name in PACKAGES},
        "store_file_system": file_system(folder),
        "revision": _git("rev-parse", "--short", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "load_average": list(os.getloadavg()),
    }


def file_system(folder: Path) -> str:
    """Return the type of the file system of a folder."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    real = str(folder.resolve())
    above = [mount for mount in mounts if mount[1] == "/" or f"{real}/".startswith(f"{mount[1]}/")]
    return max(above, key=lambda mount: len(mount[1]))[2]


def _line(file: str, name: str) -> str:
    lines = (line.partition(":") for line in Path(file).read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "unknown")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    found = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=False)
    return found.stdout.strip()
