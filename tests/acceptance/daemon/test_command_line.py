"""Interface section 1: options, environment, configuration file and exit codes of `runtimed`."""

import re
import signal
from pathlib import Path

import pytest

from tests.acceptance.daemon.conftest import Daemon, Launch

OPTIONS = [
    "--listen",
    "--store",
    "--runtime-id",
    "--display-name",
    "--token-file",
    "--config",
    "--max-transcript-projection-items",
    "--max-event-batch-items",
    "--allow-host",
    "--tls-cert",
    "--tls-key",
    "--tls-client-ca",
    "--insecure-listen",
    "--log-format",
    "--log-level",
    "--check-config",
    "--version",
]


def test_one_line_says_where_it_serves(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    kind = store.partition(":")[0]
    line = rf"runtimed: listening on http://127\.0\.0\.1:\d+ runtime={re.escape(daemon.runtime_id)} store={kind}\n"
    assert re.fullmatch(line, daemon.output)
    daemon.echo()
    daemon.stop()
    assert re.fullmatch(line, daemon.output)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_0(launch: Launch, how: signal.Signals) -> None:
    daemon = launch().ready()
    daemon.shell()
    daemon.process.send_signal(how)
    assert daemon.ended() == 0


def test_version_and_help(launch: Launch) -> None:
    version, helped, both = launch("--version", plain=True), launch("--help"), launch("--version")
    assert (version.ended(), helped.ended(), both.ended()) == (0, 0, 0)
    assert re.fullmatch(r"runtimed \d+\.\d+\S*\n", version.output)
    assert both.output == version.output
    assert all(option in helped.output for option in OPTIONS)


def test_check_config_checks_and_makes_nothing(launch: Launch, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('display_name = "Mine"\n')
    daemon = launch("--check-config", "--config", str(config), store=f"fs:{tmp_path / 'store'}")
    assert daemon.ended() == 0
    assert daemon.errors == ""
    assert not (tmp_path / "store").exists()


BAD_OPTIONS = {
    ("--surprise",): "--surprise",
    ("surprise",): "surprise",
    ("--listen", "nowhere"): "listen",
    ("--listen", "127.0.0.1:65536"): "listen",
    ("--listen", "0.0.0.0:0"): "--insecure-listen",
    ("--tls-cert", "nowhere.pem", "--tls-key", "nowhere.key"): "tls_cert",
    ("--tls-key", "nowhere.key"): "tls_cert",
    ("--store", "redis:there"): "store",
    ("--runtime-id", "a b"): "runtime_id",
    ("--max-transcript-projection-items", "0"): "max_transcript_projection_items",
    ("--max-event-batch-items", "many"): "max-event-batch-items",
    ("--log-level", "loud"): "log-level",
    ("--config", "nowhere.toml"): "nowhere.toml",
}
BAD_ENVIRONMENT = {
    "RUNTIMED_MAX_BODY_BYTES": "lots",
    "RUNTIMED_MAX_TRANSCRIPT_PROJECTION_ITEMS": "0",
    "RUNTIMED_LOG_LEVEL": "loud",
}
BAD_FILES = {
    "surprise = 1": "surprise",
    "[extra]\nsurprise = 1": "extra",
    "this is no TOML": "",
    "max_body_bytes = 'x'": "max_body_bytes",
    "[profiles.x]": 'profiles."x".backend',
    "[profiles.x]\nbackend = 'magic'": 'profiles."x".backend',
    "[profiles.x]\nbackend = 'echo'\nsurprise = 1": 'profiles."x".surprise',
    "[profiles.x]\nbackend = 'shell'\nenv = { A = 5 }": 'profiles."x".env',
    "[profiles.x]\nbackend = 'shell'\ncommand = 'sh -c x'": 'profiles."x".command',
}


def _refused(daemon: Daemon, named: str) -> None:
    assert daemon.ended() == 2, daemon.command
    assert daemon.output == ""
    assert named in daemon.errors
    # click puts its usage before the line.
    assert daemon.errors.count("\n") <= (1 if daemon.errors.startswith("runtimed: ") else 4), daemon.errors


def test_a_wrong_option_is_exit_2_and_named(launch: Launch) -> None:
    made = [(launch(*options), named) for options, named in BAD_OPTIONS.items()]
    for daemon, named in made:
        _refused(daemon, named)


def test_a_wrong_variable_is_exit_2_and_named(launch: Launch) -> None:
    made = [(launch(env={name: value}), name.lower()) for name, value in BAD_ENVIRONMENT.items()]
    for daemon, name in made:
        _refused(daemon, name.removeprefix("runtimed_"))


def test_a_wrong_configuration_is_exit_2_and_named(launch: Launch, tmp_path: Path) -> None:
    made = []
    for number, (text, named) in enumerate(BAD_FILES.items()):
        path = tmp_path / f"{number}.toml"
        path.write_text(f"{text}\n")
        checked = ["--check-config"] if number % 2 else []
        made.append((launch("--config", str(path), *checked), named))
    for daemon, named in made:
        _refused(daemon, named)


def test_a_flag_goes_before_the_environment_that_before_the_file(launch: Launch, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        'display_name = "of the file"\nmax_transcript_projection_items = 7\nmax_event_batch_items = 9\n'
    )
    env = {
        "RUNTIMED_CONFIG": str(config),
        "RUNTIMED_DISPLAY_NAME": "of the environment",
        "RUNTIMED_MAX_TRANSCRIPT_PROJECTION_ITEMS": "8",
    }
    runtime = launch("--display-name", "of the flag", env=env).ready().runtime()
    assert runtime["display_name"] == "of the flag"
    assert runtime["limits"] == {"max_transcript_projection_items": 8, "max_event_batch_items": 9}


def test_the_users_own_configuration_is_found(launch: Launch, tmp_path: Path) -> None:
    path = tmp_path / "config" / "runtimed" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text('display_name = "of the user"\n')
    assert launch().ready().runtime()["display_name"] == "of the user"


def test_an_address_that_is_taken_is_exit_1_and_named(launch: Launch, memory_daemon: Daemon) -> None:
    other = launch("--listen", memory_daemon.host)
    assert other.ended() == 1
    assert memory_daemon.host in other.errors
    assert other.output == ""


def test_a_store_that_cannot_be_made_is_refused_in_a_line(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    daemon = launch(store=f"fs:{tmp_path / 'file'}")
    assert daemon.ended() in {1, 2}
    assert daemon.output == ""
    assert daemon.errors.count("\n") == 1


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_lines_cannot_be_forged(launch: Launch, log_format: str) -> None:
    daemon = launch("--log-format", log_format, "--log-level", "debug").ready()
    before = len(daemon.errors.splitlines())
    daemon.curl("GET", "/v1/%0d%0aFORGED%0aline?x=%0aFORGED%1b%5b31m")
    daemon.raw(daemon.head("GET /nowhere HTTP/1.1", "User-Agent: a\x1b[31mFORGED"))
    daemon.raw(b"FORGED\x1b[31m\nFORGED\r\n\r\n")
    daemon.create(intent={"kind": "task", "objective": "a\r\nFORGED\nb\x1b[31m"})
    daemon.stop()
    for line in daemon.errors.splitlines()[before:]:
        assert not line.startswith("FORGED")
        assert "\x1b" not in line
