"""What the configuration of a Git policy means, and the Git configuration that sends a Worker's Git to a gateway."""

from collections.abc import Iterable, Mapping
from typing import Self

import attrs

from runtimed.execution.policy import GitPolicy
from runtimed.gateways.credentials import check_headers
from runtimed.gateways.gateway_rules import Origin, split_url
from runtimed.gateways.request_paths import PathPattern

REMOTE_RULE = "expected the URL of a repository, such as https://git.example.com/team/*"
KEY_HEADER = "X-Runtimed-Key"
"""The header that carries the throwaway key, so that `Authorization` is free for the remote's own."""

SUFFIX = ".git"


@attrs.frozen
class Remote:
    """A pattern of repository URLs. A `.git` at the end makes no difference."""

    origin: Origin
    path: PathPattern

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the pattern of a remote.

        Raises:
            ValueError: It is none. The message says what is accepted.
        """
        try:
            origin, path = split_url(text)
            return cls(origin, PathPattern.parse(path.rstrip("/").removesuffix(SUFFIX)))
        except ValueError as error:
            raise ValueError(f"remotes: {text!r}: {REMOTE_RULE} ({error})") from None

    def matches(self, origin: Origin, path: str) -> bool:
        """Return whether a repository is one of these."""
        return origin == self.origin and self.path.matches(path.removesuffix(SUFFIX))

    def __str__(self) -> str:
        return f"{self.origin}{self.path}"


def check_git_policy(policy: GitPolicy) -> None:
    """Check the configuration of a Git policy.

    Raises:
        ValueError: A value is invalid. The message begins with its key, and says what is accepted.
    """
    check_headers(policy.headers)
    if not policy.remotes:
        raise ValueError(f"remotes: expected at least one; {REMOTE_RULE}")
    for remote in policy.remotes:
        Remote.parse(remote)


def git_environment(
    address: str, key: str, policies: Iterable[GitPolicy], env: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the variables that send the Git of a Worker to its gateway.

    Args:
        address: The URL of the gateway, such as `http://127.0.0.1:3130`.
        key: The throwaway key of the Worker.
        policies: What the gateway serves.
        env: The variables that the Worker has already. Their numbered configuration stays.
    """
    remotes = [Remote.parse(text) for policy in policies for text in policy.remotes]
    origins = {str(remote.origin): remote.origin for remote in remotes}
    settings = [
        (f"http.{address}/.extraHeader", f"{KEY_HEADER}: {key}"),
        *((f"url.{address}{place(origin)}/.insteadOf", f"{origin}/") for _, origin in sorted(origins.items())),
    ]
    given = (env or {}).get("GIT_CONFIG_COUNT", "")
    first = int(given) if given.isdecimal() else 0
    variables = {"GIT_CONFIG_COUNT": str(first + len(settings))}
    for number, (name, value) in enumerate(settings, first):
        variables |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


def place(origin: Origin) -> str:
    """Return the path below a gateway at which an origin is reached, such as `/https/git.example.com`."""
    return f"/{origin.scheme}/{origin.netloc}"
