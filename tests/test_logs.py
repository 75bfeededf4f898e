"""The log: one record is one line, whatever it holds."""

import json
import logging
from typing import Any

import pytest

from runtimed.logs import JsonFormatter, TextFormatter, add_request_id
from runtimed.wire.request_id import RequestIds

HOSTILE = "one\r\ntwo\x1b[31m \x85 \u2028 three\ud800"


def record(message: str, error: Any = None) -> logging.LogRecord:
    return logging.LogRecord("runtimed.test", logging.WARNING, __file__, 1, "%s", (message,), error)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_record_cannot_forge_a_second_line(formatter: JsonFormatter | TextFormatter) -> None:
    line = formatter.format(record(HOSTILE))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_traceback_stays_on_the_line_of_its_record(formatter: JsonFormatter | TextFormatter) -> None:
    error = OSError("first\nsecond")
    line = formatter.format(record("it failed", (type(error), error, error.__traceback__)))
    assert len(line.splitlines()) == 1
    assert "OSError: first\\nsecond" in line


def test_json_records_have_a_time_a_level_a_logger_and_a_message() -> None:
    fields = json.loads(JsonFormatter().format(record("hello")))
    assert (fields["level"], fields["logger"], fields["message"]) == ("warning", "runtimed.test", "hello")
    assert fields["time"].endswith("Z")


def structured(**fields: object) -> logging.LogRecord:
    found = logging.LogRecord("runtimed.test", logging.WARNING, __file__, 1, "cannot restart the Worker", (), None)
    found.__dict__.update(fields)
    return found


def test_the_fields_of_a_record_are_the_same_in_text_and_in_json() -> None:
    one = structured(worker_id="worker-00000001", reason='said "no"', count=3)

    text, fields = TextFormatter().format(one), json.loads(JsonFormatter().format(one))

    assert text.endswith(
        r'runtimed.test: cannot restart the Worker worker_id=worker-00000001 reason="said \"no\"" count=3'
    )
    assert (fields["worker_id"], fields["reason"], fields["count"]) == ("worker-00000001", 'said "no"', 3)


def test_a_record_that_is_written_while_a_request_is_served_has_its_id() -> None:
    before, during, own, after = structured(), structured(), structured(request_id="given"), structured()

    add_request_id(before)
    with RequestIds().begin("deploy-7"):
        kept = [add_request_id(during), add_request_id(own)]
    add_request_id(after)

    assert kept == [True, True]
    assert json.loads(JsonFormatter().format(during))["request_id"] == "deploy-7"
    assert TextFormatter().format(during).endswith(" request_id=deploy-7")
    assert json.loads(JsonFormatter().format(own))["request_id"] == "given"
    assert not {"request_id"} & {*before.__dict__, *after.__dict__}


def test_a_field_cannot_replace_the_time_the_level_or_the_logger() -> None:
    fields = json.loads(JsonFormatter().format(structured(level="forged", time="forged", logger="forged")))
    assert "forged" not in fields.values()


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_field_cannot_forge_a_second_line(formatter: JsonFormatter | TextFormatter) -> None:
    line = formatter.format(structured(reason=HOSTILE))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


def test_a_field_that_is_no_text_is_logged_as_text() -> None:
    assert json.loads(JsonFormatter().format(structured(reason=OSError("gone"))))["reason"] == "gone"
