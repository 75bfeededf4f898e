import os
from pathlib import Path

import attrs
import pytest

from runtimed.execution.confinement import secrets
from runtimed.execution.confinement.secrets import MAX_SECRET_BYTES, Secrets, SecretUnavailable
from runtimed.execution.policy import Secret


@attrs.frozen
class SecretFile:
    path: Path

    @property
    def secrets(self) -> Secrets:
        return Secrets({"token": Secret(file=self.path)})

    def write(self, content: bytes) -> None:
        """Change what is in the file. A new file is private."""
        self.path.touch(0o600)
        self.path.write_bytes(content)

    def replace(self, content: bytes) -> None:
        """Put a new file in its place."""
        other = SecretFile(self.path.with_name("other"))
        other.write(content)
        other.path.rename(self.path)

    def set_mode(self, mode: int) -> None:
        self.path.chmod(mode)

    def remove(self) -> None:
        self.path.unlink()

    def make(self, kind: str) -> "SecretFile":
        """Return something else beside it."""
        path = self.path.with_name(kind)
        if kind == "symlink":
            path.symlink_to(self.path)
        elif kind == "folder":
            path.mkdir(0o600)
        elif kind == "pipe":
            os.mkfifo(path, 0o600)
        return SecretFile(path)


@pytest.fixture
def file(tmp_path: Path) -> SecretFile:
    """A private file with a value."""
    made = SecretFile(tmp_path / "token")
    made.write(b"first-value\n")
    return made


@pytest.mark.parametrize(
    ("content", "value"), [("a value\n", "a value"), ("a\r\n", "a"), ("two\nlines\n\n", "two\nlines\n"), ("é", "é")]
)
async def test_the_value_of_a_file_ends_before_its_last_line_feed(file: SecretFile, content: str, value: str) -> None:
    file.write(content.encode())

    assert await file.secrets.get("token") == value


@pytest.mark.parametrize("mode", [0o600, 0o400])
async def test_a_private_file_is_read(file: SecretFile, mode: int) -> None:
    file.set_mode(mode)

    assert await file.secrets.get("token") == "first-value"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o700])
async def test_a_file_with_another_mode_is_refused(file: SecretFile, mode: int) -> None:
    file.set_mode(mode)

    with pytest.raises(SecretUnavailable, match="mode 0600 or 0400") as refused:
        await file.secrets.get("token")

    assert str(file.path) in str(refused.value)


@pytest.mark.parametrize("kind", ["missing", "symlink", "folder", "pipe"])
async def test_what_is_no_regular_file_is_refused(file: SecretFile, kind: str) -> None:
    other = file.make(kind)

    with pytest.raises(SecretUnavailable, match="expected a regular file"):
        await other.secrets.get("token")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_a_file_of_another_user_is_refused(file: SecretFile) -> None:
    os.chown(file.path, 65534, 65534)

    with pytest.raises(SecretUnavailable, match="of the daemon's user or root"):
        await file.secrets.get("token")


@pytest.mark.parametrize("content", [b"", b"\n", b"a\0b", b"caf\xe9-value", b"x" * (MAX_SECRET_BYTES + 1)])
async def test_a_file_without_a_usable_value_is_refused_and_not_quoted(file: SecretFile, content: bytes) -> None:
    file.write(content)

    with pytest.raises(SecretUnavailable, match="1 to 65536 bytes of UTF-8") as refused:
        await file.secrets.get("token")

    assert refused.value.__cause__ is None
    assert "value" not in str(refused.value)


async def test_a_change_and_a_replacement_are_seen_and_so_is_a_file_that_is_no_longer_private(
    file: SecretFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "CHECK_INTERVAL_S", 0.0)
    values = file.secrets
    read = [await values.get("token"), await values.get("token")]

    file.write(b"second-value\n")
    read.append(await values.get("token"))
    file.replace(b"third--value\n")
    read.append(await values.get("token"))
    file.set_mode(0o644)

    assert read == ["first-value", "first-value", "second-value", "third--value"]
    with pytest.raises(SecretUnavailable):
        await values.get("token")


async def test_a_file_is_not_looked_at_for_each_use(file: SecretFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "CHECK_INTERVAL_S", 3_600.0)
    values = file.secrets
    await values.get("token")
    file.remove()

    assert await values.get("token") == "first-value"


async def test_a_variable_gives_its_value_and_a_missing_one_is_named() -> None:
    values = Secrets({"token": Secret(env="TOKEN"), "other": Secret(env="OTHER")}, {"TOKEN": "a-value"})

    assert await values.get("token") == "a-value"
    with pytest.raises(SecretUnavailable, match="secret 'other': the variable OTHER is not set"):
        await values.get("other")
    with pytest.raises(SecretUnavailable, match="secret 'third': not configured"):
        await values.get("third")


async def test_no_value_is_in_a_representation(file: SecretFile) -> None:
    values = file.secrets
    await values.get("token")

    assert "first-value" not in f"{values!r} {vars(values)!r}"
