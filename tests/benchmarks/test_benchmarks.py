import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtimed.execution.confinement.probe import find_bubblewrap
from runtimed.execution.policy import FIRST_UID

REPOSITORY = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder on the repository's disk. Temporary folders of tests may be in memory."""
    (REPOSITORY / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=REPOSITORY / "build") as made:
        yield Path(made)


def sound(row: dict[str, Any]) -> bool:
    """Return whether a row has its figures, and whether they agree with its target."""
    figures = [*row["ours"]["all"], *row["baseline"]["all"]]
    ratio = row["ours"]["median"] / row["baseline"]["median"]
    bound = row["target"]["bound"]
    met = ratio >= bound if row["target"]["kind"] == "at least" else ratio <= bound
    return all(figure > 0 for figure in figures) and math.isclose(row["ratio"], ratio) and row["met"] is met


def test_a_quick_run_measures_a_case_against_its_baseline_and_writes_json(folder: Path, tmp_path: Path) -> None:
    written = tmp_path / "result.json"
    done = run("--quick", "replay", "--folder", str(folder), "--json", str(written))
    assert done.returncode == 0, done.stderr
    assert "| replay of" in done.stdout
    result = json.loads(written.read_text())
    assert result["quick"] is True
    assert result["repetitions"] == 1
    assert {"cpu", "cores", "memory", "kernel", "python", "packages", "revision", "load_average"} <= set(
        result["machine"]
    )
    assert len(result["rows"]) == 2
    assert all(sound(row) for row in result["rows"])
    assert not list(folder.iterdir())


def test_a_quick_run_measures_the_delays_of_an_agents_tokens(folder: Path, tmp_path: Path) -> None:
    written = tmp_path / "result.json"

    done = run("--quick", "model_pace", "--folder", str(folder), "--json", str(written))

    assert done.returncode == 0, done.stderr
    rows = json.loads(written.read_text())["rows"]
    assert [row["case"] for row in rows] == ["token to frame, 120/s, p50", "token to frame, 120/s, p99"]
    assert all(row["ours"]["median"] > 0 and row["baseline"]["median"] > 0 for row in rows)
    assert not list(folder.iterdir())


def test_a_quick_run_measures_the_delays_of_a_programs_events(folder: Path, tmp_path: Path) -> None:
    written = tmp_path / "result.json"

    done = run("--quick", "interactive", "--folder", str(folder), "--json", str(written))

    assert done.returncode == 0, done.stderr
    rows = json.loads(written.read_text())["rows"]
    assert len(rows) == 2
    assert all(sound(row) for row in rows)


def test_a_quick_run_measures_the_create_of_a_warm_agent(folder: Path, tmp_path: Path) -> None:
    written = tmp_path / "result.json"

    done = run("--quick", "warm_create", "--folder", str(folder), "--json", str(written))

    assert done.returncode == 0, done.stderr
    (row,) = json.loads(written.read_text())["rows"]
    assert sound(row)
    assert row["baseline"]["median"] > 0.5
    assert not list(folder.iterdir())


def test_a_quick_run_measures_the_stream_and_the_first_byte_of_a_gateway(folder: Path, tmp_path: Path) -> None:
    written = tmp_path / "result.json"

    done = run("--quick", "gateway", "--folder", str(folder), "--json", str(written))

    assert done.returncode == 0, done.stderr
    rows = json.loads(written.read_text())["rows"]
    assert [row["case"] for row in rows] == ["gateway: streamed bytes", "gateway: first byte"]
    assert all(sound(row) for row in rows)


def test_a_quick_run_measures_a_confined_program(folder: Path, tmp_path: Path) -> None:
    if find_bubblewrap(FIRST_UID if os.geteuid() == 0 else None)[1] is None:
        pytest.skip("bubblewrap does not work here")
    written = tmp_path / "result.json"

    done = run("--quick", "confined_spawn", "--folder", str(folder), "--json", str(written))

    assert done.returncode == 0, done.stderr
    rows = json.loads(written.read_text())["rows"]
    assert [row["case"] for row in rows] == [
        "first confined spawn, to its end",
        "following confined spawn, to its end",
    ]
    assert all(sound(row) for row in rows)
    assert not list(folder.iterdir())


def test_an_unknown_case_is_a_usage_error_that_names_the_known_ones() -> None:
    done = run("nothing")
    assert done.returncode == 2
    assert "'nothing'" in done.stderr
    assert "fan_out" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_in_memory_is_refused() -> None:
    done = run("--quick", "replay", "--folder", "/dev/shm")
    assert done.returncode == 2
    assert "expected a folder on a disk" in done.stderr


def test_the_help_says_what_each_case_measures() -> None:
    said = run("--help").stdout
    assert "durable_input" in said
    assert "against a bare aiohttp handler" in said
