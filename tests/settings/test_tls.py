"""Settings of TLS: what is accepted, and what is said of a wrong file."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runtimed.errors import ConfigurationError
from runtimed.settings import Settings, load
from tests.certificates import Authority, Certificate


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Certificate:
    """A certificate and a key of this test's own."""
    issued = authority.issue("server")
    made = Certificate(tmp_path / "tls.pem", tmp_path / "tls.key")
    made.cert.write_bytes(issued.cert.read_bytes())
    made.key.touch(0o600)
    made.key.write_bytes(issued.key.read_bytes())
    return made


def loaded(files: Certificate, **further: str) -> Settings:
    return load({"tls_cert": str(files.cert), "tls_key": str(files.key), **further})


def test_a_certificate_and_its_key_are_accepted_and_the_key_is_private(
    files: Certificate, authority: Authority
) -> None:
    settings = loaded(files, tls_client_ca=str(authority.ca))
    tls = settings.load_tls()
    assert tls is not None
    assert tls.warning is None
    assert files.key in settings.private_paths
    assert load({}).load_tls() is None


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"tls_cert": "x"}, "tls_key: required with tls_cert"),
        ({"tls_key": "x"}, "tls_cert: required with tls_key"),
        ({"tls_client_ca": "x"}, "tls_cert: required with tls_client_ca"),
    ],
)
def test_a_setting_that_lacks_another_one_is_named(flags: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{problem}$"):
        load(flags)


def test_a_limit_that_no_handshake_fits_into_is_refused(files: Certificate) -> None:
    with pytest.raises(ConfigurationError, match=r"^max_unauthenticated_bytes: expected at least 1048576 with tls_c"):
        loaded(files, max_unauthenticated_bytes="1048575")
    loaded(files, max_unauthenticated_bytes="1048576")


Spoil = Callable[[Certificate, Authority], dict[str, str]]


def other_key(_: Certificate, authority: Authority) -> dict[str, str]:
    return {"tls_key": str(authority.issue("other").key)}


def encrypted_key(files: Certificate, _: Authority) -> dict[str, str]:
    protected = files.key.with_name("protected")
    command = ["openssl", "pkey", "-aes128", "-passout", "pass:secret", "-in", str(files.key), "-out", str(protected)]
    subprocess.run(command, check=True, capture_output=True)
    protected.chmod(0o600)
    return {"tls_key": str(protected)}


def text_instead_of(setting: str) -> Spoil:
    def spoil(files: Certificate, _: Authority) -> dict[str, str]:
        text = files.key.with_name("text")
        text.touch(0o600)
        text.write_text("no PEM \u00e9\n")
        return {setting: str(text)}

    return spoil


def mode(mode: int) -> Spoil:
    def spoil(files: Certificate, _: Authority) -> dict[str, str]:
        files.key.chmod(mode)
        return {}

    return spoil


def folder_as_key(files: Certificate, _: Authority) -> dict[str, str]:
    return {"tls_key": str(files.key.parent)}


BAD: dict[str, tuple[Spoil, str]] = {
    "no certificate": (lambda *_: {"tls_cert": "/nowhere/x"}, "tls_cert: /nowhere/x: not found"),
    "no key": (lambda *_: {"tls_key": "/nowhere/x"}, "tls_key: /nowhere/x: not found"),
    "no client CA": (lambda *_: {"tls_client_ca": "/nowhere/x"}, "tls_client_ca: /nowhere/x: not found"),
    "certificate is text": (text_instead_of("tls_cert"), "tls_cert: .*: expected certificates in PEM"),
    "client CA is text": (text_instead_of("tls_client_ca"), "tls_client_ca: .*: expected certificates in PEM"),
    "key is text": (text_instead_of("tls_key"), "tls_key: .*: expected a private key in PEM"),
    "key of another": (other_key, "tls_key: .*: the key belongs to another certificate than .*"),
    "key is encrypted": (encrypted_key, "tls_key: .*: expected a private key that is not encrypted"),
    "others read the key": (mode(0o604), "tls_key: .*: expected a regular file of this user with mode 0600.*"),
    "the group reads the key": (mode(0o640), "tls_key: .*: expected a regular file of this user with mode 0600.*"),
    "key is a folder": (folder_as_key, "tls_key: .*: expected a regular file.*"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_cannot_be_used_is_named(files: Certificate, authority: Authority, case: str) -> None:
    spoil, problem = BAD[case]
    with pytest.raises(ConfigurationError) as refused:
        loaded(files, **spoil(files, authority))
    assert re.fullmatch(problem, str(refused.value))


def test_a_key_behind_a_link_is_accepted(files: Certificate, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(files.key)
    loaded(files, tls_key=str(link))


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_the_key_of_another_user_is_refused(files: Certificate) -> None:
    os.chown(files.key, 1, 1)
    with pytest.raises(ConfigurationError, match=r"^tls_key: .*: expected a regular file of this user"):
        loaded(files)


def test_an_expired_certificate_is_a_warning(authority: Authority) -> None:
    expired = authority.issue("expired", days=-1)
    tls = loaded(expired).load_tls()
    assert tls is not None
    assert tls.warning == f"tls_cert: {expired.cert}: clients will refuse it: certificate has expired"
