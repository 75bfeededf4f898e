"""Certificates in PEM."""

import re

CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]++-----END CERTIFICATE-----", re.ASCII)


def first_certificate(text: str) -> str | None:
    """Return the first certificate in a text, or None without one."""
    found = CERTIFICATE.search(text)
    return None if found is None else found[0]
