"""Load settings: flags go before the environment, the environment before files, files before defaults."""

import logging
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import typed_settings as ts
from typed_settings.exceptions import TsError
from typed_settings.loaders import DictLoader, Loader

from runtimed.errors import ConfigurationError
from runtimed.settings.settings import Settings
from runtimed.settings.values import ENVIRONMENT_PREFIX, NO_TEXT, make_converter

SYSTEM_FILE = Path("/etc/runtimed/config.toml")

logging.getLogger("typed_settings").setLevel(logging.CRITICAL)  # what it logs it raises as well


def load(flags: Mapping[str, Any], config: str | None = None) -> Settings:
    """Load the settings.

    Args:
        flags: The options given on the command line, by setting.
        config: The configuration file to read instead of the usual ones.

    Raises:
        ConfigurationError: A key is unknown, a value is not accepted, or a file cannot be read.
    """
    files = configuration_files(config)
    for file in files:
        _check_file(file)
    loaders: list[Loader] = [
        ts.FileLoader({"*": ts.TomlFormat(None)}, files),
        ts.EnvLoader(ENVIRONMENT_PREFIX),
        DictLoader(dict(flags)),
    ]
    try:
        settings = ts.load_settings(Settings, loaders, converter=make_converter())
    except TsError as error:
        raise ConfigurationError(_problem(error)) from error
    settings.check()
    return settings


class Configuration:
    """The flags, the environment and the files that settings come from. The environment never changes.

    Args:
        flags: The options given on the command line, by setting.
        config: The configuration file to read instead of the usual ones.
    """

    def __init__(self, flags: Mapping[str, Any], config: str | None = None) -> None:
        self._flags = flags
        self.config = config
        self._read: list[Path] = []
        self._used: list[Path] = []

    def load(self) -> Settings:
        """Load the settings that the daemon starts with. Raises ConfigurationError."""
        self._used = configuration_files(self.config)
        return load(self._flags, self.config)

    def reload(self) -> Settings | None:
        """Load the settings again, or return None if there is no configuration file, and was none.

        Raises:
            ConfigurationError: As `load`, or a file that is in use is missing.
        """
        for file in self._used:
            _check_file(file)
        self._read = configuration_files(self.config)
        return load(self._flags, self.config) if self._read else None

    async def prepare(self, _new: Settings) -> Callable[[], None]:
        """Return what has the files of the last `reload` count as in use."""
        return partial(setattr, self, "_used", self._read)


def configuration_files(config: str | None = None) -> list[Path]:
    """Return the files that settings are read from.

    Args:
        config: The configuration file to read instead of the usual ones.
    """
    return [Path(config)] if config else [file for file in _usual_files() if not _is_absent(file)]


def configuration_folders() -> list[Path]:
    """Return the folders of the usual files that exist. Another file in them may replace such a file at any time."""
    return [file.parent for file in _usual_files() if os.path.isdir(file.parent)]  # noqa: PTH112 pathlib's may raise


def unknown_variables() -> list[str]:
    """Return the variables in the environment that look like settings and are none."""
    known = {f"{ENVIRONMENT_PREFIX}{field.name.upper()}" for field in attrs.fields(Settings)}
    known.add(f"{ENVIRONMENT_PREFIX}CONFIG")
    return sorted(name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and name not in known)


def config_file() -> str | None:
    """Return the configuration file that the environment names, or None."""
    return os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG") or None


def _usual_files() -> list[Path]:
    home = os.environ.get("XDG_CONFIG_HOME") or (f"{os.environ['HOME']}/.config" if "HOME" in os.environ else "")
    return [SYSTEM_FILE, *([Path(home) / "runtimed" / "config.toml"] if home else [])]


def _is_absent(file: Path) -> bool:
    """Return whether a file is known not to exist. One that cannot be looked at may."""
    try:
        file.stat()
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return False


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
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
            raise ConfigurationError(f"config: {file}: {name}: no such setting; {hint}")
        if type(value) is str and kind in NO_TEXT:
            raise ConfigurationError(f"config: {file}: {name}: expected {NO_TEXT[kind]}")


def _problem(error: BaseException) -> str:
    """Return the message of typed-settings as `name: what was expected`."""
    inner: Sequence[BaseException] = getattr(error, "exceptions", ())
    text = str(inner[0] if inner else error)
    match = re.search(r"for option '([^']+)' from loader \w+(?:\[[^]]*\])?: (.*)", text, re.DOTALL)
    return f"{match[1]}: {match[2]}" if match else " ".join(text.split())
