"""The plain installation that the cases of the command line measure."""

import subprocess
from pathlib import Path

from benchmarks.installation import install


def test_a_plain_installation_has_both_programs(tmp_path: Path) -> None:
    programs = install(tmp_path)

    for name in ("runtimed", "runtimectl"):
        said = subprocess.run([programs / name, "--version"], capture_output=True, text=True, check=True)
        assert said.stdout.startswith(name)
