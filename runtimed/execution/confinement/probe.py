"""Find out which mechanisms confine programs on this host. Everything here blocks."""

import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import attrs

from runtimed.execution.confinement import landlock
from runtimed.execution.confinement.bubblewrap import Bubblewrap
from runtimed.execution.confinement.landlock_confinement import LandlockConfinement
from runtimed.execution.confinement.reach import Bind, Confinement, Reach
from runtimed.model.profile import Mechanism, MechanismCheck

PROBE_DEADLINE_S = 10.0
MAX_PROBLEM = 500
"""The most characters of what is in the way of a mechanism."""

log = logging.getLogger(__name__)


@attrs.frozen
class Mechanisms:
    """What could confine programs on this host.

    Attributes:
        working: The mechanisms that work, the strongest first.
        checks: All of them, each with what is in its way.
    """

    working: tuple[Confinement, ...] = ()
    checks: tuple[MechanismCheck, ...] = ()


def find_mechanisms(uid: int | None) -> Mechanisms:
    """Try each mechanism.

    Args:
        uid: A user that programs of Workers run as, where the daemon is root.
    """
    found: list[Confinement] = []
    problem, bubblewrap = find_bubblewrap(uid)
    if bubblewrap is None:
        log.info("bubblewrap cannot be used", extra={"reason": problem})
    else:
        found.append(bubblewrap)
    if (unusable := landlock.unusable()) is not None:
        log.info("Landlock cannot be used", extra={"reason": unusable})
    else:
        found.append(LandlockConfinement(landlock.abi()))
    checks = (_check("bubblewrap", problem), _check("landlock", (unusable or "").removeprefix("Landlock: ")))
    return Mechanisms(tuple(found), checks)


def _check(mechanism: Mechanism, problem: str) -> MechanismCheck:
    return MechanismCheck(mechanism, not problem, " ".join(problem.split())[:MAX_PROBLEM] or None)


def find_bubblewrap(uid: int | None) -> tuple[str, Bubblewrap | None]:
    """Return bubblewrap if it works, or why it does not, in words for people."""
    program, setpriv = shutil.which("bwrap"), shutil.which("setpriv")
    if program is None:
        return "bwrap is not in PATH: install bubblewrap", None
    if setpriv is None:
        return "setpriv is not in PATH: install util-linux", None
    made = Bubblewrap(program, setpriv)
    problem = _problem(made, uid)
    return problem, None if problem else made


def _problem(mechanism: Confinement, uid: int | None) -> str:
    """Return why no program can be started in a mechanism, or nothing."""
    with tempfile.TemporaryDirectory() as text:
        shown = Path(text).resolve()
        reach = Reach((Bind(shown, shown),), uid=uid, network="none")
        launch = mechanism.launch(reach, ["true"], Path("/"), os.environ)
        try:
            ran = subprocess.run(
                launch.argv,
                env=launch.env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_DEADLINE_S,
                pass_fds=launch.descriptors,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        finally:
            launch.close()
            for descriptor in launch.descriptors:
                os.close(descriptor)
    return ran.stderr.decode(errors="replace").strip() if ran.returncode else ""
