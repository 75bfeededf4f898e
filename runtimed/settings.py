"""What an operator can set: a flag goes before the environment, that before the configuration file, that before the
default."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import attrs
import typed_settings as ts
from cattrs import Converter
from typed_settings.converters import get_default_cattrs_converter
from typed_settings.exceptions import TsError
from typed_settings.loaders import DictLoader, Loader
from typed_settings.types import SecretStr

from runtimed.core.limits import Limits
from runtimed.errors import ConfigurationError
from runtimed.execution.profile import ECHO, Profile
from runtimed.feed.feed import RING_BYTES
from runtimed.http.app import MAX_BODY_BYTES
from runtimed.http.feed import FeedOptions
from runtimed.http.server import DRAIN_TIMEOUT_S, HEADER_TIMEOUT_S, MAX_CONNECTIONS
from runtimed.model.identity import RUNTIME_ID
from runtimed.wire.converter import is_kind, make_strict_converter
from runtimed.wire.problems import FieldProblem, expected, first_problem

ENVIRONMENT_PREFIX = "RUNTIMED_"
SYSTEM_FILE = Path("/etc/runtimed/config.toml")
LOG_LEVELS = ("debug", "info", "warning", "error")

TOKEN = re.compile(r"[!-~]+", re.ASCII)
NO_TOKEN = SecretStr("")

LogFormat = Literal["auto", "text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

logging.getLogger("typed_settings").setLevel(logging.CRITICAL)  # what it logs it raises as well

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
    max_transcript_projection_items: int = Limits().max_transcript_projection_items
    max_event_batch_items: int = Limits().max_event_batch_items
    max_page_bytes: int = Limits().max_page_bytes
    max_pending_events: int = Limits().max_pending_events
    max_bundles: int = Limits().max_bundles
    max_body_bytes: int = MAX_BODY_BYTES
    max_connections: int = MAX_CONNECTIONS
    ring_bytes: int = RING_BYTES
    heartbeat_s: float = FeedOptions().heartbeat_s
    header_timeout_s: float = HEADER_TIMEOUT_S
    drain_timeout_s: float = DRAIN_TIMEOUT_S

    @property
    def store_path(self) -> Path | None:
        """The folder of an `fs:` store, None for one in memory."""
        return None if self.store == "memory" else Path(self.store.removeprefix("fs:"))

    def limits(self) -> Limits:
        """What the Runtime takes and gives out at once."""
        names = (field.name for field in attrs.fields(Limits))
        return Limits(**{name: getattr(self, name) for name in names})

    def profile_table(self) -> dict[str, Profile]:
        """The configured profiles by selector. Raises ConfigurationError naming the key that is wrong."""
        return {name: _profile(name, fields) for name, fields in self.profiles.items()}


def load(flags: Mapping[str, Any], config: str | None = None) -> Settings:
    """The settings as they stand. `flags` holds those given on the command line, `config` the file named there.

    Raises ConfigurationError for an unknown key, a value that is not accepted, or a file that can't be read.
    """
    loaders: list[Loader] = [
        ts.FileLoader({"*": ts.TomlFormat(None)}, [f"!{config}"] if config else _usual_files()),
        ts.EnvLoader(ENVIRONMENT_PREFIX),
        DictLoader(dict(flags)),
    ]
    if config and not Path(config).is_file():
        raise ConfigurationError(f"config: {config}: expected a TOML file")
    try:
        settings = ts.load_settings(Settings, loaders, converter=_converter())
    except (TsError, OSError) as error:
        raise ConfigurationError(_problem(error)) from error
    _check(settings)
    return settings


def config_file() -> str | None:
    """The configuration file that the environment names."""
    return os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG") or None


def _usual_files() -> list[str]:
    home = os.environ.get("XDG_CONFIG_HOME")
    own = Path(home) if home else Path.home() / ".config"
    return [str(SYSTEM_FILE), str(own / "runtimed" / "config.toml")]


def _check(settings: Settings) -> None:
    if settings.token and not os.environ.get(f"{ENVIRONMENT_PREFIX}TOKEN"):
        raise ConfigurationError("token: expected in RUNTIMED_TOKEN or in a token_file, not in the configuration")
    if settings.token and not TOKEN.fullmatch(settings.token):
        raise ConfigurationError("token: expected printable ASCII without spaces")
    if settings.store != "memory" and not re.fullmatch(r"fs:.*\S.*", settings.store):
        raise ConfigurationError("store: expected memory or fs:PATH")
    if settings.runtime_id and not RUNTIME_ID.fullmatch(settings.runtime_id):
        raise ConfigurationError(
            "runtime_id: expected 1 to 128 characters of A-Z a-z 0-9 . _ : -, the first a letter or digit"
        )
    if not settings.listen:
        raise ConfigurationError("listen: expected HOST:PORT or unix:PATH")
    for name in (field.name for field in attrs.fields(Settings) if field.type in {int, float}):
        if getattr(settings, name) <= 0:
            raise ConfigurationError(f"{name}: expected a number above 0")
    settings.profile_table()


class _Problem(ValueError):
    """A value that is not accepted; its repr is its sentence, which is what typed-settings passes on."""

    def __repr__(self) -> str:
        return str(self)


def _converter() -> Converter:
    made = get_default_cattrs_converter()
    ts.register_strlist_hook(made, sep=",")
    made.register_structure_hook(int, _whole)
    made.register_structure_hook(float, _decimal)
    made.register_structure_hook(str, _text)
    made.register_structure_hook_func(is_kind(Literal), _choice)
    made.register_structure_hook_func(is_kind(dict), _table)
    return made


def _whole(value: Any, _type: Any) -> int:
    if type(value) is int:
        return value
    if type(value) is str and WHOLE.fullmatch(value):
        return int(value)
    raise _Problem("expected a whole number")


def _decimal(value: Any, _type: Any) -> float:
    if type(value) in {int, float}:
        return float(value)
    if type(value) is str and DECIMAL.fullmatch(value):
        return float(value)
    raise _Problem("expected a number")


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
    try:
        return _profiles.structure(fields, Profile)
    except Exception as error:
        problem = first_problem(error).within(f'profiles."{name}"')
        raise ConfigurationError(f"{problem.path}: {problem.problem}") from error


def _profile_converter() -> Converter:
    made = make_strict_converter()
    made.register_structure_hook(float, _positive)
    made.register_structure_hook_func(is_kind(Mapping), _texts)
    return made


def _positive(value: Any, _type: Any) -> float:
    if type(value) not in {int, float} or value < 0:
        raise FieldProblem("expected a number, 0 or more")
    return float(value)


def _texts(value: Any, _type: Any) -> dict[str, str]:
    if type(value) is not dict:
        raise expected("an object", value)
    for name, text in value.items():
        if type(text) is not str:
            raise FieldProblem("expected a string", name)
    return value


_profiles = _profile_converter()
