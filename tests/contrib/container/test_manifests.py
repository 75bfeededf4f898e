"""compose.yaml, nginx.conf and kubernetes.yaml of contrib/container: they fit the image and the daemon's settings."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtimed import __version__, settings
from runtimed.http.server.tls_context import TlsContext, TlsFiles
from runtimed.wire.token import TokenFileError, read_token
from tests.certificates import Authority
from tests.distribution.conftest import ROOT
from tests.docs.conftest import DOCS, Page

CONTAINER = ROOT / "contrib" / "container"
DOCKERFILE = (CONTAINER / "Dockerfile").read_text()
PORT = 38800
VOLUME = "/var/lib/runtimed"
USER = 10_001
"""The user of the image."""

ENDING_S = 15
"""How long Workers and the store may take to end after the drain."""


@pytest.fixture
def compose() -> Any:
    return yaml.safe_load((CONTAINER / "compose.yaml").read_text())


@pytest.fixture
def manifest() -> dict[str, Any]:
    """The objects of the manifest by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((CONTAINER / "kubernetes.yaml").read_text())}


@pytest.fixture
def pod(manifest: dict[str, Any]) -> Any:
    return manifest["StatefulSet"]["spec"]["template"]["spec"]


@pytest.fixture
def container(pod: Any) -> Any:
    [found] = pod["containers"]
    return found


def check_settings(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> settings.Settings:
    """Load the settings of an environment in addition to the image's. Fails for a variable that is none of them."""
    of_image = dict(re.findall(r"(RUNTIMED_\w+)=(\S+)", DOCKERFILE))
    for name, value in {**of_image, **environment}.items():
        monkeypatch.setenv(name, value)
    assert [name for name in settings.unknown_variables() if name in {**of_image, **environment}] == []
    return settings.load({}, None)


def check_drain(loaded: settings.Settings, grace_s: float) -> None:
    """Check that runs may go on for a while, and that the daemon has ended before it is killed."""
    assert loaded.drain_s > 0
    assert loaded.drain_s + loaded.drain_timeout_s + ENDING_S < grace_s


def test_the_services_of_compose_set_what_the_daemon_knows(compose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service = compose["services"]["runtimed"]

    loaded = check_settings(service["environment"], monkeypatch)

    assert loaded.listen == (f"0.0.0.0:{PORT}",)
    assert loaded.insecure_listen
    assert loaded.allow_host == ("runtimed",)
    assert str(loaded.store_path).startswith(VOLUME)


def test_runs_can_finish_before_compose_kills_the_daemon(compose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service = compose["services"]["runtimed"]

    check_drain(check_settings(service["environment"], monkeypatch), float(service["stop_grace_period"].rstrip("s")))


def test_runs_can_finish_before_kubernetes_kills_the_pod(
    pod: Any, container: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {one["name"]: one["value"] for one in container["env"]}

    check_drain(check_settings(environment, monkeypatch), pod["terminationGracePeriodSeconds"])


def test_compose_builds_the_dockerfile_and_keeps_the_volume_of_the_image(compose: Any) -> None:
    service = compose["services"]["runtimed"]

    assert (CONTAINER / service["build"]["context"] / service["build"]["dockerfile"]).samefile(
        CONTAINER / "Dockerfile"
    )
    [volume] = service["volumes"]
    assert volume.partition(":")[2] == VOLUME
    assert volume.partition(":")[0] in compose["volumes"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


def test_only_nginx_of_compose_publishes_a_port_and_it_waits_for_a_healthy_daemon(compose: Any) -> None:
    services = compose["services"]

    assert {name for name, service in services.items() if "ports" in service} == {"nginx"}
    assert services["nginx"]["depends_on"] == {"runtimed": {"condition": "service_healthy"}}
    mounted = [volume.split(":")[1] for volume in services["nginx"]["volumes"]]
    configuration = (CONTAINER / "nginx.conf").read_text()
    assert all(path in configuration for path in mounted[1:])


def test_nginx_of_compose_is_configured_as_the_page_on_proxies_shows() -> None:
    path = DOCS / "how-to" / "proxy.md"
    shown = Page(path, path.read_text()).blocks("nginx")[0]

    configuration = (CONTAINER / "nginx.conf").read_text().partition("\n")[2]

    assert configuration == shown.replace(f"http://127.0.0.1:{PORT}", f"http://runtimed:{PORT}")


def test_the_settings_of_the_manifest_are_valid(
    manifest: dict[str, Any], container: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(manifest["ConfigMap"]["data"]["config.toml"])
    environment = {one["name"]: one["value"] for one in container["env"]}

    check_settings(environment, monkeypatch)
    loaded = settings.load({}, str(file))

    assert loaded.sandbox["mode"] == "required"
    assert loaded.insecure_listen


def test_the_image_has_the_version_as_its_tag() -> None:
    files = (CONTAINER / "kubernetes.yaml", DOCS / "how-to" / "containers.md")

    tags = {file.name: set(re.findall(r"\bruntimed:(\d[\w.-]*)", file.read_text())) for file in files}

    assert tags == {file.name: {__version__} for file in files}


def test_the_page_gives_the_token_and_a_secret_by_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(DOCS / "how-to" / "containers.md", (DOCS / "how-to" / "containers.md").read_text())
    [variables], [configuration] = page.blocks("yaml"), page.blocks("toml")
    names = [one["name"] for one in yaml.safe_load(variables)["env"] if one["valueFrom"]["secretKeyRef"]["key"]]
    file = tmp_path / "config.toml"
    file.write_text(configuration)
    values = {name: f"the-value-of-{name}" for name in names}

    check_settings(values, monkeypatch)
    loaded = settings.load({}, str(file))

    assert str(loaded.token) == values["RUNTIMED_TOKEN"]
    [secret] = loaded.host_resources().secrets.values()
    assert secret.env in values


@pytest.mark.skipif(os.geteuid() != 0, reason="the files of a volume belong to root")
def test_files_of_a_secret_that_is_mounted_are_a_key_of_tls_and_no_token(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = authority.issue("mounted")
    folder, version = tmp_path / "volume", "..2026_11_30_10_00_00.1"
    (folder / version).mkdir(parents=True)
    (folder / "..data").symlink_to(version)
    for name, text in (("crt", issued.cert.read_text()), ("key", issued.key.read_text()), ("token", "a-token-" * 4)):
        (folder / version / name).write_text(text)
        (folder / version / name).chmod(0o440)
        (folder / name).symlink_to(Path("..data") / name)

    monkeypatch.setattr("runtimed.http.server.tls_context.geteuid", lambda: USER)
    monkeypatch.setattr("os.geteuid", lambda: USER)

    TlsContext(TlsFiles(folder / "crt", folder / "key"))

    for file in (folder / "token", (folder / "token").resolve()):
        with pytest.raises(TokenFileError, match="not a symlink"):
            read_token(file)


def test_probes_service_and_port_of_the_manifest_name_the_port_of_the_image(
    manifest: dict[str, Any], container: Any
) -> None:
    [port] = container["ports"]
    [served] = manifest["Service"]["spec"]["ports"]
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}

    assert port == {"name": "http", "containerPort": PORT}
    assert f"EXPOSE {PORT}\n" in DOCKERFILE
    assert (served["port"], served["targetPort"]) == (PORT, port["name"])
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} == {port["name"]}


def test_the_manifest_runs_one_pod_as_the_user_of_the_image_with_its_volume(
    manifest: dict[str, Any], pod: Any, container: Any
) -> None:
    stateful = manifest["StatefulSet"]["spec"]
    [claim] = stateful["volumeClaimTemplates"]
    names = {volume["name"] for volume in pod["volumes"]} | {claim["metadata"]["name"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    user, group = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[0]

    assert stateful["replicas"] == 1
    assert mounts.keys() == names
    assert mounts[claim["metadata"]["name"]] == VOLUME
    security = pod["securityContext"]
    assert (str(security["runAsUser"]), str(security["runAsGroup"])) == (user, group)
    assert security["fsGroup"] == security["runAsGroup"]
    labels = stateful["template"]["metadata"]["labels"]
    assert stateful["selector"]["matchLabels"] == manifest["Service"]["spec"]["selector"] == labels
    assert stateful["serviceName"] == manifest["Service"]["metadata"]["name"]


def test_the_pod_drains_before_it_ends_and_gives_no_privilege(pod: Any, container: Any) -> None:
    security = container["securityContext"]

    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["runtimectl", "drain", "--wait"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["procMount"] == "Unmasked"
    assert pod["hostUsers"] is False
