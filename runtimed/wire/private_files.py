"""Files that only the daemon's user can read: tokens and secrets."""

import os
import stat
from pathlib import Path

CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
"""The variable by which systemd names the folder of a unit's credentials."""


def is_private(path: Path, found: os.stat_result) -> bool:
    """Return whether a file is regular, belongs to this user or root, and others can neither read nor write it.

    systemd lets the user of a unit read a credential of root by an access control list. The mode of such a file has
    the bits of that list in place of those of the group, so they mean nothing there: the folder is closed to others.

    Args:
        path: The path of the file.
        found: What `fstat` says of it.
    """
    is_owned = stat.S_ISREG(found.st_mode) and found.st_uid in {os.geteuid(), 0}
    meaningless = stat.S_IRGRP if _is_credential(path) else 0
    return is_owned and not found.st_mode & 0o077 & ~meaningless


def _is_credential(path: Path) -> bool:
    folder = os.environ.get(CREDENTIALS_DIRECTORY, "")
    return bool(folder) and path.is_absolute() and path.parent == Path(folder)
