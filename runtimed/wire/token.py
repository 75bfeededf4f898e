"""Tokens: their syntax, and the private file that holds one."""

import os
import re
from pathlib import Path

from runtimed.wire.private_files import is_private

MIN_TOKEN_BYTES = 16
MAX_TOKEN_BYTES = 1_024
TOKEN = re.compile(rf"[!-~]{{{MIN_TOKEN_BYTES},{MAX_TOKEN_BYTES}}}", re.ASCII)
FILE_RULE = "expected a regular file of this user or root with mode 0600 or 0400, not a symlink"
TOKEN_RULE = f"one token of visible ASCII, {MIN_TOKEN_BYTES} to {MAX_TOKEN_BYTES} characters"


class TokenFileError(ValueError):
    """The file is not a valid token file. The message says what is expected."""


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        TokenFileError: The file cannot be opened, is a symlink, belongs to another user or is readable by others, or
            does not hold a token.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TokenFileError(f"{error.strerror}: {FILE_RULE}") from error
    try:
        if not is_private(path, os.fstat(handle)):
            raise TokenFileError(FILE_RULE)
        text = os.read(handle, MAX_TOKEN_BYTES + 2).decode("latin-1").strip()
    finally:
        os.close(handle)
    if not TOKEN.fullmatch(text):
        raise TokenFileError(f"expected {TOKEN_RULE}")
    return text
