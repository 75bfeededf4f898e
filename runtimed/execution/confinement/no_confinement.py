"""No confinement: programs run with the rights of the daemon."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from runtimed.execution.confinement.reach import Reach
from runtimed.execution.processes.confinement import Launch
from runtimed.execution.processes.descriptor_limit import limited
from runtimed.model.profile import Mechanism


class NoConfinement:
    """The Confinement of Workers that nothing confines."""

    mechanism: Mechanism = "none"
    has_own_files = False
    limits_network = False

    def problem(self, reach: Reach) -> str | None:
        return None

    def launch(
        self,
        reach: Reach,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        max_descriptors: int | None = None,
    ) -> Launch:
        return Launch(list(limited(command, max_descriptors)), env=env, keeps_together=False)

    def launch_ahead(
        self, reach: Reach, cwd: Path, env: Mapping[str, str], max_descriptors: int | None = None
    ) -> None:
        return None
