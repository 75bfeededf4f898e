"""What an operator can set: a flag goes before the environment, that before the configuration file, that before the
default."""

import logging
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import attrs
import typed_settings as ts
from cattrs import Converter
from typed_settings.converters import get_default_cattrs_converter
from typed_settings.exceptions import TsError
from typed_settings.loaders import DictLoader, Loader
from typed_settings.types import SecretStr

from runtimed.core.limits import MAX_SNAPSHOT_BYTES, Limits
from runtimed.core.services.lifecycle import Restore
from runtimed.errors import ConfigurationError
from runtimed.execution.profile import BUILT_IN, ECHO, OF_PROGRAMS, Profile
from runtimed.feed.feed import RING_BYTES
from runtimed.feed.snapshot import MIN_SNAPSHOT_BYTES
from runtimed.feed.unread import MAX_UNREAD_BYTES
from runtimed.http.app import MAX_BODY_BYTES
from runtimed.http.server.http_server import (
    DRAIN_TIMEOUT_S,
    HEADER_TIMEOUT_S,
    MAX_CONNECTIONS,
    MAX_UNAUTHENTICATED_BYTES,
)
from runtimed.http.server.listeners import ADDRESS_RULE
from runtimed.http.streaming.feed import HEARTBEAT_S
from runtimed.http.web.guard import HOST
from runtimed.model.identity import RUNTIME_ID
from runtimed.store.sync import Sync
from runtimed.wire.converter import is_kind, make_strict_converter
from runtimed.wire.problems import FieldProblem, expected, first_problem
from runtimed.wire.token import TOKEN, TOKEN_RULE

ENVIRONMENT_PREFIX = "RUNTIMED_"
TOKEN_VARIABLE = f"{ENVIRONMENT_PREFIX}TOKEN"
SYSTEM_FILE = Path("/etc/runtimed/config.toml")
RESTORE_POLICIES = get_args(Restore)
LOG_LEVELS = ("debug", "info", "warning", "error")

MAX_NUMBER = 10**15
MAX_SECONDS = 1e9

NO_TOKEN = SecretStr("")

LogFormat = Literal["auto", "text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

logging.getLogger("typed_settings").setLevel(logging.CRITICAL)  # what it logs it raises as well

STORE_QUERY = r"sync=normal(?:&create=no)?|create=no(?:&sync=normal)?"
STORE = re.compile(rf"fs:(?P<path>[^?]*[^?\s][^?]*)(?:\?(?P<query>{STORE_QUERY}))?")
STORE_RULE = "fs:PATH, with ?sync=normal, ?create=no or ?sync=normal&create=no"
LEAST = {"max_memory_bytes": 1 << 20, "max_processes": 3}
"""The lowest limits of a profile. With half of that memory not even `sh` was seen to start, and two of the processes
keep the others together."""

BUILTIN = "builtin:"

NO_TEXT = {
    int: "a whole number, without quotes",
    float: "a number, without quotes",
    bool: "true or false, without quotes",
    tuple[str, ...]: "a list of texts, in brackets",
}
"""What a text stands for in the environment and in no file."""

FLAGS = {"true": True, "false": False}
WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)
DECIMAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)


@attrs.frozen
class Settings:
    """All settings of the daemon, with their defaults. Times are in seconds, sizes in bytes.

    The repr never shows the token.
    """

    listen: tuple[str, ...] = ("127.0.0.1:38800",)
    store: str = "memory"
    runtime_id: str = ""
    display_name: str = ""
    token_file: str = ""
    token: SecretStr = NO_TOKEN
    allow_host: tuple[str, ...] = ()
    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"
    default_profile: str = ECHO
    profiles: dict[str, Any] = attrs.field(factory=dict)
    restore: Restore = "lazy"
    max_transcript_projection_items: int = Limits().max_transcript_projection_items
    max_event_batch_items: int = Limits().max_event_batch_items
    max_page_bytes: int = Limits().max_page_bytes
    max_snapshot_bytes: int = MAX_SNAPSHOT_BYTES
    max_replay_items: int = Limits().max_replay_items
    max_replay_bytes: int = Limits().max_replay_bytes
    max_pending_events: int = Limits().max_pending_events
    max_open_text: int = Limits().max_open_text
    max_pending_permissions: int = Limits().max_pending_permissions
    max_queued_inputs: int = Limits().max_queued_inputs
    max_restores: int = Limits().max_restores
    max_bundles: int = Limits().max_bundles
    max_workers: int = Limits().max_workers
    max_events_per_worker: int = Limits().max_events_per_worker
    max_event_age_s: int = Limits().max_event_age_s
    max_event_bytes: int = Limits().max_event_bytes
    max_runtime_events: int = Limits().max_runtime_events
    max_diagnostics: int = Limits().max_diagnostics
    transcript_cache_bytes: int = Limits().transcript_cache_bytes
    max_body_bytes: int = MAX_BODY_BYTES
    max_connections: int = MAX_CONNECTIONS
    max_unauthenticated_bytes: int = MAX_UNAUTHENTICATED_BYTES
    ring_bytes: int = RING_BYTES
    max_unread_bytes: int = MAX_UNREAD_BYTES
    heartbeat_s: float = HEARTBEAT_S
    header_timeout_s: float = HEADER_TIMEOUT_S
    drain_timeout_s: float = DRAIN_TIMEOUT_S
    http_quick_path: bool = True

    @property
    def store_path(self) -> Path | None:
        """The folder of an `fs:` store, `~` being the user's home; None for one in memory."""
        return None if self.store == "memory" else store_folder(self.store)

    @property
    def store_sync(self) -> Sync:
        """When the commits of an `fs:` store are synced."""
        return "normal" if "sync=normal" in _store_query(self.store) else "full"

    @property
    def store_create(self) -> bool:
        """Whether an `fs:` store that is not there is made."""
        return "create=no" not in _store_query(self.store)

    def limits(self) -> Limits:
        """What the Runtime takes and gives out at once."""
        names = (field.name for field in attrs.fields(Limits))
        return Limits(**{name: getattr(self, name) for name in names})

    def profile_table(self) -> dict[str, Profile]:
        """The configured profiles by selector. Raises ConfigurationError naming the key that is wrong."""
        return {name: _profile(name, fields) for name, fields in self.profiles.items()}


def store_folder(store: str, name: str = "store") -> Path:
    """The folder that `fs:PATH` names, whatever its query. Raises ConfigurationError for anything else."""
    match = STORE.fullmatch(store)
    if match is None:
        raise ConfigurationError(f"{name}: expected {STORE_RULE}")
    return Path(match["path"]).expanduser()


def _store_query(store: str) -> list[str]:
    match = STORE.fullmatch(store)
    return (match["query"] or "").split("&") if match else []


def load(flags: Mapping[str, Any], config: str | None = None) -> Settings:
    """The settings as they stand. `flags` holds those given on the command line, `config` the file named there.

    Raises ConfigurationError for an unknown key, a value that is not accepted, or a file that can't be read.
    """
    files = [Path(config)] if config else [file for file in _usual_files() if file.exists()]
    for file in files:
        _check_file(file)
    loaders: list[Loader] = [
        ts.FileLoader({"*": ts.TomlFormat(None)}, files),
        ts.EnvLoader(ENVIRONMENT_PREFIX),
        DictLoader(dict(flags)),
    ]
    try:
        settings = ts.load_settings(Settings, loaders, converter=_converter())
    except TsError as error:
        raise ConfigurationError(_problem(error)) from error
    _check(settings)
    return settings


def unknown_variables() -> list[str]:
    """The variables in the environment that look like settings and are none."""
    known = {f"{ENVIRONMENT_PREFIX}{field.name.upper()}" for field in attrs.fields(Settings)}
    known.add(f"{ENVIRONMENT_PREFIX}CONFIG")
    return sorted(name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and name not in known)


def config_file() -> str | None:
    """The configuration file that the environment names."""
    return os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG") or None


def _usual_files() -> list[Path]:
    home = os.environ.get("XDG_CONFIG_HOME") or (f"{os.environ['HOME']}/.config" if "HOME" in os.environ else "")
    return [SYSTEM_FILE, *([Path(home) / "runtimed" / "config.toml"] if home else [])]


def _check_file(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            found = tomllib.load(opened)
    except OSError as error:
        problem = "not found" if isinstance(error, FileNotFoundError) else f"{error.strerror}: expected a TOML file"
        raise ConfigurationError(f"config: {file}: {problem}") from error
    except ValueError as error:
        raise ConfigurationError(f"config: {file}: expected TOML in UTF-8: {error}") from error
    known = {field.name: field.type for field in attrs.fields(Settings)}
    for name, value in found.items():
        kind = known.get(name.replace("-", "_"))
        if kind is None:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigurationError(f"config: {file}: {name}: no such setting; {hint}")
        if type(value) is str and kind in NO_TEXT:
            raise ConfigurationError(f"config: {file}: {name}: expected {NO_TEXT[kind]}")


def _check(settings: Settings) -> None:
    _check_token(settings)
    if settings.store != "memory" and not STORE.fullmatch(settings.store):
        raise ConfigurationError(f"store: expected memory or {STORE_RULE}")
    if settings.runtime_id and not RUNTIME_ID.fullmatch(settings.runtime_id):
        raise ConfigurationError(
            "runtime_id: expected 1 to 128 characters of A-Z a-z 0-9 . _ : -, the first a letter or digit"
        )
    if not settings.listen:
        raise ConfigurationError(f"listen: {ADDRESS_RULE}")
    for host in settings.allow_host:
        if not HOST.fullmatch(host):
            raise ConfigurationError(f"allow_host: {host!r}: expected a host name, or one with a port")
    for name in (field.name for field in attrs.fields(Settings) if field.type in {int, float}):
        if getattr(settings, name) <= 0:
            raise ConfigurationError(f"{name}: expected a number above 0")
    if not MIN_SNAPSHOT_BYTES <= settings.max_snapshot_bytes <= MAX_SNAPSHOT_BYTES:
        raise ConfigurationError(
            f"max_snapshot_bytes: expected {MIN_SNAPSHOT_BYTES} to {MAX_SNAPSHOT_BYTES}, which clients rely on"
        )
    if settings.default_profile not in {*BUILT_IN, *settings.profile_table()}:
        raise ConfigurationError(f"default_profile: there is no profile {settings.default_profile!r}")


def _check_token(settings: Settings) -> None:
    if settings.token and not os.environ.get(TOKEN_VARIABLE):
        raise ConfigurationError("token: expected in RUNTIMED_TOKEN or in a token_file, not in the configuration")
    if settings.token and not TOKEN.fullmatch(settings.token):
        raise ConfigurationError(f"token: expected {TOKEN_RULE}")


class _Problem(ValueError):
    """A value that is not accepted; its repr is its sentence, which is what typed-settings passes on."""

    def __repr__(self) -> str:
        return str(self)


def _converter() -> Converter:
    made = get_default_cattrs_converter()
    made.register_structure_hook_func(is_kind(tuple), _list)
    made.register_structure_hook(int, _whole)
    made.register_structure_hook(float, _decimal)
    made.register_structure_hook(bool, _flag)
    made.register_structure_hook(str, _text)
    made.register_structure_hook_func(is_kind(Literal), _choice)
    made.register_structure_hook_func(is_kind(dict), _table)
    return made


def _whole(value: Any, _type: Any) -> int:
    if type(value) is str and WHOLE.fullmatch(value):
        value = int(value)
    if type(value) is not int or abs(value) > MAX_NUMBER:
        raise _Problem(f"expected a whole number, at most {MAX_NUMBER}")
    return value


def _decimal(value: Any, _type: Any) -> float:
    if type(value) is str and DECIMAL.fullmatch(value):
        value = float(value)
    if type(value) not in {int, float} or not abs(value) <= MAX_SECONDS:
        raise _Problem(f"expected a number, at most {MAX_SECONDS:.0f}")
    return float(value)


def _flag(value: Any, _type: Any) -> bool:
    if type(value) is str and value in FLAGS:
        return FLAGS[value]
    if type(value) is not bool:
        raise _Problem(f"expected {' or '.join(FLAGS)}")
    return value


def _list(value: Any, _type: Any) -> tuple[str, ...]:
    found = value.split(",") if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not all(isinstance(item, str) for item in found):
        raise _Problem("expected a list of texts")
    return tuple(item.strip() for item in found if item.strip())


def _text(value: Any, kind: type[str]) -> str:
    if not isinstance(value, str):
        raise _Problem("expected text")
    return kind(value)


def _choice(value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        raise _Problem(f"expected one of {', '.join(get_args(kind))}")
    return value


def _table(value: Any, _type: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise _Problem("expected a table in the configuration file")
    return value


def _problem(error: BaseException) -> str:
    """What typed-settings says, in a line of our own: `name: what was expected`."""
    inner: Sequence[BaseException] = getattr(error, "exceptions", ())
    text = str(inner[0] if inner else error)
    match = re.search(r"for option '([^']+)' from loader \w+(?:\[[^]]*\])?: (.*)", text, re.DOTALL)
    return f"{match[1]}: {match[2]}" if match else " ".join(text.split())


def _profile(name: str, fields: Any) -> Profile:
    place = f'profiles."{name}"'
    if not name.removeprefix(BUILTIN).strip():
        raise ConfigurationError(f"{place}: expected {BUILTIN}NAME or NAME")
    if type(fields) is not dict:
        raise ConfigurationError(f"{place}: expected a table, with a backend in it")
    try:
        found = _profiles.structure(fields, Profile)
    except Exception as error:
        problem = first_problem(error).within(place)
        raise ConfigurationError(f"{problem.path}: {problem.problem}") from error
    _check_profile(place, found)
    return found


def _check_profile(place: str, profile: Profile) -> None:
    if profile.backend in OF_PROGRAMS and not (profile.command and profile.command[0]):
        raise ConfigurationError(f"{place}.command: expected an argv, the program first")
    _check_executable(place, profile)
    for reference, path in profile.workspaces.items():
        if not Path(path).is_absolute():
            raise ConfigurationError(f'{place}.workspaces."{reference}": expected an absolute path')
    if not all(name.strip() for name in profile.session_config):
        raise ConfigurationError(f"{place}.session_config: expected names that are not blank")
    if profile.start_timeout_s <= 0:
        raise ConfigurationError(f"{place}.start_timeout_s: expected a number above 0")
    for name, least in LEAST.items():
        if 0 < getattr(profile, name) < least:
            raise ConfigurationError(f"{place}.{name}: expected 0 for no limit, or at least {least}")


def _check_executable(place: str, profile: Profile) -> None:
    """Refuse an argv and an environment that no program can be started with."""
    for index, word in enumerate(profile.command):
        if "\0" in word:
            raise ConfigurationError(f"{place}.command[{index}]: expected a string without NUL")
    for index, name in enumerate(profile.env_pass):
        if not name or "=" in name or "\0" in name:
            raise ConfigurationError(f"{place}.env_pass[{index}]: expected the name of a variable, got {name!r}")
        if name == TOKEN_VARIABLE:
            raise ConfigurationError(f"{place}.env_pass[{index}]: {name} is for clients, not for Workers")
    for name, value in profile.env.items():
        if not name or "=" in name or "\0" in name:
            raise ConfigurationError(f"{place}.env: expected names of variables, got {name!r}")
        if "\0" in value:
            raise ConfigurationError(f"{place}.env.{name}: expected a string without NUL")


def _profile_converter() -> Converter:
    made = make_strict_converter(explaining=True)
    made.register_structure_hook(float, _positive)
    made.register_structure_hook(int, _count)
    made.register_structure_hook_func(is_kind(Mapping), _texts)
    return made


def _positive(value: Any, _type: Any) -> float:
    if type(value) not in {int, float} or not 0 <= value <= MAX_SECONDS:
        raise FieldProblem(f"expected a number, 0 to {MAX_SECONDS:.0f}")
    return float(value)


def _count(value: Any, _type: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise FieldProblem(f"expected a whole number, 0 to {MAX_NUMBER}")
    return value


def _texts(value: Any, _type: Any) -> dict[str, str]:
    if type(value) is not dict:
        raise expected("a table", value)
    for name, text in value.items():
        if type(text) is not str:
            raise FieldProblem("expected a string", name)
    return value


_profiles = _profile_converter()
