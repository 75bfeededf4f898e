"""compose.yaml, nginx.conf and kubernetes.yaml of contrib/container: they fit the image and the daemon's settings."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtimed import settings
from tests.distribution.conftest import ROOT
from tests.docs.conftest import DOCS, Page

CONTAINER = ROOT / "contrib" / "container"
DOCKERFILE = (CONTAINER / "Dockerfile").read_text()
PORT = 38800
VOLUME = "/var/lib/runtimed"
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
