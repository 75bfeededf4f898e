"""The pages on metrics list what a daemon that has worked shows, and their commands do what they say."""

import re
import subprocess
from collections.abc import Iterator
from typing import get_args

import pytest
import yaml
from prometheus_client import Metric

from runtimed.core.services.statistics import NO_PROGRAM, OTHER
from runtimed.metrics.requests import METHODS, OTHER_METHOD, UNKNOWN_ROUTE
from runtimed.model.execution import LossReason, Outcome, RunState, WorkerStatus
from runtimed.model.profile import Mechanism
from tests.docs.conftest import ReadPage, Row
from tests.metrics.daemon import WatchedDaemon, watched_daemon

GUIDE = "how-to/metrics.md"
REFERENCE = "reference/metrics.md"
SECTIONS = ("The daemon", "Requests", "Workers", "The feed and the store", "The process")
TYPES = {"info": "gauge"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedDaemon]:
    with watched_daemon(tmp_path_factory.mktemp("watched")) as found:
        yield found


@pytest.fixture
def rows(page: ReadPage) -> dict[str, Row]:
    """The rows of the reference by metric."""
    reference = page(REFERENCE)
    return {row.codes()[0]: row for title in SECTIONS for row in reference.section(title).rows}


def shown_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def test_every_metric_of_a_scrape_is_in_the_reference_with_its_type_and_labels(
    daemon: WatchedDaemon, rows: dict[str, Row]
) -> None:
    families = daemon.families().values()

    assert {shown_name(family) for family in families} == rows.keys()
    for family in families:
        row = rows[shown_name(family)]
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert (row.cells[1], set(row.codes(3))) == (TYPES.get(family.type, family.type), labels), family.name
        assert row.cells[2]
        assert row.cells[4]


def test_the_buckets_of_every_histogram_are_in_the_reference(daemon: WatchedDaemon, page: ReadPage) -> None:
    listed = {
        row.codes()[0]: [float(bound) for bound in row.cells[1].split(", ")]
        for row in page(REFERENCE).section("Buckets").rows
    }

    found = {
        family.name: sorted({float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels})[:-1]
        for family in daemon.families().values()
        if family.type == "histogram"
    }

    assert listed == found


def test_every_value_of_a_label_is_in_the_reference(daemon: WatchedDaemon, page: ReadPage) -> None:
    values = {row.codes()[0]: set(row.codes(1)) for row in page(REFERENCE).section("Labels").rows}

    assert values["run_state"] == set(get_args(RunState))
    assert values["outcome"] == set(get_args(Outcome))
    assert values["reason"] == set(get_args(LossReason))
    assert values["sandbox"] == {*get_args(Mechanism), NO_PROGRAM}
    assert values["method"] == {*METHODS, OTHER_METHOD}
    assert set(get_args(WorkerStatus)) <= values["status"]
    assert UNKNOWN_ROUTE in values["route"]
    assert OTHER in values["profile"]
    labels = {label for family in daemon.families().values() for sample in family.samples for label in sample.labels}
    assert labels - {"le", "version", "python"} == values.keys()


def test_the_commands_of_the_guide_print_what_it_shows(daemon: WatchedDaemon, page: ReadPage) -> None:
    blocks = [block for block in page(GUIDE).blocks("") if block.startswith("$ curl")]

    for block in blocks:
        shown = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
        for command, output in shown:
            run = command.replace("http://127.0.0.1:38800", daemon.url).replace(
                "http://127.0.0.1:9464", daemon.metrics_url
            )
            done = subprocess.run(
                ["sh", "-c", run],
                env={"PATH": "/usr/bin:/bin", "TOKEN": daemon.token},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.stdout.replace("\r", "").strip() == output.strip(), command
    assert len(blocks) == 3


def test_the_configurations_of_the_guide_are_those_of_contrib(page: ReadPage) -> None:
    jobs = [yaml.safe_load(block)["scrape_configs"][0] for block in page(GUIDE).blocks("yaml")]
    contrib = page(GUIDE).path.parents[2] / "contrib" / "prometheus" / "prometheus.yml"

    assert jobs == yaml.safe_load(contrib.read_text())["scrape_configs"]
