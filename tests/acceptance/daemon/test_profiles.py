"""Interface section 4: what the host's configuration makes of a profile, and how Workers run."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import MakeBundle
from tests.acceptance.daemon.conftest import Daemon, Launch, Until

SHELL = {"kind": "builtin", "value": "builtin:shell"}
CONFIGURATION = """
default_profile = "builtin:greeter"

[profiles."builtin:greeter"]
backend = "shell"
env = { GREETING = "hello from the configuration" }
capabilities = ["greet", "shell"]

[profiles.reviewer]
backend = "echo"
"""


def _data(events: list[Any], name: str) -> list[Any]:
    return [one["payload"].get("data") for one in events if one["payload"]["event"] == name]


def _text(events: list[Any]) -> str:
    return "".join(one["text"] for one in _data(events, "text_done"))


def test_echo_says_back_what_it_hears(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    for content in ("hello", "  two\nlines ", "é🙂"):
        events = daemon.run(worker_id, content)
        assert _text(events) == content
        assert _data(events, "run_end") == [{"result": "finished"}]
    assert [one["role"] for one in daemon.items(worker_id)] == ["user", "assistant"] * 3


def test_a_shell_runs_a_script_and_reports_its_exit_status(daemon: Daemon) -> None:
    worker_id = daemon.shell()
    events = daemon.run(worker_id, "echo hello")
    assert _text(events) == "hello\n"
    (result,) = _data(events, "tool_result")
    assert (result["is_error"], result["exit_status"]) == (False, 0)
    (called,), (done,) = _data(events, "tool_call_start"), _data(events, "tool_call_done")
    assert called["id"] == done["id"] == result["id"]
    assert json.loads(done["arguments"])
    assert _data(events, "run_end") == [{"result": "finished"}]


def test_what_a_background_job_prints_between_inputs_precedes_the_next_user_message(
    daemon: Daemon, until: Until
) -> None:
    worker_id = daemon.shell()
    daemon.run(worker_id, "yes ticking | while read -r line; do echo $line; sleep 0.005; done & true")
    until(lambda: "text_delta" in [one["payload"]["event"] for one in daemon.log(worker_id)])
    for _ in range(3):
        daemon.run(worker_id, "sleep 0.05")
    daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")
    told = [one["payload"]["event"] for one in daemon.log(worker_id)]
    inputs = [index for index, name in enumerate(told) if name == "user_message"]

    assert [told[index + 1] for index in inputs] == ["invoke_start"] * 4
    assert all(told[index - 1] != "text_delta" for index in inputs[1:])
    assert "text_delta" in told[inputs[0] : inputs[1]]


@pytest.mark.parametrize("script", ["true", ":", "x=1", "# only a comment", "true > /dev/null"])
def test_a_script_without_output_ends_too(daemon: Daemon, script: str) -> None:
    worker_id = daemon.shell()
    for _ in range(3):
        events = daemon.run(worker_id, script)
        assert [one["exit_status"] for one in _data(events, "tool_result")] == [0]
        assert _data(events, "run_end") == [{"result": "finished"}]


@pytest.mark.parametrize(("script", "status"), [("false", 1), ("(exit 7)", 7), ("no-such-command-at-all", 127)])
def test_a_script_that_fails_is_an_error_with_its_status(daemon: Daemon, script: str, status: int) -> None:
    worker_id = daemon.shell()
    (result,) = _data(daemon.run(worker_id, f"echo before; {script}"), "tool_result")
    assert (result["is_error"], result["exit_status"]) == (True, status)
    assert _text(daemon.run(worker_id, "echo still here")) == "still here\n"


def test_a_syntax_error_is_an_error_and_the_shell_lives(daemon: Daemon) -> None:
    worker_id = daemon.shell()
    daemon.run(worker_id, "kept=1")
    (result,) = _data(daemon.run(worker_id, "if then ("), "tool_result")
    assert result["is_error"]
    assert _text(daemon.run(worker_id, "echo $kept")) == "1\n"


def test_directory_variables_and_functions_last_from_input_to_input(daemon: Daemon) -> None:
    worker_id = daemon.shell()
    daemon.run(worker_id, "mkdir deep; cd deep; name=value; export other=thing; f() { echo called $1; }")
    events = daemon.run(worker_id, "basename $(pwd); echo $name; sh -c 'echo $other'; f me")
    assert _text(events) == "deep\nvalue\nthing\ncalled me\n"


def test_exit_ends_the_shell_with_an_alert_in_its_run_and_the_next_input_gets_a_fresh_one(daemon: Daemon) -> None:
    worker_id = daemon.shell()
    events = daemon.run(worker_id, "lost=1; cd /; echo bye; exit 3")
    assert _text(events) == "bye\n"
    (result,) = _data(events, "tool_result")
    assert (result["is_error"], result["exit_status"]) == (True, 3)
    assert _data(events, "run_end") == [{"result": "finished"}]
    (alert,) = _data(events, "alert")
    assert (alert["level"], alert["source"]) == ("warn", "worker")
    assert "3" in alert["message"]
    events = daemon.run(worker_id, 'echo "[$lost]"')
    assert _text(events) == "[]\n"
    assert _data(events, "alert") == []
    assert daemon.worker(worker_id)["status"] == "running"


def test_standard_output_and_standard_error_come_in_order(daemon: Daemon) -> None:
    events = daemon.run(daemon.shell(), "echo one; echo two >&2; echo three; echo four >&2")
    assert _text(events) == "one\ntwo\nthree\nfour\n"


def test_output_that_is_no_text_does_no_harm(daemon: Daemon) -> None:
    worker_id = daemon.shell()
    events = daemon.run(worker_id, r"printf 'a\377\376b\000c\033[31md\n'; printf '\303'; printf '\251'")
    text = _text(events)
    assert text.startswith("a")
    assert text.endswith("é")
    assert {"b", "c", "d"} <= set(text)
    assert [one["role"] for one in daemon.items(worker_id)] == ["user", "assistant"]


def test_a_script_may_be_long_quoted_and_of_many_lines(daemon: Daemon) -> None:
    script = "cat <<'END'\n" + 'it\'s "quoted" $HOME `x` \\\n' * 5_000 + "END\n"
    assert _text(daemon.run(daemon.shell(), script)) == 'it\'s "quoted" $HOME `x` \\\n' * 5_000


def test_each_shell_has_a_directory_of_its_own(daemon: Daemon) -> None:
    first, second = daemon.shell(), daemon.shell()
    daemon.run(first, "echo mine > note")
    assert _text(daemon.run(first, "ls -A")) == "note\n"
    assert _text(daemon.run(second, "ls -A; echo .")) == ".\n"
    assert _text(daemon.run(first, "pwd")) != _text(daemon.run(second, "pwd"))


def test_a_shell_takes_no_system_input(daemon: Daemon) -> None:
    worker_id = daemon.shell()
    answer = daemon.curl("POST", f"/v1/workers/{worker_id}/input", {"kind": "system", "content": "note"})
    message = answer.refused(409, "worker_execution_rejected")
    execution = daemon.worker(worker_id)["execution"]
    assert execution["run_state"] == "idle"
    result = execution["last_result"]
    assert (result["operation"], result["outcome"], result["run_state"]) == ("input", "unsupported", "idle")
    assert result["message"] in message
    assert daemon.items(worker_id) == []


def test_a_shell_wants_its_capability(daemon: Daemon) -> None:
    for capabilities in ([], [{"name": "read"}], [{"name": "Shell"}]):
        request = {"profile": SHELL, "requested_capabilities": capabilities}
        worker = daemon.curl("POST", "/v1/workers", request).ok("worker", "WorkerDetail")
        assert worker["execution"]["run_state"] == "rejected"
        result = worker["execution"]["last_result"]
        assert (result["operation"], result["outcome"]) == ("spawn", "rejected")
        assert "shell" in result["message"]
    request = {
        "profile": SHELL,
        "requested_capabilities": [{"name": "read"}, {"name": "shell", "reason": "to build"}],
    }
    assert daemon.curl("POST", "/v1/workers", request).ok("worker")["execution"]["run_state"] == "idle"


@pytest.fixture
def configured(launch: Launch, store: str, tmp_path: Path) -> Daemon:
    path = tmp_path / "config.toml"
    path.write_text(CONFIGURATION)
    return launch("--config", str(path), store=store).ready()


def test_the_runtime_default_is_what_the_configuration_says(configured: Daemon) -> None:
    capabilities = [{"name": "greet"}, {"name": "shell"}]
    worker_id = configured.create(requested_capabilities=capabilities)
    assert _text(configured.run(worker_id, "echo $GREETING")) == "hello from the configuration\n"
    for missing in ([], capabilities[:1], capabilities[1:]):
        worker = configured.worker(configured.create(requested_capabilities=missing))
        assert worker["execution"]["last_result"]["outcome"] == "rejected"


def test_a_named_profile_of_the_configuration_runs_through_a_bundle(configured: Daemon, bundle: MakeBundle) -> None:
    profile = {"kind": "named", "value": "reviewer"}
    unknown = {"kind": "named", "value": "stranger"}
    made = bundle(profiles=[{"selector": profile}, {"selector": unknown}])
    reference = configured.call("POST", "/v1/config-bundles", {"bundle": made}).ok("availability")["reference"]
    worker_id = configured.create(profile=profile, config_bundle=reference)
    assert _text(configured.run(worker_id, "hello")) == "hello"
    worker = configured.worker(configured.create(profile=unknown, config_bundle=reference))
    result = worker["execution"]["last_result"]
    assert (result["operation"], result["outcome"]) == ("spawn", "rejected")
    assert "stranger" in result["message"]
