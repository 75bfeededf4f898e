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
            path = Path(settings.token_file).absolute()
            try:
                return cls(read_token(path), path)
            except TokenFileError as error:
                raise ConfigurationError(f"token_file: {path}: {error}") from error
        if opened.keeps_token:
            return cls(*opened.data_dir.read_or_make_token())
        return cls(secrets.token_urlsafe(32), made=True)


class TokenFile:
    """The file that holds the token. Which file that is does not change before the next start.

    Args:
        settings: The settings at the start.
        opened: The store.
        token: The token in use.
        replace: Called with another token.
    """

    def __init__(
        self, settings: Settings, opened: OpenedStore, token: FirstToken, replace: Callable[[str], None]
    ) -> None:
        self._settings, self._opened, self._token, self._replace = settings, opened, token, replace

    async def prepare(self, _new: Settings) -> Apply:
        """Read the file again."""
        if self._token.made:
            return partial(self._apply, self._token)
        return partial(self._apply, await asyncio.to_thread(FirstToken.find, self._settings, self._opened))

    def _apply(self, found: FirstToken) -> None:
        if found.text != self._token.text:
            self._token = found
            self._replace(found.text)
            log.info("the token has changed")
