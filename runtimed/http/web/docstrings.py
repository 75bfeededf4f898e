"""Docstrings in the Google convention, as descriptions of schemas and operations."""

import inspect
from collections.abc import Mapping
from typing import Self

import attrs

_ATTRIBUTES = "\n\nAttributes:\n"
_INDENT = " " * 4


@attrs.frozen
class Docstring:
    """The docstring of a class or function.

    Attributes:
        summary: Its first line.
        details: What follows, up to the section on attributes; may be empty.
        attributes: The description of each attribute in that section, on one line, by name.
    """

    summary: str
    details: str
    attributes: Mapping[str, str]

    @classmethod
    def of(cls, documented: object) -> Self:
        """Read the docstring of a class or function. It is empty if there is none."""
        text, _, section = (inspect.getdoc(documented) or "").partition(_ATTRIBUTES)
        summary, _, details = text.partition("\n\n")
        return cls(summary, details, _attributes(section))

    @property
    def prose(self) -> str:
        """The summary and the details."""
        return f"{self.summary}\n\n{self.details}" if self.details else self.summary


def _attributes(section: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line.startswith(_INDENT * 2):
            found[name] += f" {line.strip()}"
        else:
            name, _, description = line.strip().partition(": ")
            found[name] = description
    return found
