"""The forms of permission requests: what is accepted as an answer."""

from typing import Any

import pytest

from runtimed.core.state.form import check_content, defaults
from runtimed.errors import InvalidRequest

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "branch": {"type": "string", "minLength": 2, "maxLength": 4},
        "kind": {"type": "string", "enum": ["fix", "feature"]},
        "size": {"type": "string", "oneOf": [{"const": "s", "title": "Small"}, {"const": "l", "title": "Large"}]},
        "count": {"type": "integer", "minimum": 1, "maximum": 3},
        "share": {"type": "number", "maximum": 0.5},
        "push": {"type": "boolean", "default": True},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "maxItems": 1},
        "later": {"type": "_of_the_future"},
    },
    "required": ["branch", 7, "not_there"],
}
FILLED: dict[str, Any] = {
    "branch": "main",
    "kind": "fix",
    "size": "l",
    "count": 3,
    "share": 0.25,
    "push": False,
    "tags": ["b"],
    "later": {"a": 1},
}


def test_a_form_takes_the_values_that_its_properties_accept() -> None:
    assert check_content(SCHEMA, FILLED) == FILLED
    assert check_content(SCHEMA, {"branch": "main"}) == {"branch": "main"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "content.branch: expected a value: the form requires it"),
        ({"branch": "main", "other": 1}, "content.other: expected only branch, kind, size"),
        ({"branch": 1}, "content.branch: expected a string"),
        ({"branch": "m"}, "content.branch: expected at least 2 characters"),
        ({"branch": "trunk"}, "content.branch: expected at most 4 characters"),
        ({"branch": "main", "kind": "chore"}, "content.kind: expected one of fix, feature"),
        ({"branch": "main", "size": "m"}, "content.size: expected one of s, l"),
        ({"branch": "main", "count": 0}, "content.count: expected at least 1"),
        ({"branch": "main", "count": 4}, "content.count: expected at most 3"),
        ({"branch": "main", "count": True}, "content.count: expected a whole number"),
        ({"branch": "main", "count": 1.5}, "content.count: expected a whole number"),
        ({"branch": "main", "share": "0"}, "content.share: expected a number"),
        ({"branch": "main", "share": 0.6}, "content.share: expected at most 0.5"),
        ({"branch": "main", "push": 1}, "content.push: expected a boolean"),
        ({"branch": "main", "tags": "a"}, "content.tags: expected an array of strings"),
        ({"branch": "main", "tags": ["c"]}, "content.tags: expected only a, b"),
        ({"branch": "main", "tags": ["a", "b"]}, "content.tags: expected at most 1 items"),
    ],
)
def test_a_value_that_a_form_does_not_accept_is_refused_by_its_name(content: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_content(SCHEMA, content)

    assert refused.value.message.startswith(problem)


@pytest.mark.parametrize("schema", [{}, {"properties": None}, {"properties": {"a": 1}}])
def test_a_form_without_properties_takes_nothing(schema: dict[str, Any]) -> None:
    assert check_content(schema, {}) == {}
    with pytest.raises(InvalidRequest, match="the form has no properties"):
        check_content(schema, {"a": 1})


def test_the_defaults_of_a_form_fill_it_if_they_are_enough_and_accepted() -> None:
    assert defaults(SCHEMA) is None
    assert defaults({**SCHEMA, "required": []}) == {"push": True}
    assert defaults({"properties": {"count": {"type": "integer", "default": "one"}}}) is None
