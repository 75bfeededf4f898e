"""Each test here runs over TCP, over TLS and over a Unix socket."""

from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.http.conftest import TCP, Transport


@pytest.fixture(params=["tcp", "tls", "unix"])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Transport:
    if request.param == "tcp":
        return TCP
    authority: Authority | None = request.getfixturevalue("authority") if request.param == "tls" else None
    return Transport(request.param, tmp_path, authority)
