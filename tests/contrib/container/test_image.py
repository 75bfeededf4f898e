"""The image of contrib/container: built by its own steps, and started as process 1 in namespaces, as its user."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.contrib.container.dockerfile import UNSHARE, Build, Stage
from tests.distribution.conftest import LEFT_OUT, ROOT

CONTAINER = ROOT / "contrib" / "container"
DEADLINE_S = 60
TOOLS = ("unshare", "nsenter", "setpriv", "pivot_root", "bwrap", "git", "ip", "useradd")
PRIVILEGES = ("setpriv", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
"""What `allowPrivilegeEscalation: false` and `drop: [ALL]` mean."""

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("container"),
    pytest.mark.skipif(os.getuid() != 0, reason="needs root for namespaces"),
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}"),
]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("image")
    context = folder / "context"
    shutil.copytree(ROOT, context, ignore=LEFT_OUT)
    return Build(context, folder).execute((CONTAINER / "Dockerfile").read_text())


def as_user(image: Stage) -> list[str]:
    uid, gid = image.user.split(":")
    return [*PRIVILEGES, f"--reuid={uid}", f"--regid={gid}"]


class Container:
    """The image's entry point as process 1, with a read-only root and a volume."""

    def __init__(self, image: Stage, volume: Path) -> None:
        self._image = image
        started = [*as_user(image), *image.entrypoint]
        command = ["sh", "-euc", 'ip link set lo up; exec "$@"', "up", *image.inside(started, "ro", str(volume))]
        environment = {**image.environment, "RUNTIMED_INSECURE_LISTEN": "true"}
        self.process = subprocess.Popen(
            [*UNSHARE, "--net", *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()
        if not self.ready:
            pytest.fail(self.process.communicate()[1])
        [self.pid] = map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split())

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as an engine's `exec` does."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--ipc", "--uts"]
        return subprocess.run(
            [*enter, "--", *as_user(self._image), *command],
            env=self._image.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def say(self, *command: str) -> str:
        done = self.execute(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def children(self) -> set[str]:
        """The states of the children of process 1."""
        found: set[str] = set()
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            with suppress(OSError):  # it has been reaped meanwhile
                found.add(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        return found

    def end(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.process.communicate(timeout=DEADLINE_S)


@pytest.fixture
def container(image: Stage, tmp_path: Path) -> Iterator[Container]:
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)
    uid, gid = map(int, image.user.split(":"))
    os.chown(volume, uid, gid)
    with closing(Container(image, volume)) as started:
        yield started


def await_true(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.05)


def test_the_image_serves_runs_a_confined_worker_reaps_orphans_and_ends_with_sigterm(
    image: Stage, container: Container
) -> None:
    assert container.ready.startswith("runtimed: listening on http://0.0.0.0:38800 ")
    assert image.ports == [38800]

    healthy = container.execute(*image.health)
    status = json.loads(container.say("runtimectl", "status", "-o", "json"))
    ran = container.say("runtimectl", "run", "--", "sh", "-c", "id -u; (sleep 0.2 & ); echo done")
    profiles = json.loads(container.say("runtimectl", "profiles", "list", "-o", "json"))
    orphaned = container.say("sh", "-c", "(sleep 0.5 & ) ; echo gone")

    assert healthy.returncode == 0, healthy.stderr
    assert status
    assert ran == "10001\ndone\n"
    [shell] = [one for one in profiles["profiles"] if one["selector"] == "builtin:shell"]
    assert shell["sandbox"]["mechanism"] == "bubblewrap"
    assert orphaned == "gone\n"
    await_true(lambda: "Z" not in container.children(), "process 1 reaps its orphans")
    assert container.end() == 0


def test_the_user_of_the_image_can_write_only_to_its_volume_and_to_temporary_folders(image: Stage) -> None:
    search = ["find", "/", "-xdev", "-writable", "-not", "-type", "l"]
    command = [*UNSHARE, *image.inside([*as_user(image), *search])]

    found = subprocess.run(command, env=image.environment, capture_output=True, text=True, timeout=60, check=False)

    assert set(found.stdout.split()) == {"/tmp", "/run/runtimed", *image.volumes}
    assert image.user.split(":")[0] != "0"


def test_the_image_has_no_package_installer_and_no_source(image: Stage) -> None:
    packages = {path.name for path in image.root.glob("opt/runtimed/lib/python3.*/site-packages/*")}

    assert {"runtimed", "runtimectl", "uvloop", "acp"} <= packages
    assert not {"pip", "setuptools"} & packages
    assert not (image.root / "src").exists()


def test_a_build_leaves_out_what_a_clone_does_not_have() -> None:
    left_out = set((CONTAINER / "Dockerfile.dockerignore").read_text().split())

    ignored = {line.strip("/").removesuffix("/") for line in (ROOT / ".gitignore").read_text().split()}

    assert {".git", ".venv*", "build", "dist"} <= left_out
    assert {"*.egg-info", "build", "dist"} <= ignored & left_out


@pytest.mark.parametrize("text", ["FROM debian", "FROM python:3.13-slim\nADD . .", "FROM python:3.9-slim"])
def test_the_interpreter_refuses_what_it_does_not_know(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown"):
        Build(ROOT, tmp_path / "stages").execute(text)
