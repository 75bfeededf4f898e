"""The reference is complete, and names nothing that is not there."""

import inspect
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args
from urllib.parse import urlsplit

import attrs
import click
import pytest

from runtimectl.cli import INTERRUPTED
from runtimectl.client.run_result import SIGNALED
from runtimectl.commands import root
from runtimectl.errors import ControlError
from runtimectl.options import CommonOption, common_options
from runtimed import cli, errors, exits
from runtimed.audit import AuditPolicy
from runtimed.execution.policy import (
    FIRST_UID,
    LAST_UID,
    Gateway,
    GitPolicy,
    Mount,
    SandboxPolicy,
    Secret,
)
from runtimed.execution.profile import BUILT_IN, Profile
from runtimed.http.app import NOUNS
from runtimed.http.errors import status_of
from runtimed.http.streaming.sockets import CLOSE_CODES
from runtimed.http.web.binding import Route
from runtimed.http.web.openapi import EVERYWHERE, WITH_BODY
from runtimed.model import (
    bundle,
    execution,
    interaction,
    permission,
    profile,
    runtime,
    token,
    transcript,
    waiting,
    worker,
    workspace,
)
from runtimed.model.bundle import DeclarationKind
from runtimed.model.diagnostic import Diagnostic, FeedDiagnosticCode
from runtimed.model.event import Greeting, InFlightBlock, Payload
from runtimed.model.identity import WorkerRef
from runtimed.model.principal import Principal
from runtimed.settings import ENVIRONMENT_PREFIX, Settings, load
from runtimed.settings.sandbox import UIDS
from runtimed.store import data_dir
from runtimed.store.sqlite import online_backup, wal_recovery
from tests.certificates import Authority
from tests.docs.conftest import Page, ReadPage

T = TypeVar("T")

ROUTES = [route for noun in NOUNS for route in noun.routes]
OPTION = re.compile(r"^-{1,2}[A-Za-z][a-z-]*")
URL = re.compile(r"\b(?:https?|wss?)://[^\s\"'`)>]+")
OWN_HOSTS = {"127.0.0.1", "0.0.0.0", "localhost", "HOST"}


def subclasses(kind: type[T]) -> Iterator[type[T]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def codes(base: type[errors.RuntimedError]) -> dict[str, type[errors.RuntimedError]]:
    return {kind.code: kind for kind in subclasses(base) if "code" in vars(kind)}


def http_codes() -> dict[str, type[errors.RuntimedError]]:
    elsewhere = {*codes(errors.FeedError), *codes(errors.StartError)}
    return {code: kind for code, kind in codes(errors.RuntimedError).items() if code not in elsewhere}


def shown(default: Any) -> str:
    """A default as the tables show it."""
    if default is attrs.NOTHING:
        return "required"
    is_made = isinstance(default, attrs.Factory)  # type: ignore[arg-type] # attrs declares this class as a function
    if default is None or is_made or not str(default) or default == ():
        return "none"
    if isinstance(default, tuple):
        return f"`{','.join(default)}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def values(annotation: Any) -> set[str]:
    return set(get_args(annotation))


def commands(group: click.Group = root, path: str = "runtimectl") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, f"{path} {name}")
        else:
            yield f"{path} {name}", found


def spelled(options: list[click.Parameter]) -> set[str]:
    return {name for option in options for name in option.opts if name.startswith("-")}


def options_in(section: Page) -> set[str]:
    found = [OPTION.match(code) for row in section.rows for code in row.codes()]
    assert all(found), "the first column of a table of options names options"
    return {match[0] for match in found if match}


def sectioned(page: Page, below: str) -> list[str]:
    """The headings of the third level under one of the second."""
    titles, inside = [], False
    for level, title in page.headings:
        if level == 2:
            inside = title == below
        elif inside:
            titles.append(title)
    return titles


def test_every_route_is_in_the_table_of_routes_and_has_a_section(page: ReadPage) -> None:
    http = page("reference/http.md")
    expected = [f"{route.method} {route.path}" for route in ROUTES]
    assert sorted(http.section("Routes").names()) == sorted(expected)
    assert sorted(sectioned(http, "The routes one by one")) == sorted(f"`{name}`" for name in expected)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_the_section_of_a_route_names_its_errors_and_its_query(page: ReadPage, route: Route) -> None:
    text = page("reference/http.md").section(f"`{route.method} {route.path}`").text
    listed = re.search(r"^Errors: (.*?)\.$", text, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`([\w.]+)`", listed[1] if listed else "")) == {kind.code for kind in route.raises}
    query = re.search(r"^Query: (.*?)Answer|^Query: (.*?)$", text, re.MULTILINE | re.DOTALL)
    told = query[0] if query else ""
    assert all(f"`{parameter.name}`" in told for parameter in route.in_query)
    assert bool(query) == bool(route.in_query)


def test_the_errors_of_every_route_are_named(page: ReadPage) -> None:
    told = set(re.findall(r"`(\w+)`", page("reference/http.md").section("Every request").text))
    kinds: tuple[type[errors.RuntimedError], ...] = (*EVERYWHERE, *WITH_BODY)
    assert {kind.code for kind in kinds} <= told


def test_every_object_has_a_table_of_its_fields_and_of_the_optional_ones(page: ReadPage) -> None:
    http = page("reference/http.md")
    modules = (
        worker,
        workspace,
        execution,
        interaction,
        permission,
        profile,
        waiting,
        bundle,
        runtime,
        transcript,
        token,
    )
    kinds = [kind for module in modules for _, kind in inspect.getmembers(module, attrs.has)]
    inner = {permission.Question, permission.Ruling, workspace.WorkspaceDiff, token.NewToken, Principal}
    documented = {
        kind.__name__: kind
        for kind in {*kinds, WorkerRef, Diagnostic} - inner
        if not hasattr(kind, "kind") or _has_kind(kind)
    }
    titles = {title.strip("`") for title in sectioned(http, "Objects")} - {"Intent", "Profile"}
    assert titles == documented.keys()
    for name, kind in documented.items():
        rows = [row for row in http.section(f"`{name}`").rows if len(row.cells) == 3]
        optional = {field.name: field.default is not attrs.NOTHING for field in attrs.fields(kind)}
        assert {row.codes()[0]: row.cells[1] == "optional" for row in rows} == optional, name


def _has_kind(kind: type) -> bool:
    return any(field.name == "kind" for field in attrs.fields(kind))


def test_the_kinds_of_intents_profiles_and_declarations_are_all_there(page: ReadPage) -> None:
    http = page("reference/http.md")
    assert set(http.section("Intent").names()) == {kind.kind for kind in get_args(worker.Intent)}
    assert set(http.section("Profile").names()) == {kind.kind for kind in get_args(worker.ProfileSelector)}
    declared = [row.codes()[0] for row in http.section("`Declaration`").rows if len(row.cells) == 2]
    assert set(declared) == values(DeclarationKind)


def test_every_error_code_has_its_status(page: ReadPage) -> None:
    rows = page("reference/errors.md").section("HTTP errors").rows
    assert {row.codes()[0]: int(row.cells[1]) for row in rows} == {
        code: status_of(kind) for code, kind in http_codes().items()
    }
    assert all(row.cells[2] for row in rows)


def test_every_start_error_has_an_exit_code_that_the_command_line_names(page: ReadPage) -> None:
    rows = page("reference/errors.md").section("Start errors").rows
    assert {row.codes()[0] for row in rows} == codes(errors.StartError).keys()
    assert {row.cells[1] for row in rows} <= set(page("reference/cli.md").section("Exit codes of runtimed").names())


def test_every_feed_diagnostic_is_in_both_tables_with_its_close_code(page: ReadPage) -> None:
    rows = page("reference/feed.md").section("Diagnostics").rows
    assert {row.codes()[0] for row in rows} == values(FeedDiagnosticCode)
    assert {row.codes()[0]: int(row.cells[1]) for row in rows} == {
        code: int(CLOSE_CODES.get(code, 1008)) for code in values(FeedDiagnosticCode)
    }
    told = {row.codes()[0]: row.cells[1] for row in page("reference/errors.md").section("Feed diagnostics").rows}
    assert told.keys() == values(FeedDiagnosticCode)
    answered: set[type[errors.RuntimedError]] = {
        kind for route in ROUTES for kind in route.raises if issubclass(kind, errors.FeedError)
    }
    answered.add(errors.WorkerDeleted)
    assert {code: int(status) for code, status in told.items() if status} == {
        kind.code: status_of(kind) for kind in answered
    }
    assert codes(errors.FeedError).keys() <= values(FeedDiagnosticCode)


def _fields(kind: type) -> set[str]:
    fields = attrs.fields(kind)
    return {field.name if field.default is attrs.NOTHING else f"{field.name}?" for field in fields}


def test_every_payload_has_its_fields_and_the_values_of_its_enumerations(page: ReadPage) -> None:
    rows = {row.codes()[0]: row for row in page("reference/feed.md").section("Payloads").rows}
    kinds = {kind.event: kind for kind in get_args(Payload)}
    assert rows.keys() == kinds.keys()
    for name, kind in kinds.items():
        assert set(rows[name].codes(1)) == _fields(kind), name
        for field in attrs.fields(kind):
            accepted = {value for value in get_args(field.type) if isinstance(value, str)}
            assert accepted <= set(rows[name].codes(2)), f"{name}.{field.name}"


def test_the_snapshot_is_described_to_its_last_field(page: ReadPage) -> None:
    feed = page("reference/feed.md")
    assert set(feed.section("Greeting").names()) == _fields(Greeting)
    rows = {row.codes()[0]: set(row.codes(1)) for row in feed.section("Blocks").rows}
    assert rows == {kind.kind: _fields(kind) for kind in get_args(InFlightBlock)}


def test_every_setting_has_its_variable_and_its_default(page: ReadPage) -> None:
    rows = page("reference/settings.md").section("All settings").rows
    found = {row.codes()[0]: (row.codes(1), row.cells[2]) for row in rows if len(row.cells) == 4}
    assert found == {
        field.name: ([f"{ENVIRONMENT_PREFIX}{field.name.upper()}"], shown(field.default))
        for field in attrs.fields(Settings)
    }


def test_the_examples_of_a_configuration_file_are_accepted(
    page: ReadPage, tmp_path: Path, authority: Authority
) -> None:
    server = authority.issue("server")
    there = {"tls.pem": server.cert, "tls.key": server.key, "clients.pem": authority.ca}
    file = tmp_path / "config.toml"
    first, *others = page("reference/settings.md").blocks("toml")
    file.write_text(first)
    loaded = load({}, str(file))
    assert loaded.profile_table().keys() == {loaded.default_profile}
    for example in others:
        text = example
        for name, path in there.items():
            text = text.replace(f"/etc/runtimed/{name}", str(path))
        file.write_text(text)
        load({}, str(file))


def test_every_key_of_a_profile_has_its_default(page: ReadPage) -> None:
    profiles = page("reference/settings.md").section("Profiles")
    assert {row.codes()[0]: row.cells[1] for row in profiles.rows} == {
        field.name: shown(field.default) for field in attrs.fields(Profile)
    }
    assert all(f"`{name}`" in profiles.text for name in BUILT_IN)


def test_every_key_of_the_tables_of_confinement_has_its_default(page: ReadPage) -> None:
    settings = page("reference/settings.md")
    sandbox = {**_keys(SandboxPolicy), UIDS: f"`{FIRST_UID}-{LAST_UID}`"}
    assert {row.codes()[0]: row.cells[1] for row in settings.section("The sandbox").rows} == sandbox
    assert {row.codes()[0]: row.cells[1] for row in settings.section("Secrets").rows} == _keys(Secret)
    gateway = [row for row in settings.section("Gateways").rows if len(row.cells) == 3]
    assert {row.codes()[0]: row.cells[1] for row in gateway} == _keys(Gateway)
    others = settings.section("Mounts and policies").rows
    keys = {row.codes()[0]: row.cells[1] for row in others if not row.codes()[0].startswith("[")}
    assert keys == {**_keys(Mount), **_keys(GitPolicy)}


def _keys(kind: type) -> dict[str, str]:
    return {field.name: shown(field.default) for field in attrs.fields(kind)}


def test_every_key_of_the_table_of_the_audit_log_has_its_default(page: ReadPage) -> None:
    rows = page("reference/settings.md").section("The audit log").rows
    assert {row.codes()[0]: row.cells[1] for row in rows} == _keys(AuditPolicy)


def test_every_option_of_runtimed_is_in_its_table(page: ReadPage) -> None:
    command = cli.command()
    options = command.get_params(click.Context(command, help_option_names=["-h", "--help"]))
    assert options_in(page("reference/cli.md").section("`runtimed`")) == spelled(options)


def test_every_command_of_runtimed_store_is_in_its_table(page: ReadPage) -> None:
    store = cli.command().get_command(click.Context(cli.command()), "store")
    spelled_out = [f"runtimed store {name} {' '.join(_arguments(one))}" for name, one in store.commands.items()]
    assert page("reference/cli.md").section("`runtimed store`").names() == spelled_out


def _arguments(command: click.Command) -> list[str]:
    return [param.make_metavar(click.Context(command)) for param in command.params]


def test_every_command_of_runtimectl_has_a_section_with_its_options(page: ReadPage) -> None:
    reference = page("reference/cli.md")
    found = dict(commands())
    titles = sectioned(reference, "`runtimectl`")
    assert sorted(titles) == sorted(["Options of every command", *(f"`{name}`" for name in found)])
    for name, command in found.items():
        own = [option for option in command.params if not isinstance(option, CommonOption)]
        assert options_in(reference.section(f"`{name}`")) == spelled(own), name


def test_the_options_of_every_command_are_in_their_table(page: ReadPage) -> None:
    section = page("reference/cli.md").section("Options of every command")
    assert options_in(section) == spelled(common_options())
    own = [option for option in root.params if not isinstance(option, CommonOption)]
    assert all(f"{name}`" in section.text for name in (*spelled(own), "-h", "--help"))


def test_every_exit_code_is_in_the_table_of_its_program(page: ReadPage) -> None:
    reference = page("reference/cli.md")
    daemon = {exits.OK, exits.FAILURE, exits.USAGE, exits.STORE_TAKEN, exits.STORE_FAILED}
    assert {int(name) for name in reference.section("Exit codes of runtimed").names()} == daemon
    client = {0, INTERRUPTED, SIGNALED + signal.SIGTERM, *(kind.exit_code for kind in subclasses(ControlError))}
    assert {int(name) for name in reference.section("Exit codes of runtimectl").names()} == client


def test_everything_in_the_folder_of_a_store_is_named(page: ReadPage) -> None:
    named = set(page("reference/store.md").section("In a folder").names())
    database = {f"{data_dir.DATABASE}{suffix}" for suffix in ("", "-wal", "-shm", online_backup.SUFFIX)}
    others = {data_dir.BALLAST, f"{data_dir.DATABASE}{wal_recovery.KEPT}"}
    assert named == {data_dir.LOCK, data_dir.TOKEN, data_dir.WORKERS, data_dir.WORKSPACES, *database, *others}


def test_pages_name_no_host_but_loopback_and_examples(pages: list[Page]) -> None:
    for page in pages:
        hosts = {urlsplit(url).netloc.split(":")[0] for url in URL.findall(page.text)}
        assert all(host in OWN_HOSTS or host.endswith(".example.org") for host in hosts), page.path.name


def test_pages_hold_no_path_of_the_machine_that_they_were_written_on(pages: list[Page]) -> None:
    for page in pages:
        assert str(page.path.parents[1]) not in page.text
