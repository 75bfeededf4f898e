"""A strict interpreter of Dockerfiles: the steps run as root in a file system of their own, on this machine's /usr.

The base image is this machine: its /usr, the Python of the tests in place of /usr/local, and the files of /etc that
programs need. Its `apt-get` installs nothing: it fails for a package that the machine does not have.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

STEP_DEADLINE_S = 300
BASE_PATH = "/base/bin:/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
ETC = {
    *("group", "gshadow", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "login.defs", "nsswitch.conf"),
    *("passwd", "pip.conf", "resolv.conf", "shadow", "ssl"),
}
PASSED_ON = re.compile(r"(PIP_|.*_PROXY$|SSL_CERT)", re.IGNORECASE)
"""Variables of the builder that steps need to reach a package index, as an engine's build arguments are."""

APT_GET = """#!/bin/sh -eu
[ "$1" = update ] && exit
[ "$1" = install ] && shift
for word; do
    case $word in
    -*) ;;
    *) command -v "$(case $word in bubblewrap) echo bwrap ;; *) echo "$word" ;; esac)" ;;
    esac
done
"""

ENTER = """
root=$1 python=$2 access=$3 volume=$4
shift 4
mount --bind "$root" "$root"
mount --bind /usr "$root/usr" && mount -o remount,bind,ro "$root/usr"
[ "$python" = /usr ] || { mount --bind "$python" "$root/usr/local" && mount -o remount,bind,ro "$root/usr/local"; }
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
for folder in tmp run/runtimed; do
    [ "$access" = rw ] || { mount -t tmpfs -o mode=1777 tmpfs "$root/$folder"; }
done
[ -z "$volume" ] || mount --bind "$volume" "$root/var/lib/runtimed"
[ "$access" = rw ] || mount -o "remount,bind,$access" "$root"
cd "$root"
pivot_root . old
cd /
umount --lazy /old
exec "$@"
"""
"""Makes a folder the root of a new mount namespace, then runs a command there."""

UNSHARE = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child")


@attrs.define
class Stage:
    """A stage of a build, or an image: a file system and what its instructions set.

    Attributes:
        root: The folder with its files.
        environment: The variables of its programs.
        workdir: The directory of its programs.
        user: UID:GID of its programs.
        volumes: The paths of its volumes.
        ports: What it exposes.
        health: The argv of its health check.
        entrypoint: The argv of its program.
    """

    root: Path
    environment: dict[str, str] = attrs.field(factory=lambda: {"PATH": BASE_PATH})
    workdir: str = "/"
    user: str = "0:0"
    volumes: list[str] = attrs.field(factory=list)
    ports: list[int] = attrs.field(factory=list)
    health: list[str] = attrs.field(factory=list)
    entrypoint: list[str] = attrs.field(factory=list)

    def inside(self, command: Sequence[str], access: str = "rw", volume: str = "") -> list[str]:
        """Return the argv that runs a command with this file system as its root; it needs mount namespaces."""
        return ["sh", "-euc", ENTER, "enter", str(self.root), sys.base_prefix, access, volume, *command]

    def place(self, path: str) -> Path:
        """Return the place of a path of the image, from its working directory, on this machine."""
        return self.root / os.path.normpath(f"{self.workdir}/{path}" if not path.startswith("/") else path)[1:]


class Build:
    """One execution of a Dockerfile.

    Args:
        context: The folder that COPY reads.
        folder: An empty folder for the file systems.
    """

    def __init__(self, context: Path, folder: Path) -> None:
        self._context = context
        self._folder = folder
        self._stages: dict[str, Stage] = {}
        self._arguments: dict[str, str] = {}
        self._stage: Stage | None = None
        self._instructions: dict[str, Callable[[str], None]] = {
            "ARG": self._arg,
            "FROM": self._from,
            "WORKDIR": self._workdir,
            "COPY": self._copy,
            "RUN": self._run,
            "ENV": self._env,
            "USER": self._user,
            "VOLUME": lambda rest: self.image.volumes.extend(json.loads(rest)),
            "EXPOSE": lambda rest: self.image.ports.append(int(rest)),
            "HEALTHCHECK": self._healthcheck,
            "ENTRYPOINT": lambda rest: self.image.entrypoint.extend(json.loads(rest)),
        }

    @property
    def image(self) -> Stage:
        """The stage that was begun last."""
        assert self._stage is not None, "expected FROM"
        return self._stage

    def execute(self, text: str) -> Stage:
        """Execute all instructions. Returns the image. Raises ValueError for one that this interpreter lacks."""
        lines = "\n".join(line for line in text.split("\n") if not line.startswith("#")).replace("\\\n", " ")
        for line in filter(None, map(str.strip, lines.split("\n"))):
            name, _, rest = line.partition(" ")
            if name not in self._instructions:
                raise ValueError(f"unknown instruction: {name}")
            self._instructions[name](" ".join(rest.split()))
        return self.image

    def _arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        self._arguments[name] = value

    def _from(self, rest: str) -> None:
        found = re.fullmatch(r"python:(\S+)-slim(?: AS (\w+))?", expand(rest, self._arguments))
        if found is None or not re.fullmatch(r"3\.1[1-9]", found[1]):
            raise ValueError(f"unknown base image: {rest}")
        self._stage = base_image(self._folder / str(len(self._stages)))
        self._stages[found[2] or ""] = self._stage

    def _workdir(self, rest: str) -> None:
        self.image.workdir = rest
        self.image.place(rest).mkdir(parents=True, exist_ok=True)

    def _copy(self, rest: str) -> None:
        words = rest.split(" ")
        source = self._context
        if words[0].startswith("--from="):
            source = self._stages[words.pop(0).removeprefix("--from=")].root
        given, target = words
        found, place = source / given.lstrip("/"), self.image.place(target)
        if found.is_dir():
            shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(found, place / found.name if place.is_dir() else place)

    def _run(self, rest: str) -> None:
        stage = self.image
        command = ["sh", "-c", f'cd "$0" && {rest}', stage.workdir]
        passed = {name: value for name, value in os.environ.items() if PASSED_ON.match(name)}
        done = subprocess.run(
            [*UNSHARE, *stage.inside(command)],
            env={"HOME": "/root", **passed, **stage.environment},
            capture_output=True,
            text=True,
            timeout=STEP_DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, f"RUN {rest}\n{done.stdout}\n{done.stderr}"

    def _env(self, rest: str) -> None:
        for word in rest.split(" "):
            name, _, value = word.partition("=")
            self.image.environment[name] = expand(value, self.image.environment)

    def _user(self, rest: str) -> None:
        self.image.user = rest

    def _healthcheck(self, rest: str) -> None:
        _, found, command = rest.partition(" CMD ")
        assert found, "expected a health check with CMD"
        self.image.health = json.loads(command)


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace variables. Raises KeyError for one that is not set."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values[found[1] or found[2]], text)


def base_image(root: Path) -> Stage:
    """Make the file system of the base image."""
    for folder in ("base/bin", "dev", "etc", "old", "proc", "root", "run", "tmp", "usr", "var/lib/apt/lists"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "root").chmod(0o700)
    for name in ("bin", "lib", "lib32", "lib64", "sbin"):
        if Path(f"/{name}").is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    for name in sorted(ETC):
        if Path("/etc", name).is_dir():
            shutil.copytree(Path("/etc", name), root / "etc" / name, symlinks=True)
        elif Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), root / "etc" / name)
    (root / "base" / "bin" / "apt-get").write_text(APT_GET)
    (root / "base" / "bin" / "apt-get").chmod(0o755)
    python = f"python3.{sys.version_info.minor}"
    folder = "/usr/bin" if sys.base_prefix == "/usr" else "/usr/local/bin"
    (root / "base" / "bin" / "python").symlink_to(f"{folder}/{python}")
    return Stage(root)
