"""Interface section 5: Workers work in the folders and repositories that the host gives them."""

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon.conftest import Answer, Daemon, Launch, Until

SHELL = {"kind": "builtin", "value": "builtin:shell"}
OWN = ("user.name=tester", "user.email=tester@example.org", "init.defaultBranch=main", "safe.directory=*")
GIT = ("git", *(word for setting in OWN for word in ("-c", setting)))
COMMIT = "git -c user.name=agent -c user.email=agent@example.org commit -q"
DELETED = 204


def git(folder: Path, *args: str, stdin: bytes = b"") -> str:
    done = subprocess.run([*GIT, *args], cwd=folder, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, (args, done.stderr)
    return done.stdout.decode().removesuffix("\n")


def make_repository(folder: Path) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "README").write_text("first line\nsecond line\n")
    (folder / ".gitignore").write_text("ignored/\n")
    (folder / "image.bin").write_bytes(bytes(range(256)))
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "source" / "repository")


@pytest.fixture
def configured(launch: Launch, tmp_path: Path, repository: Path) -> Launch:
    """Start a daemon that knows `repository` in each mode, and `source` as a root; by `again` on the same store."""
    tables = "\n".join(
        f'[workspaces."repo:{mode}"]\npath = "{repository}"\nmode = "{mode}"\n'
        for mode in ("shared", "worktree", "clone", "copy")
    )
    file = tmp_path / "workspaces.toml"
    file.write_text(f'workspace_roots = ["{repository.parent}"]\n{tables}')

    def start(store: str = f"fs:{tmp_path / 'store'}", *, readonly: str = "", **given: Any) -> Daemon:
        if readonly:
            file.write_text(f'{file.read_text()}[sandbox]\nreadonly = ["{readonly}"]\n')
        return launch("--config", str(file), store=store, **given).ready()

    return start


def create(daemon: Daemon, *refs: tuple[str, str]) -> dict[str, Any]:
    """A shell with workspaces, whatever becomes of its spawn."""
    request = {
        "profile": SHELL,
        "requested_capabilities": [{"name": "shell"}],
        "workspace_refs": [{"name": name, "reference": reference} for name, reference in refs],
    }
    found: dict[str, Any] = daemon.call("POST", "/v1/workers", request).ok("worker", "WorkerDetail")
    return found


def shell(daemon: Daemon, *refs: tuple[str, str]) -> str:
    worker = create(daemon, *refs)
    assert worker["execution"]["run_state"] == "idle", worker["execution"]
    return str(worker["worker_id"])


def refusal(daemon: Daemon, *refs: tuple[str, str]) -> str:
    """Why a Worker with these workspaces is rejected."""
    execution = create(daemon, *refs)["execution"]
    assert (execution["run_state"], execution["last_result"]["outcome"]) == ("rejected", "rejected"), execution
    return str(execution["last_result"]["message"])


def said(daemon: Daemon, worker_id: str, script: str) -> str:
    """What a script prints."""
    events = daemon.run(worker_id, script)
    payloads = [event["payload"] for event in events]
    return "".join(one["data"]["text"] for one in payloads if one["event"] == "text_done")


def listed(daemon: Daemon, worker_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.call("GET", f"/v1/workers/{worker_id}/workspaces").ok("workspaces")
    return found


def diff(daemon: Daemon, worker_id: str, name: str = "cwd") -> bytes:
    answer = daemon.call("GET", f"/v1/workers/{worker_id}/workspaces/{name}/diff")
    assert answer.status == 200, answer.body
    assert answer.header("Content-Type") == "text/x-diff"
    assert answer.header("X-Diff-Truncated") == "0"
    return bytes(answer.body)


def stop(daemon: Daemon, worker_id: str) -> None:
    daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")


def delete(daemon: Daemon, worker_id: str, query: str = "") -> Answer:
    return daemon.call("DELETE", f"/v1/workers/{worker_id}{query}")


def test_a_shell_works_in_the_folder_that_its_client_names(configured: Launch, repository: Path) -> None:
    daemon = configured()
    inner = repository / "inner"
    inner.mkdir()

    worker_id = shell(daemon, ("docs", f"dir:{inner}"), ("cwd", f"dir:{repository}"), ("m-1 é", f"dir:{inner}"))

    assert said(daemon, worker_id, "pwd; env | grep ^RUNTIMED_WORKSPACE | sort") == (
        f"{repository}\nRUNTIMED_WORKSPACE_DOCS={inner}\nRUNTIMED_WORKSPACE_M_1__={inner}\n"
    )
    first, second, third = listed(daemon, worker_id)
    head = git(repository, "rev-parse", "HEAD")
    assert first["name"] == "docs"
    assert third["name"] == "m-1 é"
    assert second == {
        "name": "cwd", "mode": "shared", "writable": True, "branch": "main", "base": head, "ahead": 0, "dirty": False
    }  # fmt: skip


def test_a_program_that_speaks_lines_works_in_its_workspace_too(
    launch: Launch, tmp_path: Path, repository: Path
) -> None:
    file = tmp_path / "programs.toml"
    end = '{"event":"run_end","data":{"result":"finished"}}'
    script = f"while read -r line; do pwd; echo \"$RUNTIMED_WORKSPACE_B\"; echo '{end}'; done"
    profile = f"backend = \"process\"\ncommand = ['sh', '-c', {json.dumps(script)}]\n"
    mapped = f'workspaces = {{ "mine:b" = "{tmp_path}" }}\n'
    known = f'[workspaces."repo:shared"]\npath = "{repository}"\n'
    file.write_text(f'[profiles."builtin:lines"]\n{profile}{mapped}{known}')
    daemon = launch("--config", str(file)).ready()
    refs = [{"name": "b", "reference": "mine:b"}, {"name": "cwd", "reference": "repo:shared"}]

    worker_id = daemon.create(profile={"kind": "builtin", "value": "builtin:lines"}, workspace_refs=refs)

    assert said(daemon, worker_id, "go") == f"{repository}\n{tmp_path}\n"


def test_without_a_workspace_named_cwd_programs_start_in_the_first(configured: Launch, repository: Path) -> None:
    daemon = configured()

    worker_id = shell(daemon, ("source", "repo:shared"), ("other", f"dir:{repository}"))

    assert said(daemon, worker_id, 'pwd; echo "$RUNTIMED_WORKSPACE_OTHER"') == f"{repository}\n{repository}\n"


def test_a_workspace_that_the_host_does_not_know_is_rejected_and_named(
    configured: Launch, tmp_path: Path, repository: Path, launch: Launch
) -> None:
    daemon = configured()
    root = repository.parent
    (root / "out").symlink_to(tmp_path)
    (root / "link").symlink_to(repository.name)
    (root / "file").write_text("")
    outside = ("/", str(tmp_path), f"{root}/..", f"{root}/out", f"{root}/out/source", f"{root}/gone", f"{root}/file")

    assert 'add [workspaces."repo:nope"]' in refusal(daemon, ("cwd", "repo:nope"))
    for path in (*outside, "relative", f"{root}-sibling"):
        message = refusal(daemon, ("cwd", f"dir:{path}"))
        assert "workspace_roots" in message or "absolute path" in message
    assert "same variable RUNTIMED_WORKSPACE_A_B" in refusal(daemon, ("a-b", "repo:copy"), ("a b", "repo:copy"))
    assert said(daemon, shell(daemon, ("cwd", f"dir:{root}/link")), "pwd -P") == f"{repository}\n"
    assert [*(tmp_path / "store" / "workspaces").glob("*.json")] == [
        tmp_path / "store" / "workspaces" / f"{daemon.workers()[-1]['worker_id']}.json"
    ]
    echo = daemon.create(workspace_refs=[{"name": "cwd", "reference": "repo:nope"}])
    assert daemon.worker(echo)["execution"]["run_state"] == "idle"
    assert listed(daemon, echo) == []
    daemon.stop()
    rootless = launch().ready()
    assert "this daemon has no workspace_roots" in refusal(rootless, ("cwd", f"dir:{root}"))


def test_two_agents_work_in_one_repository_at_once_and_their_diffs_do_not_mix(
    configured: Launch, repository: Path, tmp_path: Path, until: Until
) -> None:
    daemon = configured()
    work = (
        "sed -i s/second/{0}/ README; echo new {0} > 'new {0}.txt'; ln -s README link; chmod +x image.bin;"
        "printf '\\0{0}\\0' > binary; mkdir -p ignored; echo no > ignored/file; git add README;"
        f"{COMMIT} -m {{0}}; echo uncommitted {{0}} >> README; rm .gitignore; git checkout -q HEAD -- .gitignore"
    )
    workers = {name: shell(daemon, ("cwd", f"repo:{mode}")) for name, mode in (("one", "worktree"), ("two", "clone"))}
    for name, worker_id in workers.items():
        daemon.input(worker_id, work.format(name))
    until(lambda: not daemon.busy_workers())

    for name, worker_id in workers.items():
        patch = diff(daemon, worker_id)
        other = ({*workers} - {name}).pop()
        assert other.encode() not in patch
        assert b"ignored/file" not in patch
        applied = tmp_path / f"applied-{name}"
        git(tmp_path, "clone", "-q", str(repository), str(applied))
        git(applied, "apply", "--index", stdin=patch)
        assert (applied / "README").read_text() == f"first line\n{name} line\nuncommitted {name}\n"
        assert (applied / f"new {name}.txt").read_text() == f"new {name}\n"
        assert (applied / "binary").read_bytes() == b"\0" + name.encode() + b"\0"
        assert (applied / "link").readlink() == Path("README")
        assert os.access(applied / "image.bin", os.X_OK)
        (found,) = listed(daemon, worker_id)
        assert (found["branch"], found["ahead"], found["dirty"]) == (f"runtimed/{worker_id}", 1, True)
        assert found["base"] == git(repository, "rev-parse", "main")
        assert git(repository, "log", "-1", "--format=%s", f"runtimed/{worker_id}") == name
        assert delete(daemon, worker_id).refused(409, "worker_running")
        stop(daemon, worker_id)
        assert "cwd" in delete(daemon, worker_id).refused(409, "workspace_dirty")
        assert diff(daemon, worker_id) == patch
        assert delete(daemon, worker_id, "?force=maybe").refused(400, "invalid_query")
        assert delete(daemon, worker_id, "?force=true").status == DELETED
    until(lambda: len(git(repository, "worktree", "list").splitlines()) == 1)
    assert git(repository, "for-each-ref", "--format=%(refname:short)", "refs/heads").splitlines() == [
        "main",
        *(f"runtimed/{worker_id}" for worker_id in workers.values()),
    ]
    assert git(repository, "status", "--porcelain") == ""


def test_a_worker_with_nothing_unsaved_is_deleted_without_force(
    configured: Launch, repository: Path, until: Until
) -> None:
    daemon = configured()
    for mode in ("shared", "worktree", "clone", "copy"):
        worker_id = shell(daemon, ("cwd", f"repo:{mode}"))
        daemon.run(worker_id, "mkdir -p ignored; echo built > ignored/output")
        stop(daemon, worker_id)

        assert delete(daemon, worker_id).status == DELETED, mode

    assert (repository / "ignored" / "output").exists()
    until(lambda: not entries(repository / ".git" / "worktrees"))
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def entries(folder: Path) -> list[str]:
    """What is in a folder; nothing if it is gone."""
    try:
        return os.listdir(folder)  # noqa: PTH208
    except FileNotFoundError:
        return []


UNSAVED = (
    ("worktree", f"git checkout -q --detach; echo x >> README; {COMMIT} -a -m detached"),
    ("worktree", "rm .git; git init -q"),
    ("worktree", "git update-index --assume-unchanged README; echo x >> README"),
    ("worktree", "git update-index --skip-worktree README; echo x >> README"),
    ("clone", f"git checkout -q -b aside; echo x >> README; {COMMIT} -a -m aside"),
    ("clone", "echo x >> README; git -c user.name=a -c user.email=a@b stash -q"),
    ("copy", "echo x >> README"),
    ("copy", f"git checkout -q -b aside; echo x >> README; {COMMIT} -a -m aside; git checkout -q -"),
    ("copy", f"git init -q inner; cd inner; echo x > x; git add x; {COMMIT} -m inner"),
)
"""Scripts after which a workspace of a mode has work that no branch of the repository has."""


def test_work_that_no_branch_of_the_repository_has_is_not_thrown_away(configured: Launch) -> None:
    daemon = configured()
    for mode, script in UNSAVED:
        worker_id = shell(daemon, ("cwd", f"repo:{mode}"))
        daemon.run(worker_id, script)
        stop(daemon, worker_id)

        delete(daemon, worker_id).refused(409, "workspace_dirty")
        assert delete(daemon, worker_id, "?force=true").status == DELETED
        assert daemon.call("GET", f"/v1/workers/{worker_id}").status == 404


def test_workspaces_and_what_was_changed_outlive_a_kill_and_a_restart(
    configured: Launch, repository: Path, until: Until
) -> None:
    daemon = configured()
    workers = [shell(daemon, ("cwd", f"repo:{mode}")) for mode in ("worktree", "clone", "copy")]
    for worker_id in workers:
        daemon.run(worker_id, f"echo kept >> README; git add README; {COMMIT} -m kept; echo later > later")
    before = [(listed(daemon, worker_id), diff(daemon, worker_id)) for worker_id in workers]
    worktrees = repository / ".git" / "worktrees"
    (entry,) = worktrees.iterdir()
    daemon.kill()
    (entry / "index.lock").write_text("")
    (repository / ".git" / "refs" / "heads" / "runtimed" / f"{workers[0]}.lock").write_text("")
    foreign = repository / ".git" / "index.lock"
    foreign.write_text("")

    daemon = configured()

    assert [(listed(daemon, worker_id), diff(daemon, worker_id)) for worker_id in workers] == before
    for worker_id in workers:
        assert said(daemon, worker_id, f"git add later && {COMMIT} -m later && git log -1 --format=%s").endswith(
            "later\n"
        )
    assert foreign.exists()
    assert git(repository, "log", "-1", "--format=%s", f"runtimed/{workers[0]}") == "later"
    assert git(repository, "log", "-1", "--format=%s", f"runtimed/{workers[1]}") == "later"


def test_a_kill_in_the_middle_of_a_preparation_leaves_no_half_worktree(
    configured: Launch, repository: Path, tmp_path: Path, until: Until
) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    real = shutil.which("git")
    (slow / "git").write_text(
        f'#!/bin/sh\ncase "$*" in *"worktree add"*) "{real}" "$@"; touch "$GIT_DIR/half"; exec sleep 600;; esac\n'
        f'exec "{real}" "$@"\n'
    )
    (slow / "git").chmod(0o755)
    daemon = configured(env={"PATH": f"{slow}:{os.environ['PATH']}"})
    request = {
        "profile": SHELL,
        "requested_capabilities": [{"name": "shell"}],
        "workspace_refs": [{"name": "cwd", "reference": "repo:worktree"}],
    }
    head = daemon.head(
        "POST /v1/workers HTTP/1.1",
        "Content-Type: application/json",
        f"Content-Length: {len(json.dumps(request))}",
    )
    with socket.create_connection(daemon.address) as connection:
        connection.sendall(head + json.dumps(request).encode())
        until((repository / ".git" / "half").exists)
        daemon.process.send_signal(signal.SIGKILL)
        daemon.ended()
    assert len(git(repository, "worktree", "list").splitlines()) == 2

    daemon = configured()

    until(lambda: len(git(repository, "worktree", "list").splitlines()) == 1)
    assert git(repository, "branch", "--list", "runtimed/*") == ""
    (worker,) = daemon.workers()
    worker_id = worker["worker_id"]
    assert said(daemon, worker_id, "git branch --show-current") == f"runtimed/{worker_id}\n"
    stop(daemon, worker_id)
    assert delete(daemon, worker_id).status == DELETED


def test_a_spawn_that_fails_leaves_nothing_in_the_repository(
    launch: Launch, tmp_path: Path, repository: Path, until: Until
) -> None:
    file = tmp_path / "failing.toml"
    file.write_text(
        f'[profiles."builtin:gone"]\nbackend = "process"\ncommand = ["no-such-program-at-all"]\n'
        f'[workspaces."repo:w"]\npath = "{repository}"\nmode = "worktree"\n'
        f'[workspaces."repo:none"]\npath = "{repository}"\nmode = "clone"\nref = "no-such-branch"\n'
        f'[workspaces."repo:read"]\npath = "{repository}"\nwritable = false\n'
    )
    daemon = launch("--config", str(file)).ready()
    refs = [{"name": "a", "reference": "repo:w"}, {"name": "b", "reference": "repo:w"}]

    worker_id = daemon.create(profile={"kind": "builtin", "value": "builtin:gone"}, workspace_refs=refs)
    missing = create(daemon, ("a", "repo:w"), ("cwd", "repo:none"))["execution"]

    assert daemon.worker(worker_id)["execution"]["run_state"] == "errored"
    assert missing["last_result"]["message"] == "workspace cwd: its repository has no such commit"
    assert "writable = false" in refusal(daemon, ("cwd", "repo:read"))
    assert git(repository, "branch", "--list", "runtimed/*") == ""
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_branch_that_is_there_is_never_moved(configured: Launch, repository: Path) -> None:
    git(repository, "branch", "runtimed/worker-00000001")
    git(repository, "branch", "runtimed/worker-00000001-2")
    git(repository, "branch", "runtimed/worker-00000002")
    heads = git(repository, "for-each-ref", "refs/heads")
    daemon = configured()
    first, second = shell(daemon, ("cwd", "repo:worktree")), shell(daemon, ("cwd", "repo:clone"))

    for worker_id in (first, second):
        daemon.run(worker_id, f"echo x >> README; {COMMIT} -a -m moved")

    assert [listed(daemon, worker_id)[0]["branch"] for worker_id in (first, second)] == [
        "runtimed/worker-00000001-3",
        "runtimed/worker-00000002-2",
    ]
    after = git(repository, "for-each-ref", "refs/heads")
    assert set(heads.splitlines()) < set(after.splitlines())
    git(repository, "commit", "-q", "--allow-empty", "-m", "by somebody else")
    git(repository, "branch", "-f", "runtimed/worker-00000002-2", "main")
    daemon.run(second, f"echo y >> README; {COMMIT} -a -m again")
    assert listed(daemon, second)[0]["branch"] == "runtimed/worker-00000002-3"
    assert git(repository, "log", "-1", "--format=%s", "runtimed/worker-00000002-2") == "by somebody else"
    assert git(repository, "log", "-1", "--format=%s", "runtimed/worker-00000002-3") == "again"


def test_a_hostile_repository_runs_nothing_and_shows_nothing_of_other_repositories(
    configured: Launch, repository: Path, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f'#!/bin/sh\necho "$0 $*" >> "{tmp_path}/sprung"\ncat\n')
    trap.chmod(0o755)
    hooks = repository / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-commit", "fsmonitor-watchman"):
        (hooks / name).symlink_to(trap)
    (repository / ".gitattributes").write_text("*.txt filter=evil diff=evil\n*.bin filter=a.b diff=evil\n")
    (repository / "a.txt").write_text("a\n")
    git(repository, "-c", "core.hooksPath=/dev/null", "add", "-A")
    git(repository, "-c", "core.hooksPath=/dev/null", "commit", "-q", "-m", "traps")
    for driver in ("evil", "a.b"):
        for program in ("clean", "smudge", "process"):
            git(repository, "config", f"filter.{driver}.{program}", str(trap))
        git(repository, "config", f"filter.{driver}.required", "true")
    for name, value in {
        "core.fsmonitor": str(trap),
        "core.sshCommand": str(trap),
        "core.alternateRefsCommand": str(trap),
        "core.pager": str(trap),
        "diff.external": str(trap),
        "diff.evil.textconv": str(trap),
        "diff.evil.command": str(trap),
        "diff.noprefix": "true",
        "color.ui": "always",
        "url.ext::sh -c {trap}%S .insteadOf": str(repository),
        "protocol.ext.allow": "always",
        "uploadpack.packObjectsHook": str(trap),
        "status.showUntrackedFiles": "no",
    }.items():
        git(repository, "-c", "core.fsmonitor=false", "config", name.replace("{trap}", str(trap)), value)
    secret = make_repository(tmp_path / "secret")
    (secret / "README").write_text("the secret\n")
    pointing = repository.parent / "pointing"
    pointing.mkdir()
    (pointing / ".git").write_text(f"gitdir: {secret / '.git'}\n")
    elsewhere = make_repository(repository.parent / "elsewhere")
    git(elsewhere, "config", "core.worktree", str(secret))
    daemon = configured(env={"GIT_DIR": str(secret / ".git"), "GIT_TRACE": str(tmp_path / "sprung")})

    for mode in ("shared", "worktree", "clone"):
        worker_id = shell(daemon, ("cwd", f"repo:{mode}"))
        folder = Path(said(daemon, worker_id, "pwd -P").strip())
        (folder / f"{mode}.txt").write_text("changed\n")
        (folder / "a.txt").write_text("changed\n")
        assert listed(daemon, worker_id)[0]["dirty"] is True
        assert b"+++ b/a.txt\n" in diff(daemon, worker_id)
        stop(daemon, worker_id)
        if mode != "shared":
            delete(daemon, worker_id).refused(409, "workspace_dirty")
    for folder in (pointing, elsewhere):
        worker_id = shell(daemon, ("cwd", f"dir:{folder}"))
        assert listed(daemon, worker_id) == [{"name": "cwd", "mode": "shared", "writable": True}]
        path = f"/v1/workers/{worker_id}/workspaces/cwd/diff"
        assert "no git repository" in daemon.call("GET", path).refused(409, "workspace_unavailable")

    assert not (tmp_path / "sprung").exists(), (tmp_path / "sprung").read_text()


def test_a_submodule_with_work_of_its_own_is_not_thrown_away(
    configured: Launch, repository: Path, tmp_path: Path
) -> None:
    library = make_repository(tmp_path / "library")
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "library")
    git(repository, "commit", "-q", "-m", "library")
    daemon = configured(readonly=str(library))
    worker_id = shell(daemon, ("cwd", "repo:worktree"))
    fetch = (
        "git config --global safe.directory '*'; git -c protocol.file.allow=always submodule --quiet update --init"
    )

    daemon.run(worker_id, f"{fetch}; echo x >> library/README")
    stop(daemon, worker_id)

    delete(daemon, worker_id).refused(409, "workspace_dirty")
    clean = shell(daemon, ("cwd", "repo:worktree"))
    daemon.run(clean, fetch)
    stop(daemon, clean)
    assert delete(daemon, clean).status == DELETED


def test_a_copy_follows_no_link_and_shares_no_repository_and_no_lock(
    configured: Launch, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("outside\n")
    (repository / "out").symlink_to(tmp_path / "outside")
    os.mkfifo(repository / "pipe")
    (repository / ".git" / "index.lock").touch()
    daemon = configured()

    worker_id = shell(daemon, ("cwd", "repo:copy"))
    (repository / ".git" / "index.lock").unlink()
    script = f"rm -r out; echo mine > mine; git add -A; {COMMIT} -m mine; echo changed > README"
    printed = said(daemon, worker_id, script)

    assert printed == ""
    assert (tmp_path / "outside" / "file").read_text() == "outside\n"
    assert (repository / "README").read_text() == "first line\nsecond line\n"
    assert git(repository, "log", "--format=%s") == "first"
    assert listed(daemon, worker_id) == [{"name": "cwd", "mode": "copy", "writable": True, "dirty": True}]
    patch = diff(daemon, worker_id)
    assert b"deleted file mode 120000" in patch
    assert b"+changed\n" in patch


def test_the_patch_of_a_folder_inside_of_a_repository_is_applied_from_the_top_and_from_the_folder(
    configured: Launch, repository: Path, tmp_path: Path
) -> None:
    inner = repository / "inner"
    inner.mkdir()
    (inner / "file").write_text("before\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "inner")
    clones = [tmp_path / "top", tmp_path / "folder"]
    for clone in clones:
        git(tmp_path, "clone", "-q", str(repository), str(clone))
    daemon = configured()
    worker_id = shell(daemon, ("cwd", f"dir:{inner}"))
    daemon.run(worker_id, "echo after > file; echo new > new; echo outside > ../README")

    patch = diff(daemon, worker_id)

    git(clones[0], "apply", stdin=patch)
    git(clones[1] / "inner", "apply", stdin=patch)
    for clone in clones:
        assert (clone / "inner" / "file").read_text() == "after\n"
        assert git(clone, "status", "--porcelain").splitlines() == [" M inner/file", "?? inner/new"]


def test_a_patch_leaves_out_whole_files_above_its_limit_and_counts_them(configured: Launch, until: Until) -> None:
    daemon = configured()
    worker_id = shell(daemon, ("cwd", "repo:worktree"))
    daemon.run(
        worker_id,
        "head -c 9000000 /dev/urandom > random; truncate -s 70M sparse; head -c 9000000 /dev/urandom >> image.bin;"
        "truncate -s 70M README; echo small > small; echo small > zzz",
    )

    answer = daemon.call("GET", f"/v1/workers/{worker_id}/workspaces/cwd/diff")

    assert answer.header("X-Diff-Truncated") == "4"
    assert [line for line in answer.body.splitlines() if line.startswith(b"diff --git")] == [
        b"diff --git a/small b/small",
        b"diff --git a/zzz b/zzz",
    ]


def test_a_workspace_that_is_unknown_or_gone_is_an_error_of_its_own(configured: Launch, repository: Path) -> None:
    daemon = configured()
    worker_id = shell(daemon, ("cwd", "repo:worktree"))
    path = f"/v1/workers/{worker_id}/workspaces"

    assert "nope" in daemon.call("GET", f"{path}/nope/diff").refused(404, "workspace_not_found")
    assert daemon.call("GET", f"/v1/workers/{daemon.unknown_worker()}/workspaces").refused(404, "worker_not_found")
    shutil.rmtree(said(daemon, worker_id, "pwd -P").strip())
    assert daemon.call("GET", f"{path}/cwd/diff").refused(409, "workspace_unavailable")
    stop(daemon, worker_id)
    assert delete(daemon, worker_id).status == DELETED


def test_a_daemon_in_memory_leaves_unsaved_work_behind_and_nothing_else(
    configured: Launch, repository: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    daemon = configured("memory", env={"TMPDIR": str(scratch)})
    saved, unsaved = (shell(daemon, ("cwd", f"repo:{mode}")) for mode in ("clone", "worktree"))
    daemon.run(saved, f"echo x >> README; {COMMIT} -a -m saved")
    daemon.run(unsaved, "echo precious > precious")

    daemon.stop()

    (kept,) = scratch.glob("*/workers/*")
    (worktree,) = (kept / "workspaces").iterdir()
    assert kept.name == unsaved
    assert (worktree / "precious").read_text() == "precious\n"
    assert git(worktree, "status", "--porcelain") == "?? precious"
    assert str(kept) in daemon.errors
    assert git(repository, "log", "-1", "--format=%s", f"runtimed/{saved}") == "saved"
