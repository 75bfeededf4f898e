"""The values of the secrets that the configuration names."""

import asyncio
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

import attrs

from runtimed.execution.policy import Secret
from runtimed.wire.private_files import is_private

MAX_SECRET_BYTES = 64 * 2**10
CHECK_INTERVAL_S = 1.0
"""How long the value of a file is used before the file is looked at again."""

FILE_RULE = "expected a regular file of the daemon's user or root with mode 0600 or 0400, not a symlink"
VALUE_RULE = f"expected 1 to {MAX_SECRET_BYTES} bytes of UTF-8 text without NUL"


class SecretUnavailable(Exception):
    """A secret has no value now. The message names the secret and the reason, and never a value."""


@attrs.frozen
class _Version:
    device: int
    inode: int
    modified_ns: int
    changed_ns: int
    size: int

    @classmethod
    def of(cls, found: os.stat_result) -> "_Version":
        return cls(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


@attrs.frozen
class _Held:
    version: _Version
    value: str = attrs.field(repr=False)
    checked_at: float


class Secrets:
    """Gives the values of secrets by name.

    A file is read again after it was changed or replaced, so that a secret can be rotated while Workers run. Its
    owner and mode are checked each time. A line feed at its end is no part of the value.

    Args:
        declared: Where the daemon finds each secret.
        environ: The variables that a secret can come from.
    """

    def __init__(self, declared: Mapping[str, Secret], environ: Mapping[str, str] = os.environ) -> None:
        self._declared = declared
        self._environ = environ
        self._held: dict[str, _Held] = {}

    async def get(self, name: str) -> str:
        """Return the value of a secret.

        A change of its file is seen at most CHECK_INTERVAL_S later.

        Raises:
            SecretUnavailable: There is no such secret, its variable is not set, or its file is missing, is not
                private or holds no text.
        """
        secret = self._declared.get(name)
        if secret is None:
            raise SecretUnavailable(f"secret {name!r}: not configured")
        try:
            if secret.file is None:
                return _checked(self._environ[secret.env or ""])
            return await self._from_file(name, secret.file)
        except KeyError:
            raise SecretUnavailable(f"secret {name!r}: the variable {secret.env} is not set") from None
        except OSError as error:
            raise SecretUnavailable(f"secret {name!r}: {secret.file}: {error.strerror}: {FILE_RULE}") from None
        except ValueError as error:
            raise SecretUnavailable(f"secret {name!r}: {secret.file or secret.env}: {error}") from None

    async def _from_file(self, name: str, path: Path) -> str:
        held, now = self._held.get(name), time.monotonic()
        if held is None or now - held.checked_at >= CHECK_INTERVAL_S:
            held = self._held[name] = await asyncio.to_thread(_read, path, held, now)
        return held.value


def _read(path: Path, held: _Held | None, now: float) -> _Held:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        if not is_private(path, found) or found.st_mode & stat.S_IXUSR:
            raise ValueError(FILE_RULE)
        version = _Version.of(found)
        if held is not None and held.version == version:
            return attrs.evolve(held, checked_at=now)
        data = os.read(handle, MAX_SECRET_BYTES + 2)
    finally:
        os.close(handle)
    try:
        return _Held(version, _checked(data.decode().removesuffix("\n").removesuffix("\r")), now)
    except UnicodeDecodeError:
        raise ValueError(VALUE_RULE) from None  # the error would quote the value


def _checked(value: str) -> str:
    if not 0 < len(value.encode(errors="surrogateescape")) <= MAX_SECRET_BYTES or "\0" in value:
        raise ValueError(VALUE_RULE)
    return value
