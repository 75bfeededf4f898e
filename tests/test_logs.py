"""The log: one record is one line, whatever it holds."""

import json
import logging

import pytest

from runtimed.logs import JsonFormatter, TextFormatter

HOSTILE = "one\r\ntwo\x1b[31m \x85 \u2028 three\ud800"


def record(message, error=None):
    return logging.LogRecord("runtimed.test", logging.WARNING, __file__, 1, "%s", (message,), error)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_record_cannot_forge_a_second_line(formatter):
    line = formatter.format(record(HOSTILE))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_traceback_stays_on_the_line_of_its_record(formatter):
    error = OSError("first\nsecond")
    line = formatter.format(record("it failed", (type(error), error, error.__traceback__)))
    assert len(line.splitlines()) == 1
    assert "OSError: first\\nsecond" in line


def test_json_records_have_a_time_a_level_a_logger_and_a_message():
    fields = json.loads(JsonFormatter().format(record("hello")))
    assert (fields["level"], fields["logger"], fields["message"]) == ("warning", "runtimed.test", "hello")
    assert fields["time"].endswith("Z")
