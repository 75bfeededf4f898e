"""Workers from the command line, against a real daemon."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.runtimectl.conftest import Ctl, Daemon, NewWorker, ServeRaw, StartCtl, StartDaemon


def test_a_worker_is_created_listed_and_shown_in_every_format(ctl: Ctl, daemon: Daemon) -> None:
    assert ctl("workers", "create", "-o", "name").stdout == "worker-00000001\n"
    heading, row = ctl("workers", "list").stdout.splitlines()
    assert heading.split() == ["WORKER", "STATUS", "RUN", "PROFILE", "INTENT", "ENTRIES", "AGE"]
    *shown, age = row.split()
    assert shown == ["worker-00000001", "running", "idle", "default", "assistant", "0"]
    assert re.fullmatch(r"\d+[sm]", age)
    listed = json.loads(ctl("workers", "list", "-o", "json").stdout)
    assert [worker["worker_id"] for worker in listed["workers"]] == ["worker-00000001"]
    assert json.loads(ctl("workers", "list", "-o", "jsonl").stdout) == listed["workers"][0]
    assert yaml.safe_load(ctl("workers", "list", "-o", "yaml").stdout) == listed
    assert ctl("workers", "list", "-o", "name").stdout == "worker-00000001\n"
    assert "\nLast result    accepted\n" in ctl("workers", "get", "worker-00000001").stdout
    shown = json.loads(ctl("workers", "get", "worker-00000001", "-o", "json").stdout)
    assert shown["worker"]["runtime_id"] == daemon.runtime_id


def test_jsonl_and_name_print_one_line_for_each_worker(ctl: Ctl, new_worker: NewWorker) -> None:
    ids = [new_worker(), new_worker()]
    lines = ctl("workers", "list", "-o", "jsonl").stdout.splitlines()
    assert [json.loads(line)["worker_id"] for line in lines] == ids
    assert ctl("workers", "list", "-o", "name").stdout.split() == ids


def test_a_list_can_be_limited_to_a_status(ctl: Ctl, new_worker: NewWorker) -> None:
    stopped, running = new_worker(), new_worker()
    assert ctl("workers", "stop", stopped).returncode == 0
    assert ctl("workers", "list", "--status", "running", "-o", "name").stdout.split() == [running]
    assert ctl("workers", "list", "--status", "stopped", "-o", "name").stdout.split() == [stopped]


def test_every_option_of_create_reaches_the_runtime(ctl: Ctl, daemon: Daemon) -> None:
    found = ctl(
        *("workers", "create", "--role", "reviewer", "--purpose", "look twice", "--profile", "builtin:echo"),
        *("--capability", "read", "--capability", "write", "--workspace", "src=repo:main", "--mount", "data=mount:d"),
        *("-o", "json"),
    )
    worker = json.loads(found.stdout)["worker"]
    assert worker["intent"] == {"kind": "role", "role": "reviewer", "purpose": "look twice"}
    assert worker["profile"] == {"kind": "builtin", "value": "builtin:echo"}
    assert [asked["name"] for asked in worker["requested_capabilities"]] == ["read", "write"]
    assert worker["workspace_refs"] == [{"name": "src", "reference": "repo:main"}]
    assert worker["mount_refs"] == [{"name": "data", "reference": "mount:d"}]


def test_a_task_is_shown_with_its_objective(ctl: Ctl, new_worker: NewWorker) -> None:
    new_worker("--task", "count the sheep")
    assert "   task: count the sheep   " in ctl("workers", "list").stdout


@pytest.mark.parametrize("options", [(), ("--wait",), ("-q",), ("--wait", "-q")])
def test_a_refused_create_prints_the_id_and_the_missing_option(
    ctl: Ctl, daemon: Daemon, options: tuple[str, ...]
) -> None:
    found = ctl("workers", "create", "--profile", "builtin:shell", "-o", "name", *options)
    assert (found.returncode, found.stdout) == (1, "worker-00000001\n")
    assert found.stderr == (
        "runtimectl: worker-00000001 was created, but its backend refused to run it: "
        "profile builtin:shell needs the capability shell: create one with --capability shell\n"
    )


def test_a_refused_create_names_an_option_for_each_capability(
    ctl: Ctl, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[profiles."builtin:x"]\nbackend = "shell"\ncapabilities = ["read", "shell"]\n')
    start_daemon("--store", "memory", "--config", str(config))
    found = ctl("workers", "create", "--profile", "builtin:x")
    assert found.returncode == 1
    assert found.stderr.endswith(
        "needs the capabilities read, shell: create one with --capability read --capability shell\n"
    )


def test_a_create_refused_for_another_reason_shows_the_reason(ctl: Ctl, daemon: Daemon) -> None:
    found = ctl("workers", "create", "--profile", "builtin:nowhere")
    assert found.returncode == 1
    assert "no profile 'builtin:nowhere' is configured" in found.stderr


def test_create_can_wait_until_the_worker_runs(ctl: Ctl, daemon: Daemon) -> None:
    found = ctl("workers", "create", "--wait", "-o", "jsonl")
    assert found.returncode == 0
    assert json.loads(found.stdout)["execution"]["run_state"] == "idle"


def test_a_named_profile_without_a_bundle_is_refused_with_5(ctl: Ctl, daemon: Daemon) -> None:
    found = ctl("workers", "create", "--profile", "reviewer")
    assert (found.returncode, found.stdout) == (5, "")
    assert found.stderr.startswith("runtimectl: invalid_profile_selector: ")


def test_an_input_is_acknowledged(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()
    ack = json.loads(ctl("workers", "input", worker, "hello", "-o", "json").stdout)["ack"]
    assert (ack["worker_ref"]["worker_id"], ack["transcript_sequence"]) == (worker, 1)
    assert ctl("workers", "input", worker, "again", "--wait", "-o", "name").stdout == f"{worker}\n"


def test_a_missing_text_is_a_usage_error_and_an_open_stdin_is_not_read(
    env: dict[str, str], new_worker: NewWorker
) -> None:
    command = [sys.executable, "-m", "runtimectl", "workers", "input", new_worker()]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(60) == 2
    assert said.startswith("runtimectl: Missing argument 'TEXT'.")


def test_a_closed_stdin_is_a_usage_error_where_it_is_to_be_read(env: dict[str, str], new_worker: NewWorker) -> None:
    command = f"{sys.executable} -m runtimectl workers input {new_worker()} - <&-"
    found = subprocess.run(["sh", "-c", command], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "runtimectl: stdin: expected a pipe or a file, but it is closed\n"


def test_an_input_is_read_from_stdin_as_it_is(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()
    text = "zwei Zeilen,\n mit Ümläut und 漢字\n"
    assert ctl("workers", "input", worker, "-", "--wait", stdin=text).returncode == 0
    item, *_ = ctl("transcript", worker, "-o", "jsonl").stdout.splitlines()
    assert json.loads(item)["content"] == text


def test_a_system_input_becomes_a_system_entry(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()
    assert ctl("workers", "input", worker, "be brief", "--system", "--wait").returncode == 0
    assert ctl("transcript", worker).stdout.startswith("#1 system: be brief\n")


def test_a_wait_lasts_until_the_run_ends(ctl: Ctl, new_worker: NewWorker, shared: Path) -> None:
    worker = new_worker("--profile", "builtin:shell", "--capability", "shell")
    proof = shared / "proof"
    found = ctl("workers", "input", worker, f"sleep 0.5; touch {proof}", "--wait")
    assert (found.returncode, found.stderr) == (0, "")
    assert proof.exists()


def test_a_stop_fails_the_wait_for_the_run_that_it_ends(ctl: Ctl, start_ctl: StartCtl, new_worker: NewWorker) -> None:
    worker = new_worker("--profile", "builtin:shell", "--capability", "shell")
    waiting = start_ctl("workers", "input", worker, "sleep 600", "--wait", "-o", "name")
    waiting.wait_for("worker-00000001")
    assert ctl("workers", "cancel", worker, "--reason", "enough").returncode == 0
    assert waiting.finished() == 1
    why = "the run was cut, the Worker was cancelled: enough"
    assert waiting.err == [f"runtimectl: the run ended as rolled_back: {why}\n"]


def test_a_long_reason_is_shortened_to_one_line(ctl: Ctl, start_ctl: StartCtl, new_worker: NewWorker) -> None:
    worker = new_worker("--profile", "builtin:shell", "--capability", "shell")
    waiting = start_ctl("workers", "input", worker, "sleep 600", "--wait", "-o", "name")
    waiting.wait_for("worker-00000001")
    assert ctl("workers", "cancel", worker, "--reason", "enough\n" * 100).returncode == 0
    assert waiting.finished() == 1
    (said,) = waiting.err
    assert "cancelled: enough\\nenough" in said
    assert len(said) < 300


@pytest.mark.parametrize(("command", "done"), [("cancel", "cancelled"), ("stop", "stopped")])
def test_a_wait_for_a_queued_input_that_never_starts_says_why(
    ctl: Ctl, start_ctl: StartCtl, new_worker: NewWorker, command: str, done: str
) -> None:
    worker = new_worker("--profile", "builtin:shell", "--capability", "shell")
    assert ctl("workers", "input", worker, "sleep 600").returncode == 0
    waiting = start_ctl("workers", "input", worker, "true", "--when-busy", "queue", "--wait", "-o", "name")
    waiting.wait_for(worker)
    assert ctl("workers", command, worker, "--reason", "enough").returncode == 0
    assert waiting.finished() == 1
    (said,) = waiting.err
    assert said.startswith(f"runtimectl: the queued input was not started: the Worker was {done}: enough; ")


def test_a_wait_for_an_endless_run_times_out_with_8(start_ctl: StartCtl, new_worker: NewWorker) -> None:
    worker = new_worker("--profile", "builtin:shell", "--capability", "shell")
    waiting = start_ctl("workers", "input", worker, "sleep 600", "--wait", "--timeout", "600", "-o", "name")
    waiting.wait_for(worker)

    waiting.process.send_signal(signal.SIGALRM)

    assert waiting.finished() == 8
    assert waiting.out == [f"{worker}\n"]


def test_an_input_to_a_busy_worker_is_refused_with_5(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker("--profile", "builtin:shell", "--capability", "shell")
    assert ctl("workers", "input", worker, "sleep 600").returncode == 0
    found = ctl("workers", "input", worker, "true")
    assert found.returncode == 5
    assert found.stderr.startswith("runtimectl: worker_execution_rejected: ")


def test_an_argument_that_is_not_utf8_is_a_usage_error(ctl: Ctl, new_worker: NewWorker) -> None:
    found = ctl("workers", "input", new_worker(), "\udcff")
    assert (found.returncode, found.stderr) == (2, "runtimectl: arguments: expected valid UTF-8\n")


def test_an_input_that_is_not_utf8_is_a_usage_error(env: dict[str, str], new_worker: NewWorker) -> None:
    command = [sys.executable, "-m", "runtimectl", "workers", "input", new_worker(), "-"]
    found = subprocess.run(command, env=env, input=b"ab\xff", capture_output=True, timeout=60, check=False)

    assert (found.returncode, found.stdout) == (2, b"")
    assert found.stderr == b"runtimectl: stdin: expected UTF-8, got an invalid byte at offset 2\n"


def test_an_input_above_the_limit_of_the_daemon_is_refused_with_5(ctl: Ctl, new_worker: NewWorker) -> None:
    found = ctl("workers", "input", new_worker(), "-", stdin="x" * (9 << 20))
    assert found.returncode == 5
    assert found.stderr.startswith("runtimectl: payload_too_large: ")


def test_ending_several_workers_twice_succeeds(ctl: Ctl, new_worker: NewWorker) -> None:
    ids = [new_worker(), new_worker()]
    assert ctl("workers", "stop", *ids, "-o", "name").stdout.split() == ids
    again = ctl("workers", "cancel", *ids)
    assert again.returncode == 0
    assert again.stdout.count(" stopped ") == 2


def test_a_failure_to_end_one_worker_does_not_keep_others_alive(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()
    found = ctl("workers", "stop", "worker-0000ffff", worker, "-o", "name")
    assert (found.returncode, found.stdout) == (3, f"{worker}\n")
    assert found.stderr.startswith("runtimectl: worker-0000ffff: worker_not_found: ")


def test_a_unique_prefix_names_a_worker(ctl: Ctl, new_worker: NewWorker) -> None:
    worker = new_worker()
    assert ctl("workers", "get", "w", "-o", "name").stdout == f"{worker}\n"


def test_an_ambiguous_prefix_is_a_usage_error_that_names_the_matches(ctl: Ctl, new_worker: NewWorker) -> None:
    new_worker(), new_worker()
    found = ctl("workers", "stop", "worker-0")
    assert (found.returncode, found.stdout) == (2, "")
    assert "worker-00000001, worker-00000002" in found.stderr


@pytest.mark.parametrize("given", ["worker-0000ffff", "no-such"])
def test_an_unknown_worker_is_not_found_with_3(ctl: Ctl, daemon: Daemon, given: str) -> None:
    found = ctl("workers", "get", given)
    assert (found.returncode, found.stdout) == (3, "")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["get", "stop"])
def test_an_empty_id_is_a_usage_error(ctl: Ctl, new_worker: NewWorker, command: str) -> None:
    new_worker()
    found = ctl("workers", command, "")
    assert (found.returncode, found.stdout) == (2, "")
    expected = "an id, a name, a number, @last, or a unique prefix of an id"
    assert found.stderr == f"runtimectl: worker: expected {expected}, got an empty text\n"


def test_control_characters_of_a_worker_are_escaped_in_tables(ctl: Ctl, new_worker: NewWorker) -> None:
    new_worker("--task", "red \x1b[31m \x07 \u202e and \n two lines")
    for args in (("list",), ("get", "worker-00000001")):
        found = ctl("workers", *args).stdout
        assert r"red \x1b[31m \x07 \u202e and \n two lines" in found
        assert "\x1b" not in found


@pytest.mark.parametrize("output", ["json", "jsonl", "yaml"])
def test_control_characters_of_a_worker_are_escaped_in_data_without_loss(
    ctl: Ctl, new_worker: NewWorker, output: str
) -> None:
    objective = "red \x1b[31m \x7f \x9b1m and \n two lines"
    new_worker("--task", objective)
    found = ctl("workers", "get", "worker-00000001", "-o", output).stdout
    assert not {"\x1b", "\x7f", "\x9b"} & set(found)
    body = yaml.safe_load(found)
    assert body.get("worker", body)["intent"]["objective"] == objective


def test_a_list_can_be_limited_to_labels(ctl: Ctl, new_worker: NewWorker) -> None:
    red, blue = new_worker("--label", "team=red", "--label", "env=prod"), new_worker("--label", "team=blue=x")
    new_worker()
    assert ctl("workers", "list", "--label", "team=red", "-o", "name").stdout.split() == [red]
    assert ctl("workers", "list", "--label", "team=blue=x", "-o", "name").stdout.split() == [blue]
    assert ctl("workers", "list", "--label", "team=red", "--label", "env=test", "-o", "name").stdout == ""
    assert ctl("workers", "stop", red).returncode == 0
    assert ctl("workers", "list", "--label", "team=red", "--status", "running", "-o", "name").stdout == ""


def test_a_list_has_a_name_column_once_a_worker_has_a_name(ctl: Ctl, new_worker: NewWorker) -> None:
    new_worker()
    assert "NAME" not in ctl("workers", "list").stdout
    new_worker("--name", "Grüße aus 東京", "--label", "team=red", "--label", "env=")
    heading, without, with_one = ctl("workers", "list").stdout.splitlines()
    assert heading.split()[:3] == ["WORKER", "NAME", "STATUS"]
    assert without.split()[:3] == ["worker-00000001", "-", "running"]
    assert "   Grüße aus 東京   running   " in with_one
    shown = ctl("workers", "get", "worker-00000002").stdout
    assert "\nName           Grüße aus 東京\n" in shown
    assert "\nLabels         team=red, env=\n" in shown
    assert ctl("workers", "list", "-o", "name").stdout.split() == ["worker-00000001", "worker-00000002"]


@pytest.mark.parametrize("command", [("create",), ("list",)])
@pytest.mark.parametrize("labels", [["nonsense"], ["=v"], [""], ["k=1", "k=2"]])
def test_an_invalid_label_is_a_usage_error(
    ctl: Ctl, daemon: Daemon, command: tuple[str, ...], labels: list[str]
) -> None:
    found = ctl("workers", *command, *(part for label in labels for part in ("--label", label)))
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("runtimectl: --label: expected K=V")


@pytest.mark.parametrize("options", [("--name", ""), ("--name", "a\nb"), ("--label", "a b=c"), ("--label", "k=\x1b")])
def test_a_name_or_label_refused_by_the_runtime_is_exit_5(ctl: Ctl, daemon: Daemon, options: tuple[str, ...]) -> None:
    found = ctl("workers", "create", *options)
    assert (found.returncode, found.stdout) == (5, "")
    assert found.stderr.startswith("runtimectl: invalid_request: ")


def test_a_list_follows_the_pages_of_the_daemon(ctl: Ctl, serve_raw: ServeRaw) -> None:
    asked: list[bytes] = []
    pages = [(["worker-00000001", "worker-00000002"], "worker-00000002"), (["worker-00000003"], None)]

    def handle(connection: socket.socket) -> None:
        asked.append(connection.recv(65536).split()[1])
        ids, after = pages[len(asked) - 1]
        body = {"workers": [{"worker_id": name} for name in ids]} | ({"next_after": after} if after else {})
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(body).encode())

    found = ctl(
        "workers", "list", "--status", "running", "--label", "a=b c", "-o", "json", "--url", serve_raw(handle)
    )
    assert json.loads(found.stdout) == {"workers": [{"worker_id": f"worker-0000000{number}"} for number in (1, 2, 3)]}
    first = b"/v1/workers?status=running&label=a%3Db+c"
    assert asked == [first, first + b"&after=worker-00000002"]


def test_a_page_that_is_returned_twice_is_exit_7(ctl: Ctl, serve_raw: ServeRaw) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        body = {"workers": [{"worker_id": "worker-00000001"}], "next_after": "worker-00000001"}
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(body).encode())

    found = ctl("workers", "list", "--url", serve_raw(handle))
    assert (found.returncode, found.stdout) == (7, "")


def test_workers_that_have_ended_are_deleted(ctl: Ctl, new_worker: NewWorker) -> None:
    ids = [new_worker(), new_worker()]
    ctl("workers", "stop", *ids)
    deleted = ctl("workers", "delete", *ids, ids[0], "-o", "name")
    assert (deleted.returncode, deleted.stdout.split(), deleted.stderr) == (0, ids, "")
    assert ctl("workers", "list", "-o", "name").stdout == ""
    assert ctl("workers", "get", ids[0]).returncode == 3
    assert new_worker() == "worker-00000003"


def test_a_failure_to_delete_one_worker_does_not_keep_others(ctl: Ctl, new_worker: NewWorker) -> None:
    running, over = new_worker(), new_worker()
    ctl("workers", "stop", over)
    found = ctl("workers", "delete", "worker-0000ffff", over, running, "-o", "json")
    assert found.returncode == 5
    assert json.loads(found.stdout) == {"deleted": [{"worker_id": over}]}
    missing, refused = found.stderr.splitlines()
    assert missing == "runtimectl: worker-0000ffff: worker_not_found: there is no Worker worker-0000ffff"
    assert refused.startswith(f"runtimectl: {running}: worker_running: ")
    assert ctl("workers", "list", "-o", "name").stdout.split() == [running]


def test_an_unknown_prefix_does_not_keep_others_from_being_deleted(ctl: Ctl, new_worker: NewWorker) -> None:
    over = new_worker()
    ctl("workers", "stop", over)
    found = ctl("workers", "delete", over, "worker-000000zz", "-o", "name")
    assert (found.returncode, found.stdout.split()) == (3, [over])
    assert "'worker-000000zz' is no id, name, number or prefix" in found.stderr
    assert ctl("workers", "list", "-o", "name").stdout == ""


def test_a_delete_without_success_prints_nothing_to_stdout(ctl: Ctl, new_worker: NewWorker) -> None:
    found = ctl("workers", "delete", new_worker())
    assert (found.returncode, found.stdout) == (5, "")
