"""pip installs a package through the proxy, from an index that the rules name."""

import base64
import ensurepip
import hashlib
import ssl
import subprocess
import zipfile
from pathlib import Path

import pytest
from aiohttp import web

from tests.security.conftest import PYTHON, Mechanism, User, each_mechanism_once
from tests.security.network.conftest import FindOnline, share_sites
from tests.security.network.internet import WEB, Internet

pytestmark = share_sites

WHEEL = "tiny-1.0-py3-none-any.whl"
INSTALL = """
cd $(mktemp -d -p .)
{python} -m venv --without-pip environment
for host in web.test index.test; do
    environment/bin/python {pip}/pip install -q --disable-pip-version-check --retries 0 --no-cache-dir \\
        --cert {certificate} --index-url https://$host/simple tiny >said 2>&1
    echo "$host: $(environment/bin/python -c 'import tiny; print(tiny.TEXT)' 2>/dev/null || echo nothing)"
done
cat said
"""


@pytest.fixture(scope="module")
def certificate(internet: Internet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Serve an index with one package by HTTPS, at each name, and return its certificate."""
    folder = tmp_path_factory.mktemp("index")
    files = folder / "index.pem", folder / "index.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=index.test", "-out", str(files[0]), "-keyout", str(files[1])]
    command += ["-addext", "subjectAltName=DNS:index.test,DNS:web.test"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    wheel = _build(folder / WHEEL)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == f"/files/{WHEEL}":
            return web.Response(body=wheel, content_type="application/octet-stream")
        link = f'<a href="/files/{WHEEL}#sha256={hashlib.sha256(wheel).hexdigest()}">{WHEEL}</a>'
        return web.Response(text=f"<!DOCTYPE html><html><body>{link}</body></html>", content_type="text/html")

    internet.serve(answer, internet.there.listen(443, WEB), ssl=context)
    return files[0]


def _build(path: Path) -> bytes:
    """Return a wheel of one module."""
    files = {
        "tiny.py": b"TEXT = 'the tiny package'\n",
        "tiny-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {name: base64.urlsafe_b64encode(hashlib.sha256(data).digest()) for name, data in files.items()}
    lines = [f"{name},sha256={digests[name].rstrip(b'=').decode()},{len(data)}" for name, data in files.items()]
    record = "\n".join([*lines, "tiny-1.0.dist-info/RECORD,,", ""])
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**files, "tiny-1.0.dist-info/RECORD": record.encode()}.items():
            archive.writestr(name, data)
    return path.read_bytes()


@each_mechanism_once
def test_pip_installs_from_an_index_that_the_rules_name_and_from_no_other(
    find_online: FindOnline, certificate: Path, mechanism: Mechanism, user: User
) -> None:
    site = find_online(user, mechanism)
    bundled = sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    if not bundled:
        pytest.skip("this Python comes without pip")
    files = {"pip": site.place.shared / bundled[0].name, "certificate": site.place.shared / certificate.name}
    files["pip"].write_bytes(bundled[0].read_bytes())
    files["certificate"].write_bytes(certificate.read_bytes())
    worker_id = site.new("listed")

    said = site.run("shell", "sh", "-c", INSTALL.format(python=PYTHON, **files), worker_id=worker_id)

    assert said == "web.test: nothing\nindex.test: the tiny package\n"
    assert [(item["host"], item["port"]) for item in site.refusals(worker_id)] == [("web.test", 443)]
