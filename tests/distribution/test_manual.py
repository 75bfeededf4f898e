"""Man pages: they say what the commands say, and man prints them without a complaint."""

import shutil
import subprocess

import click
import pytest

import runtimed
from distribution.commands import walk
from distribution.manual import escape, pages
from tests.docs.conftest import DOCS


def printed(text: str) -> str:
    """What a reader sees, with the spaces between words made single."""
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=100n"],
        input=text.encode(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == b""
    return " ".join(done.stdout.decode().replace("\u2010", "-").replace("\u2212", "-").split())


@pytest.mark.skipif(not shutil.which("groff"), reason="there is no groff")
def test_man_prints_every_page_without_a_complaint() -> None:
    everything = "\n".join(pages().values())

    shown = printed(everything)

    assert "runtimectl workers create [OPTIONS]" in shown
    assert "Example: runtimectl workers list --status running -o name" in shown


def test_a_page_has_every_option_of_its_command_and_what_its_help_says() -> None:
    found = pages()

    missing = [
        (one.page, option)
        for one in walk()
        for param in one.command.get_params(one.context)
        if isinstance(param, click.Option) and not param.hidden
        for option in (*param.opts, *param.secondary_opts)
        if option.replace("-", r"\-") not in found[f"man/man1/{one.page}.1"]
    ]

    assert missing == []


def test_a_page_names_the_version_and_its_related_pages() -> None:
    page = pages()["man/man1/runtimectl-workers-list.1"]

    assert f'"runtimed {runtimed.__version__}"' in page.partition("\n")[0]
    assert r"\fBruntimectl\-workers\fR(1)" in page


def test_the_page_of_a_program_has_the_exit_codes_of_the_reference() -> None:
    page = pages()["man/man1/runtimed.1"]

    assert ".TP\n\\fB74\\fR\nthe store failed while running\n" in page
    assert r"\fB143\fR" in pages()["man/man1/runtimectl.1"]
    assert "## Exit codes of runtimed\n" in (DOCS / "reference" / "cli.md").read_text()


def test_a_text_that_begins_with_a_dot_is_no_macro() -> None:
    assert escape(r".so \x") == r"\&.so \ex"
