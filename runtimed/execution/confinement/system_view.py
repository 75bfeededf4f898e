"""What of the host every confined program sees, and what belongs to a program."""

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

SYSTEM = tuple(map(Path, ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")))
"""Where operating systems keep programs and libraries."""

SYSTEM_PARTS = {path.parts for path in SYSTEM}

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
MAX_LINKS = 40
"""How many links a path may lead through, as for the kernel."""


def folders_of_path(env: Mapping[str, str], home: Path, untrusted: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield the directories of PATH that exist and are not part of the system.

    One that stands beside the libraries of its programs, as in `/opt/tool/bin` and `~/.pyenv/shims`, is shown with
    these: what it contains does not run without them.

    Args:
        env: The environment of the program.
        home: The home of the daemon's user.
        untrusted: As in `parts_of_program`.
    """
    folders = map(Path, env.get("PATH", "").split(":"))
    for path in (folder for folder in folders if folder.is_absolute() and folder.is_dir()):
        if not is_system(path.resolve()) and not _leads_into(path, untrusted):
            has_libraries = any((path.parent / name).is_dir() for name in LIBRARIES)
            is_prefix = has_libraries and path.parent != home / ".local" and _is_own(path.parent, home)
            yield path.parent if is_prefix else path


def parts_of_program(
    argv: Sequence[str], env: Mapping[str, str], home: Path, untrusted: Sequence[Path] = ()
) -> Iterator[Path]:
    """Yield what a command needs: its program with what that is installed in, and absolute paths in its argv.

    Args:
        argv: The command; its program is a path or a name in PATH.
        env: The environment of the program.
        home: The home of the daemon's user. It is never a prefix, nor is a folder that contains it.
        untrusted: Folders that Workers write to. What is in them yields nothing: a script, a link or the settings of
            a virtual environment there could name any folder of this host.
    """
    found = shutil.which(argv[0], path=env.get("PATH")) if argv else None
    if found:
        yield from _installed(Path(found).absolute(), env, home, untrusted)
    for word in argv[1:]:
        path = Path(word)
        if path.is_absolute() and path.exists():
            shown = (place for place in _places(path, untrusted) if len(place.parts) > 2 and not is_system(place))
            yield from (_packages(place, home) or place for place in shown)


def executables_of(argv: Sequence[str], env: Mapping[str, str]) -> Sequence[Path]:
    """Return the files that are executed to begin a command, without links: its program, and what runs a script."""
    found = shutil.which(argv[0], path=env.get("PATH")) if argv else None
    if found is None:
        return ()
    program = Path(found)
    runners = (*map(Path, _shebang(program)[:1]), _interpreter(program, env))
    return tuple(dict.fromkeys(path.resolve() for path in (program, *runners) if path is not None and path.exists()))


def is_system(path: Path) -> bool:
    """Return whether a path without links is part of the system that all programs see."""
    return path.parts[:2] in SYSTEM_PARTS


def _places(path: Path, untrusted: Sequence[Path]) -> Iterable[Path]:
    """Return a path, and what it leads to through links; nothing if a Worker may have made one of them."""
    return () if _leads_into(path, untrusted) else dict.fromkeys((path, path.resolve()))


def _leads_into(path: Path, folders: Sequence[Path]) -> bool:
    """Return whether a path, or what a link on it leads to, is in one of the folders."""
    place = Path(os.path.normpath(path))
    for _ in range(MAX_LINKS):
        if any(place.is_relative_to(folder) for folder in folders):
            return True
        link = next((way for way in (*reversed(place.parents), place) if way.is_symlink()), None)
        if link is None:
            return bool(folders) and place != path.resolve()
        place = Path(os.path.normpath(link.parent / link.readlink() / place.relative_to(link)))
    return True


def _installed(program: Path, env: Mapping[str, str], home: Path, untrusted: Sequence[Path]) -> Iterator[Path]:
    """Yield a program and what it is installed in, that of its interpreter, and the base of a virtual environment."""
    for place in _places(program, untrusted):
        yield from _with_prefix(place, home, untrusted)
        interpreter = _interpreter(place, env)
        if interpreter is not None:
            for inner in _places(interpreter, untrusted):
                yield from _with_prefix(inner, home, untrusted)


def _with_prefix(program: Path, home: Path, untrusted: Sequence[Path]) -> Iterator[Path]:
    if is_system(program):
        return
    prefix = _prefix(program)
    local = home / ".local"
    if prefix == local:
        yield from (path for path in (local / "bin", local / "lib") if path.is_dir())
    elif _is_own(prefix, home):
        yield prefix
        yield from _base_of_environment(prefix, home, untrusted)
    else:
        yield program


def _prefix(program: Path) -> Path:
    """Return what a program is installed in. One of npm needs the packages that are installed beside its own."""
    if PACKAGES in program.parts:
        return _packages_of(program)
    return program.parent.parent if program.parent.name in {"bin", "sbin"} else program.parent


def _packages(path: Path, home: Path) -> Path | None:
    """Return the folder of packages of npm that a path is in, or None."""
    if PACKAGES not in path.parts or not _is_own(packages := _packages_of(path), home):
        return None
    return packages


def _packages_of(path: Path) -> Path:
    return Path(*path.parts[: path.parts.index(PACKAGES) + 1])


def _is_own(prefix: Path, home: Path) -> bool:
    """Return whether a folder holds one installation, not the whole home of a user or the top of the host."""
    return len(prefix.parts) > 2 and prefix != home and prefix not in home.parents


def _base_of_environment(prefix: Path, home: Path, untrusted: Sequence[Path]) -> Iterator[Path]:
    """Yield the prefix of the Python that a virtual environment was made from."""
    configuration = prefix / "pyvenv.cfg"
    text = b"" if _leads_into(configuration, untrusted) else _beginning(configuration, MAX_CONFIGURATION)
    for line in os.fsdecode(text).splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "home":
            base = Path(value.strip()).parent
            for path in _places(base, untrusted):
                if path.is_absolute() and not is_system(path) and _is_own(path, home):
                    yield path


def _interpreter(program: Path, env: Mapping[str, str]) -> Path | None:
    """Return the interpreter that the first line of a script names, or has `env` look for."""
    words = _shebang(program)
    if words and Path(words[0]).name == "env":
        names = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        found = shutil.which(names[0], path=env.get("PATH")) if names else None
        return Path(found).absolute() if found else None
    return Path(words[0]) if words else None


def _shebang(program: Path) -> Sequence[str]:
    """Return the words of the first line of a script; nothing for another program."""
    line = _beginning(program, MAX_SHEBANG).partition(b"\n")[0]
    return os.fsdecode(line[2:]).split() if line.startswith(b"#!") else ()


def _beginning(path: Path, size: int) -> bytes:
    """Return the first bytes of a regular file; nothing if it is none, or cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, size) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)
