"""What of the host every confined program sees, and what belongs to a program."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SYSTEM = tuple(map(Path, ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")))
"""Where operating systems keep programs and libraries."""

ETC = tuple(
    Path("/etc") / name
    for name in (
        "alternatives",
        "bash.bashrc",
        "ca-certificates",
        "ca-certificates.conf",
        "crypto-policies",
        "debian_version",
        "hosts",
        "inputrc",
        "java",
        "ld.so.cache",
        "ld.so.conf",
        "ld.so.conf.d",
        "localtime",
        "lsb-release",
        "mime.types",
        "nsswitch.conf",
        "os-release",
        "pki/ca-trust",
        "pki/java",
        "pki/tls/cert.pem",
        "pki/tls/certs",
        "pki/tls/ct_log_list.cnf",
        "pki/tls/openssl.cnf",
        "pki/tls/openssl.d",
        "profile",
        "protocols",
        "python3",
        "python3.11",
        "redhat-release",
        "services",
        "shells",
        "ssl/cert.pem",
        "ssl/certs",
        "ssl/openssl.cnf",
        "terminfo",
        "timezone",
    )
)
"""The files in /etc that programs need and that say nothing of this host's secrets: no folder with private keys."""

ACCOUNTS = (Path("/etc/passwd"), Path("/etc/group"))
"""The users and groups of the host."""

NAMES = tuple(map(Path, ("/etc/resolv.conf", "/etc/host.conf", "/etc/gai.conf")))
"""How names are resolved: shown only to programs that share the network of the host."""

LIBRARIES = ("lib", "libexec")
PACKAGES = "node_modules"
MAX_SHEBANG = 256
MAX_CONFIGURATION = 4096


def folders_of_path(env: Mapping[str, str], home: Path) -> Iterator[Path]:
    """Yield the directories of PATH that exist and are not part of the system.

    One that stands beside the libraries of its programs, as in `/opt/tool/bin` and `~/.pyenv/shims`, is shown with
    these: what it contains does not run without them.

    Args:
        env: The environment of the program.
        home: The home of the daemon's user.
    """
    for text in env.get("PATH", "").split(":"):
        path = Path(text)
        if path.is_absolute() and path.is_dir() and not is_system(path.resolve()):
            has_libraries = any((path.parent / name).is_dir() for name in LIBRARIES)
            is_prefix = has_libraries and path.parent != home / ".local" and _is_own(path.parent, home)
            yield path.parent if is_prefix else path


def parts_of_program(argv: Sequence[str], env: Mapping[str, str], home: Path) -> Iterator[Path]:
    """Yield what a command needs: its program with what that is installed in, and absolute paths in its argv.

    Args:
        argv: The command; its program is a path or a name in PATH.
        env: The environment of the program.
        home: The home of the daemon's user. It is never a prefix, nor is a folder that contains it.
    """
    found = shutil.which(argv[0], path=env.get("PATH")) if argv else None
    if found:
        yield from _installed(Path(found).absolute(), env, home)
    for word in argv[1:]:
        path = Path(word)
        if path.is_absolute() and len(path.parts) > 2 and path.exists() and not is_system(path.resolve()):
            yield path


def is_system(path: Path) -> bool:
    """Return whether a path without links is part of the system that all programs see."""
    return any(path.is_relative_to(folder) for folder in SYSTEM)


def _installed(program: Path, env: Mapping[str, str], home: Path) -> Iterator[Path]:
    """Yield a program and what it is installed in, that of its interpreter, and the base of a virtual environment."""
    for place in dict.fromkeys((program, program.resolve())):
        yield from _with_prefix(place, home)
        interpreter = _interpreter(place, env)
        if interpreter is not None:
            for inner in dict.fromkeys((interpreter, interpreter.resolve())):
                yield from _with_prefix(inner, home)


def _with_prefix(program: Path, home: Path) -> Iterator[Path]:
    if is_system(program):
        return
    prefix = _prefix(program)
    local = home / ".local"
    if prefix == local:
        yield from (path for path in (local / "bin", local / "lib") if path.is_dir())
    elif _is_own(prefix, home):
        yield prefix
        yield from _base_of_environment(prefix, home)
    else:
        yield program


def _prefix(program: Path) -> Path:
    """Return what a program is installed in. One of npm needs the packages that are installed beside its own."""
    if PACKAGES in program.parts:
        return Path(*program.parts[: program.parts.index(PACKAGES) + 1])
    return program.parent.parent if program.parent.name in {"bin", "sbin"} else program.parent


def _is_own(prefix: Path, home: Path) -> bool:
    """Return whether a folder holds one installation, not the whole home of a user or the top of the host."""
    return len(prefix.parts) > 2 and prefix != home and prefix not in home.parents


def _base_of_environment(prefix: Path, home: Path) -> Iterator[Path]:
    """Yield the prefix of the Python that a virtual environment was made from."""
    try:
        text = (prefix / "pyvenv.cfg").read_text(errors="replace")[:MAX_CONFIGURATION]
    except OSError:
        return
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "home":
            base = Path(value.strip()).parent
            for path in dict.fromkeys((base, base.resolve())):
                if path.is_absolute() and not is_system(path) and _is_own(path, home):
                    yield path


def _interpreter(program: Path, env: Mapping[str, str]) -> Path | None:
    """Return the interpreter that the first line of a script names."""
    try:
        with program.open("rb") as file:
            line = file.read(MAX_SHEBANG).partition(b"\n")[0]
    except OSError:
        return None
    if not line.startswith(b"#!"):
        return None
    words = os.fsdecode(line[2:]).split()
    if words and Path(words[0]).name == "env":
        names = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        found = shutil.which(names[0], path=env.get("PATH")) if names else None
        return Path(found).absolute() if found else None
    return Path(words[0]) if words else None
