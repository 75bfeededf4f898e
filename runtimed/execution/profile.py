"""The profiles of a host: how the Workers of a selector are run."""

from collections.abc import Mapping
from typing import Literal

import attrs

from runtimed.execution.policy import SandboxPolicy
from runtimed.execution.processes.confinement import SandboxRequest
from runtimed.execution.processes.environment import environment
from runtimed.execution.processes.limits import TreeLimits
from runtimed.model.execution import RestartPolicy
from runtimed.model.mcp_server import McpServer

Permissions = Literal["ask", "allow", "deny"]
Offer = Literal["read", "write", "shell"]

ECHO = "builtin:echo"
SHELL = "builtin:shell"


@attrs.frozen
class Profile:
    """How Workers of one selector are run; times are in seconds, sizes in bytes.

    `command` is an argv; `~/` at the start of a part is the home of the daemon's user. `env` is added to the short
    list that a Worker's programs inherit, and to the variables of the daemon that `env_pass` names. `capabilities`
    must all have been requested by the Worker. `stop_grace_s` is how long a program may take to end before it is
    killed, `start_timeout_s` how long until it is ready for the first input. `description` tells clients what the
    profile is for.

    A run that emits nothing gets an alert after `quiet_alert_s`, then after twice that, and so on; after
    `max_silence_s` it is interrupted; 0 means never. `restart` says what follows the end of the program.

    The limits: memory and processes are those of all that a Worker has started, CPU time, output and duration those
    of one run, and the folder is the Worker's own with the workspaces in it; 0 means none.

    `workspaces` says which shared folder a workspace reference means, besides those of the host.

    For agents: `auth_method` is the id of the way to authenticate that the agent is told to take where it asks for
    one. `offers` is what of files and terminals is offered to the agent; without it the capabilities are.
    `session_config` is set in each session. `mcp_servers` are handed on in each session, and with `mcp_from_clients`
    those that a request names too. `warm` is how many agents are started before their Workers are known.

    `sandbox` says how the programs are confined.
    """

    backend: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = attrs.field(factory=dict)
    env_pass: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    permissions: Permissions = "ask"
    permission_timeout_s: float = 300.0
    stop_grace_s: float = 5.0
    start_timeout_s: float = 60.0
    quiet_alert_s: float = 60.0
    max_silence_s: float = 0.0
    restart: RestartPolicy = "next_input"
    workspaces: Mapping[str, str] = attrs.field(factory=dict)
    auth_method: str = ""
    offers: tuple[Offer, ...] | None = None
    session_config: Mapping[str, str] = attrs.field(factory=dict)
    mcp_servers: tuple[McpServer, ...] = ()
    mcp_from_clients: bool = False
    warm: int = 0
    max_memory_bytes: int = 4 << 30
    max_processes: int = 1024
    max_cpu_s: float = 0.0
    max_output_bytes: int = 1 << 30
    max_run_s: float = 0.0
    max_folder_bytes: int = 16 << 30
    description: str = ""
    sandbox: SandboxPolicy = attrs.field(factory=SandboxPolicy)

    @property
    def offered(self) -> frozenset[str]:
        """The file and terminal methods that an agent is offered."""
        return frozenset(self.capabilities if self.offers is None else self.offers)

    def with_env(self, variables: Mapping[str, str]) -> "Profile":
        """Return this profile with further environment variables."""
        return attrs.evolve(self, env={**self.env, **variables}) if variables else self

    @property
    def sandbox_request(self) -> SandboxRequest:
        """What confines its programs."""
        return SandboxRequest(self.sandbox, self.command, environment(self.env, self.env_pass), self.env)

    @property
    def tree_limits(self) -> TreeLimits:
        """The limits of the process tree of a Worker."""
        return TreeLimits(self.max_memory_bytes, self.max_processes, self.max_cpu_s)


BUILT_IN: Mapping[str, Profile] = {
    ECHO: Profile("echo"),
    SHELL: Profile("shell", capabilities=("shell",)),
}
"""The profiles that exist without configuration."""
