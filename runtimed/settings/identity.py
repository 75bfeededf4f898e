"""Settings of the identity and the token of a Runtime."""

import os

import attrs
from typed_settings.types import SecretStr

from runtimed.errors import ConfigurationError
from runtimed.model.identity import RUNTIME_ID
from runtimed.settings.values import TOKEN_VARIABLE
from runtimed.wire.token import TOKEN, TOKEN_RULE

NO_TOKEN = SecretStr("")


@attrs.frozen(slots=False)
class IdentitySettings:
    """Who the Runtime is, and what its clients must present. The repr never shows the token."""

    runtime_id: str = ""
    display_name: str = ""
    token_file: str = ""
    token: SecretStr = NO_TOKEN

    def check_identity(self) -> None:
        """Raise ConfigurationError if the id or the token is malformed, or the token stands in the configuration."""
        if self.token and not os.environ.get(TOKEN_VARIABLE):
            raise ConfigurationError("token: expected in RUNTIMED_TOKEN or in a token_file, not in the configuration")
        if self.token and not TOKEN.fullmatch(self.token):
            raise ConfigurationError(f"token: expected {TOKEN_RULE}")
        if self.runtime_id and not RUNTIME_ID.fullmatch(self.runtime_id):
            raise ConfigurationError(
                "runtime_id: expected 1 to 128 characters of A-Z a-z 0-9 . _ : -, the first a letter or digit"
            )
