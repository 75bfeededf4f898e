"""What the host's configuration says of a profile."""

from collections.abc import Mapping
from typing import Literal

import attrs

Backend = Literal["echo", "shell", "process", "acp"]
Permissions = Literal["ask", "allow", "deny"]

ECHO = "builtin:echo"
SHELL = "builtin:shell"


@attrs.frozen
class Profile:
    """How Workers of one selector are run; times are in seconds.

    `command` is an argv. `env` is added to the short list that a Worker's programs inherit. `capabilities` must all
    have been requested by the Worker. `stop_grace_s` is how long a program may take to end before it is killed.
    """

    backend: Backend
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = attrs.field(factory=dict)
    capabilities: tuple[str, ...] = ()
    permissions: Permissions = "ask"
    permission_timeout_s: float = 300.0
    stop_grace_s: float = 5.0


BUILT_IN: Mapping[str, Profile] = {
    ECHO: Profile("echo"),
    SHELL: Profile("shell", capabilities=("shell",)),
}
"""The profiles that are there without any configuration."""
