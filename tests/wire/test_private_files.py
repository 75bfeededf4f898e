"""Which files of tokens and secrets are closed to other users."""

import errno
import os
import struct
from pathlib import Path

import pytest

from runtimed.wire.private_files import is_private
from runtimed.wire.token import TokenFileError, read_token

TOKEN = "the-token-of-this-test"
NOBODY = 65_534
NO_ID = 2**32 - 1
ACL_VERSION = 2
OWNER, USER, GROUP, MASK, OTHERS = 1, 2, 4, 16, 32
READ = 4


def let_user_read(path: Path, uid: int) -> None:
    """Add an access control list as systemd does for a credential: the user of the unit may read it too."""
    entries = [(OWNER, READ, NO_ID), (USER, READ, uid), (GROUP, 0, NO_ID), (MASK, READ, NO_ID), (OTHERS, 0, NO_ID)]
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", struct.pack("<I", ACL_VERSION) + packed)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("this file system has no access control lists")


@pytest.fixture
def credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential of a unit, as systemd leaves it: mode 0400 in a folder of mode 0500."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    made = folder / "token"
    made.write_text(f"{TOKEN}\n")
    made.chmod(0o400)
    folder.chmod(0o500)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return made


def test_a_credential_is_a_token_file(credential: Path) -> None:
    assert read_token(credential) == TOKEN


def test_a_credential_that_a_list_opens_to_the_units_user_is_a_token_file(credential: Path) -> None:
    let_user_read(credential, NOBODY)

    assert credential.stat().st_mode & 0o777 == 0o440
    assert read_token(credential) == TOKEN


def test_a_file_that_is_no_credential_has_no_such_exception(
    credential: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credential.parent.parent))

    with pytest.raises(TokenFileError, match="mode 0600"):
        read_token(credential)


@pytest.mark.parametrize("mode", [0o404, 0o460, 0o602, 0o444])
def test_a_credential_that_others_can_read_or_write_is_refused(credential: Path, mode: int) -> None:
    credential.chmod(mode)

    assert not is_private(credential, credential.stat())
