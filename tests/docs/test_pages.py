"""Every page can be found, says where to go next, and has no link that leads nowhere."""

import re
from pathlib import Path

import pytest

from tests.docs.conftest import Page, ReadPage

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\[[^]]*\]\(([^)]+)\)")
PATH = re.compile(r"`((?:runtimed/(?!worker-)|(?:runtimectl|tests|benchmarks|contrib|docs)/)[\w./-]+)`")
"""A path of the repository. `runtimed/worker-…` is a branch."""

ENDING = "Where to go next"
MAX_TERMS = 30
GUIDES = sorted(path for folder in ("tutorial", "how-to", "explanation") for path in (DOCS / folder).glob("*.md"))
REFERENCES = sorted((DOCS / "reference").glob("*.md"))
BESIDE_THE_PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]


def anchor(title: str) -> str:
    """The anchor that a heading gets: its text in lower case without punctuation, spaces as hyphens."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def anchors(pages: list[Page]) -> dict[Path, set[str]]:
    """The anchors of each page under docs/, by its path."""
    return {page.path.resolve(): {anchor(title) for _, title in page.headings} for page in pages}


def links(text: str) -> list[str]:
    return [target for target in LINK.findall(text) if not target.startswith(("https://", "mailto:"))]


def assert_leads_somewhere(source: Path, target: str, anchors: dict[Path, set[str]]) -> None:
    place, _, wanted = target.partition("#")
    path = (source.parent / place).resolve() if place else source.resolve()
    assert path.exists(), f"{name(source)} links to {target}"
    assert path.is_relative_to(ROOT), f"{name(source)} links out of the repository: {target}"
    assert not wanted or wanted in anchors[path], f"{name(source)} links to {target}"


def test_each_link_of_a_page_leads_to_a_file_and_a_heading_of_the_repository(
    pages: list[Page], anchors: dict[Path, set[str]]
) -> None:
    for page in pages:
        for target in links(page.text):
            assert_leads_somewhere(page.path, target, anchors)


@pytest.mark.parametrize("source", BESIDE_THE_PAGES, ids=lambda path: path.name)
def test_each_link_of_a_file_beside_the_pages_leads_to_a_file_and_a_heading(
    source: Path, anchors: dict[Path, set[str]]
) -> None:
    for target in links(source.read_text()):
        assert_leads_somewhere(source, target, anchors)


@pytest.mark.parametrize("source", [*GUIDES, *BESIDE_THE_PAGES], ids=name)
def test_each_path_of_the_repository_that_a_page_names_exists(source: Path) -> None:
    missing = [path for path in PATH.findall(source.read_text()) if not (ROOT / path).exists()]

    assert missing == []


def test_each_page_is_linked_from_the_index(pages: list[Page]) -> None:
    index = DOCS / "index.md"
    linked = {(DOCS / target.partition("#")[0]).resolve() for target in links(index.read_text())}
    expected = {page.path.resolve() for page in pages} - {index.resolve()}

    assert {path for path in linked if path.is_relative_to(DOCS)} == expected


def test_no_page_has_two_headings_with_one_anchor(pages: list[Page]) -> None:
    for page in pages:
        found = [anchor(title) for _, title in page.headings]
        assert len(found) == len(set(found)), name(page.path)


@pytest.mark.parametrize("path", [*GUIDES, *REFERENCES], ids=name)
def test_each_page_ends_by_saying_where_to_go_next(path: Path) -> None:
    *_, (level, title) = re.findall(r"^(#+) (.*)$", path.read_text(), re.MULTILINE)
    assert (level, title) == ("##", ENDING)
    assert links(path.read_text().rpartition(ENDING)[2]), f"{name(path)} names no page to go to"


@pytest.mark.parametrize("path", [*GUIDES, *REFERENCES], ids=name)
def test_each_page_begins_by_saying_whom_it_is_for(path: Path) -> None:
    title, _, rest = path.read_text().partition("\n\n")
    assert title.startswith("# ")
    assert re.match(r"This (tutorial|guide|page) is for ", rest), name(path)


def test_the_glossary_has_at_most_thirty_terms_and_explains_each_once(page: ReadPage) -> None:
    terms = [row.cells[0] for row in page("reference/glossary.md").rows]
    assert 0 < len(terms) <= MAX_TERMS
    assert len(terms) == len(set(terms))
