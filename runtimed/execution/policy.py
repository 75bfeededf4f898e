"""What a host's configuration lets the programs of its Workers reach: values without I/O."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from runtimed.execution.network.rules import NetworkRule
from runtimed.model.profile import SandboxMode

Home = Literal["worker", "user"]
NetworkKind = Literal["none", "public", "host"]

FIRST_UID, LAST_UID = 100_000, 165_535
"""The user ids of Workers, unless the configuration names others."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}", re.ASCII)
NAME_RULE = "1 to 64 characters of A-Z a-z 0-9 _ . @ + -, the first a letter, a digit or _"
"""The names of the resources of a host. Each can be the name of a file too."""

UPSTREAM_CONNECT_S = 10.0
UPSTREAM_SILENCE_S = 300.0
UPSTREAM_TOTAL_S = 3_600.0
MAX_GATEWAY_BYTES = 256 << 20
MAX_GATEWAY_REQUESTS = 64


@attrs.frozen
class SandboxPolicy:
    """How the programs of a profile's Workers are confined.

    Attributes:
        mode: `required` rejects a spawn that cannot be confined, `best` confines as far as this host can, `off` does
            not confine.
        network: `none`, `public` for every public address, `host` for everything that the daemon can reach, or the
            rules for the only destinations.
        readonly: Further host paths that can be read.
        writable: Further host paths that can be written to.
        home: Whether HOME is a folder of the Worker or that of the daemon's user.
    """

    mode: SandboxMode = "best"
    network: NetworkKind | tuple[NetworkRule, ...] = "public"
    readonly: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    home: Home = "worker"


@attrs.frozen
class Secret:
    """Where the daemon finds the value of a secret: in a file or in a variable of its environment, never in both."""

    file: Path | None = None
    env: str | None = None


@attrs.frozen
class Mount:
    """A folder or file of the host that a Worker can be given."""

    path: Path
    writable: bool = False


@attrs.frozen
class GitPolicy:
    """The Git remotes that a Worker can use.

    Attributes:
        remotes: URLs of repositories; a `*` stands for the rest of a URL.
        push: Whether a Worker may push, not only fetch.
        headers: Headers that replace those of a request, as in a gateway. Without an `Authorization` among them, that
            of the Worker is passed on.
    """

    remotes: tuple[str, ...]
    push: bool = False
    headers: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Gateway:
    """An HTTP service that a Worker reaches through the daemon, which adds the credentials.

    Attributes:
        upstream: The URL below which requests are sent, `http` or `https`.
        headers: Headers that replace those of a request. `secret:NAME` in a value stands for that secret.
        allow: The requests that are passed on, each as `METHOD PATH`. A `*` at the end of a path stands for its
            rest, elsewhere for a part of one segment.
        connect_timeout_s: How long a connection to the upstream may take.
        silence_timeout_s: How long a request or a response may rest.
        total_timeout_s: How long a request may take, with its response.
        max_request_bytes: The largest body of a request.
        max_response_bytes: The largest body of a response.
        max_requests: How many requests of one Worker are served at the same time.
    """

    upstream: str
    headers: Mapping[str, str] = attrs.field(factory=dict)
    allow: tuple[str, ...] = ()
    connect_timeout_s: float = UPSTREAM_CONNECT_S
    silence_timeout_s: float = UPSTREAM_SILENCE_S
    total_timeout_s: float = UPSTREAM_TOTAL_S
    max_request_bytes: int = MAX_GATEWAY_BYTES
    max_response_bytes: int = MAX_GATEWAY_BYTES
    max_requests: int = MAX_GATEWAY_REQUESTS


@attrs.frozen
class HostResources:
    """What the names in profiles, config bundles and requests mean on this host."""

    secrets: Mapping[str, Secret] = attrs.field(factory=dict)
    gateways: Mapping[str, Gateway] = attrs.field(factory=dict)
    mounts: Mapping[str, Mount] = attrs.field(factory=dict)
    network_policies: Mapping[str, tuple[NetworkRule, ...]] = attrs.field(factory=dict)
    shell_policies: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    git_policies: Mapping[str, GitPolicy] = attrs.field(factory=dict)
