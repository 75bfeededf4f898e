"""Times in tables and data."""

import time
from datetime import datetime

import pytest

from runtimectl.output import times

NOW_S = 1_800_000_000


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59, "59s"),
        (60, "1m"),
        (3_599, "59m"),
        (3_600, "1h"),
        (86_399, "23h"),
        (86_400, "1d"),
        (40 * 86_400, "40d"),
    ],
)
def test_an_age_is_shown_in_its_largest_unit(monkeypatch: pytest.MonkeyPatch, seconds: int, shown: str) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW_S))

    assert times.age((NOW_S - seconds) * 1_000) == shown


def test_a_time_names_its_zone_and_its_milliseconds() -> None:
    shown = times.local(NOW_S * 1_000 + 7)

    assert shown is not None
    assert ".007" in shown
    assert datetime.fromisoformat(shown).timestamp() == NOW_S + 0.007


@pytest.mark.parametrize("given", [None, "soon", 1.5])
def test_what_is_no_time_of_the_daemon_is_shown_as_none(given: object) -> None:
    assert (times.age(given), times.local(given)) == (None, None)
