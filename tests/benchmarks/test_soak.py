"""The soak: the program itself for a short time, and how it judges what it has sampled."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.soak.samples import BOUNDS
from benchmarks.soak.trend import Bound, judge
from tests.acceptance.daemon.conftest import until
from tests.security.conftest import new_place, seen_by_nobody

REPOSITORY = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
BOUND = Bound(0.05, 4.0)
COUNTS = {"processes", "observers", "workers"}
"""The figures that are 0 now and then."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.soak", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.parametrize(("rise", "is_flat"), [(0.0, True), (0.01, True), (0.2, False), (-1.0, True)])
def test_a_figure_is_flat_if_what_its_slope_adds_up_to_is_within_the_bound(rise: float, is_flat: bool) -> None:
    noise = random.Random(1)
    points = [(second / 2, 100 + rise * second / 2 + noise.uniform(-3, 3)) for second in range(240)]

    assert judge(points, BOUND).is_flat is is_flat


def test_growth_during_the_warm_up_and_single_peaks_are_no_trend() -> None:
    warming = [(float(second), 10.0 * second) for second in range(40)]
    peaks = [(float(second), 1_000.0 if second % 20 == 0 else 390.0) for second in range(40, 120)]

    trend = judge([*warming, *peaks], BOUND)

    assert trend.is_flat
    assert trend.middle == 390


def test_a_leak_in_a_long_soak_is_found_among_a_part_of_its_samples() -> None:
    points = [(float(second), 1_000 + second * 0.1) for second in range(36_000)]

    trend = judge(points, BOUND)

    assert not trend.is_flat
    assert trend.growth == pytest.approx(2_400, rel=0.02)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
@pytest.mark.timeout(120)
def test_a_short_soak_uses_the_daemon_restarts_it_and_leaves_samples_and_a_plot(tmp_path: Path) -> None:
    done = run("--minutes", "0.3", "--folder", str(tmp_path))

    assert "an action failed" not in done.stderr
    assert done.returncode in {0, 1}, done.stderr
    assert (done.returncode == 0) is ("GROWS" not in done.stdout)
    counted, head, *lines = done.stdout.splitlines()
    counts = dict(one.split(": ") for one in counted.split(", "))
    assert counts.keys() == {
        "observe",
        "use token",
        "use worker",
        "reload",
        "rotate certificate",
        "rotate audit log",
        "back up",
        "scrape",
    }
    assert head.split() == ["figure", "median", "growth", "allowed"]
    assert [line.split()[0] for line in lines] == list(BOUNDS)
    with (tmp_path / "soak.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["life"] for row in rows} == {"1", "2", "3"}
    assert all(float(row[name]) > 0 for row in rows for name in BOUNDS if name not in COUNTS)
    assert all(any(float(row[name]) > 0 for row in rows) for name in COUNTS)
    plot = ET.fromstring((tmp_path / "soak.svg").read_text())
    assert len(plot.findall(f".//{SVG}polyline")) == len(BOUNDS)
    assert not (tmp_path / "soak").exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
@pytest.mark.timeout(120)
def test_a_soak_ends_and_says_why_when_its_daemon_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", "60", "--folder", str(tmp_path)]
    endpoints, log = tmp_path / "soak" / "runtimed", tmp_path / "soak" / "log"
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as soak:
        try:
            until(lambda: log.exists() and '"verb": "create"' in log.read_text())
            endpoint = next(endpoints.glob("*.json"))
            os.kill(int(json.loads(endpoint.read_text())["pid"]), signal.SIGKILL)
            _, said = soak.communicate(timeout=90)
        finally:
            soak.send_signal(signal.SIGINT)

    assert soak.returncode == 1
    assert "an action failed" in said
    with (tmp_path / "soak.csv").open(newline="") as file:
        samples = csv.DictReader(file)
        assert samples.fieldnames == ["life", "seconds", *BOUNDS]
        assert {row["life"] for row in samples} <= {"1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run the soak as an ordinary user")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
@pytest.mark.timeout(120)
def test_an_ordinary_user_can_run_a_soak() -> None:
    with new_place("another user") as place:
        soak = [sys.executable, "-B", "-m", "benchmarks.soak", "--minutes", "0.05", "--folder", str(place.home)]
        done = subprocess.run(
            [*seen_by_nobody(), *soak],
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], "HOME": str(place.home)},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        with (place.home / "soak.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))

    assert "an action failed" not in done.stderr
    assert {row["life"] for row in rows} == {"1", "2", "3"}, done.stderr
    assert all(float(row["descriptors"]) > 0 for row in rows)


@pytest.mark.parametrize("minutes", ["0", "-1", "three", "nan"])
def test_a_soak_of_no_time_is_refused(minutes: str) -> None:
    done = run("--minutes", minutes)

    assert done.returncode == 2
    assert "expected a number of minutes above 0" in done.stderr
