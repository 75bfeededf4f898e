"""The first token of a Runtime, and where it is kept."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs

from runtimed.errors import ConfigurationError
from runtimed.reload import Apply
from runtimed.settings import Settings
from runtimed.store.factories import OpenedStore
from runtimed.wire.token import TokenFileError, read_token

log = logging.getLogger(__name__)


@attrs.frozen
class FirstToken:
    """The token that grants full access.

    Attributes:
        text: The token itself.
        file: The file that holds it, if any.
        made: The daemon generated it without a file: clients find it in the endpoint file only.
    """

    text: str = attrs.field(repr=False)
    file: Path | None = None
    made: bool = False

    @classmethod
    def find(cls, settings: Settings, opened: OpenedStore) -> "FirstToken":
        """Return the token that the settings name, that of the store, or a new one. Blocks.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        if settings.token:
            return cls(str(settings.token))
        if settings.token_file:
            return _read(Path(settings.token_file).absolute())
        if opened.keeps_token:
            return cls(*opened.data_dir.read_or_make_token())
        return cls(secrets.token_urlsafe(32), made=True)


class TokenFile:
    """The file that holds the token. Which file that is does not change before the next start.

    Args:
        token: The token in use.
        replace: Called with another token.
    """

    def __init__(self, token: FirstToken, replace: Callable[[str], None]) -> None:
        self._token, self._replace = token, replace

    async def prepare(self, _new: Settings) -> Apply:
        """Read the file again, if there is one. Raises ConfigurationError if it is missing: only a start makes it."""
        if self._token.file is None:
            return partial(self._apply, self._token)
        return partial(self._apply, await asyncio.to_thread(_read, self._token.file))

    def _apply(self, found: FirstToken) -> None:
        if found.text != self._token.text:
            self._token = found
            self._replace(found.text)
            log.info("the token has changed")


def _read(file: Path) -> FirstToken:
    try:
        return FirstToken(read_token(file), file)
    except TokenFileError as error:
        raise ConfigurationError(f"token_file: {file}: {error}") from error
