"""What is said of a program that is gone."""

import pytest

from runtimed.execution.profile import Profile
from runtimed.execution.session.exit_reason import describe_status, explain_exit
from runtimed.model.execution import LossReason


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (137, "was ended by SIGKILL"),
        (139, "was ended by SIGSEGV"),
        (255, "ended with status 255"),
    ],
)
def test_an_exit_status_is_put_into_words(status: int, words: str) -> None:
    assert describe_status(status) == words


def test_what_it_said_last_stands_behind_its_status() -> None:
    said = explain_exit("exit", 2, Profile("process"), "no model configured")
    assert said == "the program ended with status 2; stderr: no model configured"


@pytest.mark.parametrize(
    ("reason", "limit"),
    [
        ("oom", "max_memory_bytes allows (1,000 bytes)"),
        ("processes", "max_processes allows (7)"),
        ("cpu", "max_cpu_s allows (1.5 s)"),
        ("output", "max_output_bytes allows (2,000 bytes)"),
        ("timeout", "max_run_s (60 s)"),
    ],
)
def test_a_limit_is_named_with_the_setting_and_its_value(reason: LossReason, limit: str) -> None:
    profile = Profile(
        "process", max_memory_bytes=1_000, max_processes=7, max_cpu_s=1.5, max_output_bytes=2_000, max_run_s=60
    )
    assert explain_exit(reason, 137, profile).endswith(limit)


def test_the_limit_of_a_folder_is_named_with_the_size_of_the_folder() -> None:
    said = explain_exit("disk", 137, Profile("shell", max_folder_bytes=1_000), what="shell", folder_bytes=2_345)
    assert said == (
        "the shell was ended: it used more disk space than max_folder_bytes allows (1,000 bytes): "
        "the Worker's folder has 2,345 bytes; the next run may remove files"
    )
