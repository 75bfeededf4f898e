"""What contrib has for Prometheus and Grafana names only metrics that a daemon has, and the alerts fire."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.metrics.daemon import WatchedDaemon, watched_daemon

FOLDER = Path(__file__).parents[2] / "contrib" / "prometheus"
NAME = re.compile(r"\b(?:runtimed|process)_[a-z_]+\b")
NOT_OF_THE_DAEMON = {"up"}
"""What Prometheus adds to each scrape."""

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="there is no promtool")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedDaemon]:
    with watched_daemon(tmp_path_factory.mktemp("watched")) as found:
        yield found


def alerts() -> list[dict[str, Any]]:
    [group] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def queries() -> list[str]:
    """The queries of the dashboard, those of its variables included."""
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    variables = [one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]] + variables


def test_every_metric_of_an_alert_and_of_the_dashboard_is_in_a_scrape(daemon: WatchedDaemon) -> None:
    series = daemon.series()

    expressions = [alert["expr"] for alert in alerts()] + queries()
    named = [
        set(NAME.findall(expression)) or NOT_OF_THE_DAEMON & set(expression.split("{")) for expression in expressions
    ]

    assert all(named)
    assert set().union(*named) - NOT_OF_THE_DAEMON <= series


def test_every_label_of_a_query_is_one_of_the_metrics(daemon: WatchedDaemon) -> None:
    known = {label for family in daemon.families().values() for sample in family.samples for label in sample.labels}
    by_prometheus = {"instance", "job"}

    grouped = [labels for query in queries() for labels in re.findall(r"by \(([^)]*)\)", query)]
    matched = [label for query in queries() for label in re.findall(r"(\w+)=~?\"", query)]

    assert {label.strip() for labels in grouped for label in labels.split(",")} <= known | by_prometheus
    assert set(matched) <= known | by_prometheus


def test_every_alert_says_how_bad_it_is_and_what_to_do_and_is_on_the_page() -> None:
    page = (FOLDER.parents[1] / "docs" / "how-to" / "metrics.md").read_text()

    listed = re.findall(r"^\| `(Runtimed\w+)` ", page, re.MULTILINE)

    assert listed == [alert["alert"] for alert in alerts()]
    for alert in alerts():
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        assert alert["annotations"].keys() == {"summary", "description"}


def test_the_panels_of_the_dashboard_have_places_of_their_own_and_a_data_source() -> None:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]

    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}


@needs_promtool
@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "alerts.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
)
def test_promtool_accepts_the_files_and_the_alerts_fire_as_tested(command: list[str]) -> None:
    done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_has_nothing_against_the_names_and_texts_of_the_metrics(daemon: WatchedDaemon) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=daemon.get("/metrics"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
