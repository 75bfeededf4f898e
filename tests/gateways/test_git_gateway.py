import os
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import attrs
import pytest
from aiohttp import ClientSession
from yarl import URL

from runtimed.execution.confinement.secrets import Secrets
from runtimed.execution.policy import GitPolicy, Secret
from runtimed.gateways.git_gateway import GitGatewayService
from runtimed.gateways.git_rules import KEY_HEADER, check_git_policy, git_environment
from runtimed.gateways.upstreams import Upstreams
from tests.gateways.conftest import client, serve, serving
from tests.gateways.remotes import Remotes, git

PASSWORD = "Basic dXNlcjpyZWFsLXBhc3N3b3Jk"
LARGE = 3 * 2**20
"""More than git holds in memory: it sends a push of this size in chunks."""


def write(file: Path, size: int) -> str:
    """Write a file that cannot be packed well, and return what is in it."""
    content = os.urandom(size).hex()
    file.write_text(content)
    return content


@pytest.fixture
async def remotes(tmp_path: Path) -> AsyncIterator[Remotes]:
    """A server with the repositories `team/app.git` and `other/app.git`, which have one commit."""
    (tmp_path / "remotes").mkdir()
    made = Remotes(tmp_path / "remotes")
    await made.add("team", "other")
    async with serving(made.answer) as url:
        made.url = url
        yield made


@attrs.define
class Worker:
    """The Git of a Worker that has a gateway."""

    folder: Path
    env: dict[str, str]
    url: str
    service: GitGatewayService
    session: ClientSession

    async def git(self, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        return await git(self.folder, *arguments, env={**self.env, **(env or {})})

    async def clone(self, url: str) -> Path:
        status, said = await self.git("clone", "-q", url, "clone")
        assert status == 0, said
        return self.folder / "clone"

    async def ask(self, method: str, path: str, **headers: str) -> tuple[int, str]:
        shown = {KEY_HEADER: self.service.key, **headers}
        async with self.session.request(method, URL(self.url + path, encoded=True), headers=shown) as response:
            return response.status, await response.text()


@pytest.fixture
async def worker(remotes: Remotes, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Worker]:
    """A Worker with the policies of the parameter, in which SERVER stands for the URL of the server."""
    given = getattr(request, "param", [GitPolicy(("SERVER/team/*",), push=True)])
    policies = [
        attrs.evolve(policy, remotes=tuple(remote.replace("SERVER", remotes.url) for remote in policy.remotes))
        for policy in given
    ]
    upstreams = Upstreams()
    secrets = Secrets({"git": Secret(env="GIT")}, {"GIT": PASSWORD.removeprefix("Basic ")})
    service = GitGatewayService(policies, secrets, upstreams)
    url = await serve(service)
    (tmp_path / "worker").mkdir()
    async with client() as session:
        yield Worker(tmp_path / "worker", git_environment(url, service.key, policies), url, service, session)
    await service.close()
    await upstreams.close()


async def test_a_worker_clones_commits_and_pushes_with_the_url_of_the_remote(
    worker: Worker, remotes: Remotes
) -> None:
    clone = str(await worker.clone(f"{remotes.url}/team/app.git"))
    content = write(Path(clone) / "large", LARGE)

    for command in (
        ("-C", clone, "checkout", "-q", "-b", "topic"),
        ("-C", clone, "add", "."),
        ("-C", clone, "commit", "-q", "-m", "of the worker"),
        ("-C", clone, "push", "-q", "origin", "topic"),
        ("-C", clone, "fetch", "-q", "origin", "topic"),
    ):
        status, said = await worker.git(*command)
        assert status == 0, said

    _, subjects = await git(remotes.folder / "team" / "app.git", "log", "--format=%s", "topic")
    assert subjects.split("\n")[:2] == ["of the worker", "of team"]
    _, pushed = await git(remotes.folder / "team" / "app.git", "show", "topic:large")
    assert pushed == content
    assert "POST /team/app.git/git-receive-pack" in [line for line, _ in remotes.seen]
    assert {headers.get("Git-Protocol") for line, headers in remotes.seen if "upload-pack" in line} == {"version=2"}
    assert KEY_HEADER not in str(remotes.seen)
    assert worker.service.key not in str(remotes.seen)


@pytest.mark.parametrize("worker", [[GitPolicy(("SERVER/team/*",))]], indirect=True)
async def test_a_push_is_refused_where_only_fetching_is_allowed(worker: Worker, remotes: Remotes) -> None:
    clone = str(await worker.clone(f"{remotes.url}/team/app"))
    await worker.git("-C", clone, "commit", "-q", "--allow-empty", "-m", "a")

    status, said = await worker.git("-C", clone, "push", "origin", "main")

    assert status != 0
    assert "this Worker may fetch from this remote, but not push to it" in said
    assert not [line for line, _ in remotes.seen if "receive-pack" in line]
    for method, path in (("GET", "info/refs?service=git-receive-pack"), ("POST", "git-receive-pack")):
        answered, _ = await worker.ask(method, f"/http/{URL(remotes.url).authority}/team/app.git/{path}")
        assert answered == 403
    assert not [line for line, _ in remotes.seen if "receive-pack" in line]


async def test_another_repository_of_the_same_server_is_refused_and_the_allowed_ones_are_named(
    worker: Worker, remotes: Remotes
) -> None:
    status, said = await worker.git("clone", "-q", f"{remotes.url}/other/app.git")

    assert status != 0
    assert f"this Worker may not use this remote, only: {remotes.url}/team/*" in said
    assert not remotes.seen


@pytest.mark.parametrize(
    "worker",
    [[GitPolicy(("SERVER/team/*",)), GitPolicy(("SERVER/other/app.git",), push=True)]],
    indirect=True,
)
async def test_each_policy_holds_for_its_own_remotes(worker: Worker, remotes: Remotes) -> None:
    place = f"/http/{URL(remotes.url).authority}"
    asked = {
        path: (await worker.ask("GET", f"{place}/{path}/info/refs?service=git-receive-pack"))[0]
        for path in ("team/app", "other/app", "other/app.git", "other/app2")
    }

    assert asked == {"team/app": 403, "other/app": 200, "other/app.git": 200, "other/app2": 403}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/http/HOST/team/app.git/info/refs"),
        ("GET", "/http/HOST/team/app.git/info/refs?service=git-upload-pack&service=git-receive-pack"),
        ("GET", "/http/HOST/team/app.git/info/refs?service=git-upload-archive"),
        ("POST", "/http/HOST/team/app.git/info/refs?service=git-upload-pack"),
        ("GET", "/http/HOST/team/app.git/git-upload-pack"),
        ("GET", "/http/HOST/team/app.git/HEAD"),
        ("GET", "/http/HOST/team/app.git/objects/info/packs"),
        ("POST", "/http/HOST/team/app.git/info/lfs/objects/batch"),
        ("GET", "/ftp/HOST/team/app.git/info/refs?service=git-upload-pack"),
        ("GET", "/https/HOST/team/app.git/info/refs?service=git-upload-pack"),
        ("GET", "/http/HOST/info/refs?service=git-upload-pack"),
        ("GET", "/"),
    ],
)
async def test_what_git_does_not_send_to_fetch_or_push_is_refused(
    worker: Worker, remotes: Remotes, method: str, path: str
) -> None:
    status, said = await worker.ask(method, path.replace("HOST", URL(remotes.url).authority))

    assert status == 403
    assert said.startswith("runtimed: ")
    assert not remotes.seen


async def test_a_path_with_two_readings_is_refused(worker: Worker, remotes: Remotes) -> None:
    place = f"/http/{URL(remotes.url).authority}/team"

    answers = [
        await worker.ask("GET", f"{place}/{path}/info/refs?service=git-upload-pack")
        for path in ("%2e%2e/other/app.git", "a%2f..%2f..%2fother/app.git", "a//b")
    ]

    assert [status for status, _ in answers] == [400, 400, 400]
    assert not remotes.seen


async def test_without_the_key_of_the_worker_git_is_refused(worker: Worker, remotes: Remotes) -> None:
    env = git_environment(worker.url, "another", [GitPolicy((f"{remotes.url}/team/*",))])

    status, said = await worker.git("clone", "-q", f"{remotes.url}/team/app.git", env=env)

    assert status != 0
    assert f"in the header {KEY_HEADER}" in said
    assert not remotes.seen


@pytest.mark.parametrize(
    "worker", [[GitPolicy(("SERVER/team/*",), headers={"Authorization": "Basic secret:git"})]], indirect=True
)
async def test_the_credentials_of_a_policy_are_added_on_the_way_out(worker: Worker, remotes: Remotes) -> None:
    remotes.password = PASSWORD

    clone = await worker.clone(f"{remotes.url}/team/app.git")
    _, kept = await worker.git("-C", str(clone), "config", "--list")

    assert {headers["Authorization"] for _, headers in remotes.seen} == {PASSWORD}
    assert PASSWORD not in f"{kept} {worker.env}"


async def test_the_credentials_of_the_worker_pass_where_the_policy_has_none(worker: Worker, remotes: Remotes) -> None:
    remotes.password = PASSWORD
    helper = "!f() { echo username=user; echo password=real-password; }; f"

    refused, _ = await worker.git("clone", "-q", f"{remotes.url}/team/app.git")
    status, said = await worker.git("-c", f"credential.helper={helper}", "clone", "-q", f"{remotes.url}/team/app.git")

    assert refused != 0
    assert status == 0, said


@pytest.mark.parametrize("worker", [[GitPolicy(("SERVER/team/*", "SERVER/old/*"))]], indirect=True)
async def test_a_repository_that_was_moved_is_found_behind_the_gateway(worker: Worker, remotes: Remotes) -> None:
    remotes.moved = "yes"

    await worker.clone(f"{remotes.url}/old/app.git")

    assert "POST /team/app.git/git-upload-pack" in [line for line, _ in remotes.seen]


def test_the_variables_for_git_go_on_behind_those_that_are_there() -> None:
    policies = [
        GitPolicy(("https://git.example.com/team/*", "https://git.example.com/b.git")),
        GitPolicy(("https://GITHUB.com:8443/a/*",)),
    ]

    variables = git_environment("http://127.0.0.1:3130", "key", policies, {"GIT_CONFIG_COUNT": "1"})

    assert variables == {
        "GIT_CONFIG_COUNT": "4",
        "GIT_CONFIG_KEY_1": "http.http://127.0.0.1:3130/.extraHeader",
        "GIT_CONFIG_VALUE_1": "X-Runtimed-Key: key",
        "GIT_CONFIG_KEY_2": "url.http://127.0.0.1:3130/https/git.example.com/.insteadOf",
        "GIT_CONFIG_VALUE_2": "https://git.example.com/",
        "GIT_CONFIG_KEY_3": "url.http://127.0.0.1:3130/https/github.com:8443/.insteadOf",
        "GIT_CONFIG_VALUE_3": "https://github.com:8443/",
    }


@pytest.mark.parametrize(
    "remote",
    [
        "",
        "git@git.example.com:team/a",
        "ssh://git.example.com/a",
        "https://*/a",
        "https://a/b?c",
        "https://a",
        "https://u@a/b",
    ],
)
def test_a_remote_that_is_none_is_refused(remote: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"remotes: {remote!r}: expected the URL of a repository")):
        check_git_policy(GitPolicy((remote,)))


def test_a_policy_without_remotes_or_with_a_bad_header_is_refused() -> None:
    with pytest.raises(ValueError, match="remotes: expected at least one"):
        check_git_policy(GitPolicy(()))
    with pytest.raises(ValueError, match=r"headers\.X: expected printable ASCII"):
        check_git_policy(GitPolicy(("https://a/b",), headers={"X": "\n"}))
