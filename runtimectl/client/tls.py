"""How a client verifies a daemon by TLS, and what it says when that fails."""

import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runtimectl.errors import UsageProblem
from runtimed.wire.certificate import first_certificate

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

MAX_FILE_BYTES = 1 << 20
EXPIRED, NOT_YET_VALID = 10, 9
WRONG_NAMES = {62, 64}
"""OpenSSL's codes of a certificate for another name or address."""

NO_CLIENT_CERTIFICATE = {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE"}
REFUSED_CLIENT_CERTIFICATE = {
    "TLSV1_ALERT_UNKNOWN_CA",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
}


class TlsOptions(NamedTuple):
    """The files of TLS, in PEM; None for one that is not given.

    Attributes:
        ca: Trust the certificates in it, not those of the system.
        cert: The client's own certificate.
        key: Its key (mode 0600); without it the key is in `cert`.
        certificate: Trust its first certificate alone, whatever name it is for: that of a daemon of this user, which
            its endpoint file names. Does not count with `ca`.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    certificate: str | None = None

    def make_context(self) -> "ssl.SSLContext":
        """Return how connections are verified. Blocks. Raises UsageProblem if a file cannot be used."""
        import ssl

        if self.certificate is not None and self.ca is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(cadata=_read_certificate(self.certificate))
        else:
            context = self._trusting(ssl.create_default_context)
        context.set_alpn_protocols(["http/1.1"])
        if self.cert is not None:
            self._load_own(context, self.cert)
        return context

    def _trusting(self, make: "Callable[..., ssl.SSLContext]") -> "ssl.SSLContext":
        try:
            return make(cafile=self.ca)
        except OSError as error:
            raise UsageProblem(
                f"ca file {self.ca}: expected certificates in PEM: {error.strerror or error}"
            ) from None

    def _load_own(self, context: "ssl.SSLContext", cert: str) -> None:
        key = self.key or cert
        encrypted = UsageProblem(f"client key {key}: expected a key that is not encrypted")

        def refuse() -> str:
            raise encrypted

        try:
            mode = stat.S_IMODE(Path(key).stat().st_mode)
            if mode & 0o077:
                raise UsageProblem(f"client key {key}: mode {mode:04o} lets others read it; expected 0600")
            context.load_cert_chain(cert, self.key, password=refuse)
        except OSError as error:
            named = f"client certificate {cert}" if self.key is None else f"client certificate {cert} with {key}"
            problem = error.strerror or error
            raise UsageProblem(f"{named}: expected a certificate and its key in PEM: {problem}") from None


def _read_certificate(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            found = first_certificate(file.read(MAX_FILE_BYTES).decode("ascii", "ignore"))
    except OSError as error:
        raise UsageProblem(f"the certificate of the daemon, {path}: {error.strerror}; give --ca FILE") from None
    if found is None:
        raise UsageProblem(f"the certificate of the daemon, {path}: expected PEM; give --ca FILE")
    return found


def refuses_client(error: BaseException) -> bool:
    """Return whether the daemon ended the connection because of the client's certificate, or for lack of one."""
    return getattr(error, "reason", None) in NO_CLIENT_CERTIFICATE | REFUSED_CLIENT_CERTIFICATE


def is_end(error: OSError) -> bool:
    """Return whether the daemon closed a TLS connection. Names ssl's errors without importing it."""
    return type(error).__name__ in {"SSLEOFError", "SSLZeroReturnError"}


def reason(error: OSError) -> str:
    """Return why a connection failed, for people: what is wrong with a certificate, else the system's words."""
    if hasattr(error, "verify_code"):
        return _reason_of_verification(error.verify_code, str(getattr(error, "verify_message", error)))
    alert = getattr(error, "reason", None)
    if alert in NO_CLIENT_CERTIFICATE:
        return "it requires a client certificate: set RUNTIMECTL_CERT and RUNTIMECTL_KEY, or use a context"
    if alert in REFUSED_CLIENT_CERTIFICATE:
        return f"it refuses the client certificate: {str(alert).partition('ALERT_')[2].lower().replace('_', ' ')}"
    if alert in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}:
        return "it does not speak TLS: use http://"
    return str(error.strerror or error)


def _reason_of_verification(code: int, message: str) -> str:
    if code == EXPIRED:
        return "its certificate has expired"
    if code == NOT_YET_VALID:
        return "its certificate is not valid yet"
    if code in WRONG_NAMES:
        return f"its certificate is for another host: {message}"
    return f"its certificate is not trusted ({message}): name its authority with --ca FILE"
