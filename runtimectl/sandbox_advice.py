"""What the doctor says about the confinement of Workers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

INSTALL = "Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install bubblewrap; Alpine: apk add bubblewrap"
UTIL_LINUX = "Debian, Ubuntu: apt install util-linux; Fedora: dnf install util-linux; Alpine: apk add setpriv"
UBUNTU = "Ubuntu: load the AppArmor profile bwrap-userns-restrict, which is in the package apparmor-profiles"
DOCKER = (
    "Docker: start the container with --user 1000:1000 --security-opt seccomp=unconfined "
    "--security-opt apparmor=unconfined --security-opt systempaths=unconfined"
)
BY_PROBLEM: Sequence[tuple[str, str]] = (
    ("bwrap is not in PATH", INSTALL),
    ("setpriv is not in PATH", UTIL_LINUX),
    ("setting up uid map", UBUNTU),
    ("RTM_NEWADDR", UBUNTU),
    ("new namespace", f"{DOCKER}; elsewhere set the sysctl user.max_user_namespaces above 0"),
    ("Can't mount proc", DOCKER),
    ("Failed to make / slave", DOCKER),
    ("pivot_root", DOCKER),
)
"""What bubblewrap says when it cannot work, and the way to change that."""


def verdict(sandbox: Mapping[str, Any]) -> tuple[Literal["ok", "warn", "fail"], str]:
    """Return whether Workers are confined, and how."""
    mechanism = sandbox["mechanism"]
    match sandbox["mode"], mechanism:
        case "off", _:
            return "warn", "sandbox.mode is off: nothing confines Workers, they can do what the daemon's user can"
        case "required", "none":
            return "fail", "nothing can confine Workers, and sandbox.mode is required: none with a program starts"
        case _, "none":
            return "warn", "nothing can confine Workers: they can do what the daemon's user can"
    weaker = ", which is weaker than bubblewrap" if mechanism == "landlock" else ""
    return "ok", f"{mechanism} confines Workers{weaker}; network: {sandbox['network']}"


def advice(check: Mapping[str, Any]) -> str:
    """Return why a mechanism does not work, and how to get it, if that is known."""
    problem = check["problem"]
    found = next((text for part, text in BY_PROBLEM if part in problem), None)
    message = f"{check['mechanism']} does not work: {problem}"
    return message if found is None else f"{message}. {found}"
