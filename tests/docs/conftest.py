"""The pages under docs/, read as tables, sections and fenced blocks."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import attrs
import pytest

DOCS = Path(__file__).parents[2] / "docs"
CODE = re.compile(r"`([^`]+)`")
HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@attrs.frozen
class Row:
    """A row of a table; a cell is its Markdown."""

    cells: list[str]

    def codes(self, column: int = 0) -> list[str]:
        """What stands as code in a cell."""
        return CODE.findall(self.cells[column])


@attrs.frozen
class Page:
    """One page, or a section of one."""

    path: Path
    text: str

    def blocks(self, language: str) -> list[str]:
        """The fenced blocks in a language."""
        return [body for found, body in FENCE.findall(self.text) if found == language]

    @property
    def headings(self) -> list[tuple[int, str]]:
        """Level and text of each heading, in order."""
        return [(len(marks), title) for marks, title in HEADING.findall(FENCE.sub("", self.text))]

    def section(self, title: str) -> "Page":
        """What stands under a heading, up to the next one."""
        text = FENCE.sub("", self.text)
        found = [match for match in HEADING.finditer(text) if match[2] == title]
        assert len(found) == 1, f"{self.path.name} has {len(found)} headings {title!r}"
        after = HEADING.search(text, found[0].end())
        return Page(self.path, text[found[0].end() : after.start() if after else len(text)])

    @property
    def rows(self) -> list[Row]:
        """The rows of the tables in it, without their heads."""
        return [Row([cell.strip() for cell in line.strip("|").split("|")]) for line in self._body()]

    def _body(self) -> Iterator[str]:
        lines = self.text.splitlines()
        for line, following in pairwise([*lines, ""]):
            if line.startswith("|") and not line.startswith("|---") and not following.startswith("|---"):
                yield line

    def names(self) -> list[str]:
        """The code in the first column of its tables, a name a row."""
        return [row.codes()[0] for row in self.rows]


ReadPage = Callable[[str], Page]


@pytest.fixture(scope="session")
def page() -> ReadPage:
    """Reads a page by its path under docs/."""

    def read(name: str) -> Page:
        path = DOCS / name
        return Page(path, path.read_text())

    return read


@pytest.fixture(scope="session")
def pages() -> list[Page]:
    """Every page."""
    found = [Page(path, path.read_text()) for path in sorted(DOCS.rglob("*.md"))]
    assert found
    return found
