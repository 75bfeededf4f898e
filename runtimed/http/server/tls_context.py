"""The certificates of a TLS server, checked before they are used."""

import ssl
import stat
from os import geteuid
from pathlib import Path

import attrs

from runtimed.errors import ConfigurationError
from runtimed.wire.certificate import first_certificate

ALPN = ("http/1.1",)
KEY_RULE = "expected a regular file of this user with mode 0600, or one of root that others cannot read"
MAX_FILE_BYTES = 2**20


@attrs.frozen
class TlsFiles:
    """The files of a TLS server.

    Attributes:
        cert: Its certificate in PEM, followed by those of the authorities between it and a root.
        key: The private key of the certificate in PEM, not encrypted.
        client_ca: The certificates in PEM of the authorities that client certificates must come from. With None,
            clients need no certificate.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


class TlsContext:
    """How TLS connections are accepted: TLS 1.2 or newer, with certificates that can be replaced.

    Creating one reads the files. That blocks.

    Attributes:
        files: Where the certificates are.
        current: Accepts new connections.
        warning: Why clients will not accept the certificate, such as its expiry; None if nothing is known.

    Raises:
        ConfigurationError: A file is missing, unsafe or invalid, or the key belongs to another certificate. The
            message begins with the name of the setting.
    """

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self.current, self.warning = _load(files)

    def replace(self, fresh: "TlsContext") -> None:
        """Accept new connections as another one does. Those that are open keep their certificates."""
        self.current, self.warning = fresh.current, fresh.warning


def _load(files: TlsFiles) -> tuple[ssl.SSLContext, str | None]:
    """Return a context, and the warning about its certificate."""
    certificate = _read_certificates("tls_cert", files.cert)
    _check_key_file(files.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(ALPN)
    _load_key(context, files)
    if files.client_ca is not None:
        context.load_verify_locations(cadata=_read_certificates("tls_client_ca", files.client_ca))
        context.verify_mode = ssl.CERT_REQUIRED
    problem = _find_problem(context, certificate)
    return context, None if problem is None else f"tls_cert: {files.cert}: clients will refuse it: {problem}"


def _read_certificates(setting: str, path: Path) -> str:
    """Return the certificates in a file, from the first on."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES).decode("ascii", "ignore")
    except OSError as error:
        raise ConfigurationError(f"{setting}: {path}: {_reason(error)}") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(f"{setting}: {path}: expected certificates in PEM") from error
    return text


def _check_key_file(path: Path) -> None:
    """Check who can read the key. Links are followed: certificate managers replace the file behind one."""
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigurationError(f"tls_key: {path}: {_reason(error)}") from error
    too_open = {0: 0o027, geteuid(): 0o077}
    if not stat.S_ISREG(found.st_mode) or found.st_mode & too_open.get(found.st_uid, 0o777):
        raise ConfigurationError(f"tls_key: {path}: {KEY_RULE}")


def _load_key(context: ssl.SSLContext, files: TlsFiles) -> None:
    encrypted = ConfigurationError(f"tls_key: {files.key}: expected a private key that is not encrypted")

    def refuse() -> str:
        raise encrypted

    try:
        context.load_cert_chain(files.cert, files.key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"tls_key: {files.key}: the key belongs to another certificate than {files.cert}"
        elif str(error.reason).startswith(("EE_", "CA_")):
            problem = f"tls_cert: {files.cert}: {error.reason.lower().replace('_', ' ')}"
        else:
            problem = f"tls_key: {files.key}: expected a private key in PEM"
        raise ConfigurationError(problem) from error
    except OSError as error:
        raise ConfigurationError(f"tls_key: {files.key}: {_reason(error)}") from error


def _find_problem(server: ssl.SSLContext, certificates: str) -> str | None:
    """Return why a client that trusts the server's certificate itself would refuse it, or None."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=first_certificate(certificates) or certificates)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server)
    for end in (ours, server.wrap_bio(to_server, to_client, server_side=True), ours):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        except ssl.SSLError as error:
            return str(error.reason or error).lower().replace("_", " ")
    return None


def _reason(error: OSError) -> str:
    return "not found" if isinstance(error, FileNotFoundError) else str(error.strerror or error)
