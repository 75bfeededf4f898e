"""Settings of TLS."""

from pathlib import Path

import attrs

from runtimed.errors import ConfigurationError
from runtimed.http.server.tls_context import TlsContext, TlsFiles
from runtimed.http.server.tls_transport import TLS_BYTES

MIN_TLS_BYTES = 16 * TLS_BYTES
"""The least `max_unauthenticated_bytes`, so that handshakes do not close each other's connections."""


@attrs.frozen(slots=False)
class TlsSettings:
    """The files of TLS on TCP listeners, and whether open addresses may do without."""

    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    insecure_listen: bool = False

    @property
    def tls_files(self) -> TlsFiles | None:
        """The files of TLS, or None without TLS."""
        if not self.tls_cert:
            return None
        client_ca = Path(self.tls_client_ca).absolute() if self.tls_client_ca else None
        return TlsFiles(Path(self.tls_cert).absolute(), Path(self.tls_key).absolute(), client_ca)

    def load_tls(self) -> TlsContext | None:
        """Read the certificates; None without TLS. Raises ConfigurationError, which names the setting."""
        return None if self.tls_files is None else TlsContext(self.tls_files)

    def check_tls(self) -> None:
        """Raise ConfigurationError if a setting lacks another one, or a file cannot be used."""
        if self.tls_cert and not self.tls_key:
            raise ConfigurationError("tls_key: required with tls_cert")
        for name in ("tls_key", "tls_client_ca"):
            if getattr(self, name) and not self.tls_cert:
                raise ConfigurationError(f"tls_cert: required with {name}")
        self.load_tls()
