"""Man pages: one for each command, in the macros of man(7)."""

import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

from distribution.commands import Described, walk
from runtimectl.options import CommonOption
from runtimed import __version__

REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
TEXT_MARKUP = re.compile(r"\[([^]]*)\]\([^)]*\)|[`*]")
VERBATIM = "\b"
"""click keeps the lines of a paragraph that begins with this."""


def pages() -> dict[str, str]:
    """Return the text of each page by its path below `share`."""
    reference = REFERENCE.read_text(encoding="utf-8")
    return {f"man/man1/{one.page}.1": "\n".join(_page(one, reference)) + "\n" for one in walk()}


def _page(one: Described, reference: str) -> Iterator[str]:
    command, context = one.command, one.context
    yield f'.TH "{one.page.upper()}" "1" "" "runtimed {__version__}" "runtimed"'
    yield from (".nh", ".ad l")
    yield from (".SH NAME", rf"{escape(one.page)} \- {escape(command.get_short_help_str(limit=200).rstrip('.'))}")
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (".SH SYNOPSIS", rf"\fB{escape(context.command_path)}\fR {escape(usage)}")
    yield from (".SH DESCRIPTION", *_paragraphs(command.help or ""))
    yield from _options(one)
    members = [_entry(member.context.info_name or "", _summary(member)) for member in one.members()]
    if members:
        yield from (".SH COMMANDS", *members)
    yield from _exit_status(one, reference)
    yield from (".SH SEE ALSO", ",\n".join(rf"\fB{escape(page)}\fR(1)" for page in _related(one)))


def _related(one: Described) -> list[str]:
    parents = [one.parent.page] if one.parent else []
    other = {"runtimed": "runtimectl", "runtimectl": "runtimed"}[one.context.find_root().info_name or ""]
    return [*parents, *(member.page for member in one.members()), other]


def _summary(one: Described) -> str:
    return one.command.get_short_help_str(limit=200)


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in cleandoc(text).split("\n\n"):
        yield ".PP"
        if paragraph.startswith(VERBATIM):
            lines = paragraph.removeprefix(VERBATIM).strip("\n").split("\n")
            yield from (".nf", *map(escape, lines), ".fi")
        else:
            yield escape(" ".join(paragraph.split()))


def _options(one: Described) -> Iterator[str]:
    own: list[str] = []
    common: list[str] = []
    for param in one.command.get_params(one.context):
        record = param.get_help_record(one.context)
        if record is not None:
            (common if isinstance(param, CommonOption) else own).append(_entry(*record))
    if own:
        yield from (".SH OPTIONS", *own)
    if common:
        yield from (".SH OPTIONS OF EVERY COMMAND", *common)


def _entry(term: str, text: str) -> str:
    return f".TP\n\\fB{escape(term)}\\fR\n{escape(' '.join(text.split()))}"


def _exit_status(one: Described, reference: str) -> Iterator[str]:
    """Yield the exit codes that the reference has for a program."""
    if one.parent is None:
        section = reference.partition(f"\n## Exit codes of {one.page}\n")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", section, re.MULTILINE)
        yield from (".SH EXIT STATUS", *(_entry(code, TEXT_MARKUP.sub(r"\1", meaning)) for code, meaning in rows))


def escape(text: str) -> str:
    """Return a line as man(7) prints it unchanged."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped
