import os
from pathlib import Path

import pytest

from runtimed.execution.confinement.system_view import ETC, folders_of_path, is_system, parts_of_program


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "user").mkdir()
    return tmp_path / "user"


def program(path: Path, first_line: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{first_line}\n")
    path.chmod(0o755)
    return path


def test_programs_of_the_system_need_nothing_more(home: Path) -> None:
    assert list(parts_of_program(["sh", "-c", "true"], {"PATH": "/usr/bin:/bin"}, home)) == []
    assert is_system(Path("/usr/bin/env"))
    assert not is_system(Path("/usrlocal/bin/env"))


@pytest.mark.parametrize("key", ["/etc/ssl/private/host.key", "/etc/pki/tls/private/host.key", "/etc/shadow"])
def test_certificates_are_shown_without_private_keys(key: str) -> None:
    assert not any(Path(key).is_relative_to(path) for path in ETC)


def test_a_program_is_shown_with_what_it_is_installed_in(home: Path, tmp_path: Path) -> None:
    tool = program(tmp_path / "opt" / "tool" / "bin" / "run")
    assert list(parts_of_program([str(tool)], {}, home)) == [tmp_path / "opt" / "tool"]


def test_a_link_to_a_program_is_followed_to_what_it_is_installed_in(home: Path, tmp_path: Path) -> None:
    tool = program(tmp_path / "opt" / "tool" / "bin" / "run")
    link = home / ".local" / "bin" / "run"
    link.parent.mkdir(parents=True)
    link.symlink_to(tool)
    found = list(parts_of_program(["run"], {"PATH": str(link.parent)}, home))
    assert found == [home / ".local" / "bin", tmp_path / "opt" / "tool"]


def test_a_script_is_shown_with_its_interpreter(home: Path, tmp_path: Path) -> None:
    node = program(tmp_path / "node" / "bin" / "node")
    tool = program(tmp_path / "tool" / "bin" / "run", "#!/usr/bin/env -S node --flag")
    found = list(parts_of_program([str(tool)], {"PATH": str(node.parent)}, home))
    assert found == [tmp_path / "tool", tmp_path / "node"]


def test_a_program_of_npm_is_shown_with_the_packages_beside_its_own(home: Path, tmp_path: Path) -> None:
    packages = tmp_path / "project" / "node_modules"
    tool = program(
        packages / "@scope" / "tool" / "node_modules" / "inner" / "dist" / "main.js", "#!/usr/bin/env node"
    )
    link = packages / ".bin" / "run"
    link.parent.mkdir()
    link.symlink_to(tool)
    node = program(packages / "node" / "bin" / "node")
    found = list(parts_of_program([str(link)], {"PATH": str(node.parent)}, home))
    assert set(found) == {packages}


def test_a_virtual_environment_is_shown_with_its_base(home: Path, tmp_path: Path) -> None:
    python = program(tmp_path / "python" / "bin" / "python3")
    venv = tmp_path / "venv"
    tool = program(venv / "bin" / "tool", f"#!{venv / 'bin' / 'python'}")
    (venv / "bin" / "python").symlink_to(python)
    (venv / "pyvenv.cfg").write_text(f"home = {python.parent}\nversion = 3\n")
    found = set(parts_of_program([str(tool)], {}, home))
    assert found == {venv, tmp_path / "python"}


def test_a_program_of_npm_in_the_arguments_of_a_shell_is_shown_with_its_packages(home: Path, tmp_path: Path) -> None:
    packages = tmp_path / "project" / "node_modules"
    tool = program(packages / "tool" / "main.js")
    link = packages / ".bin" / "run"
    link.parent.mkdir()
    link.symlink_to(tool)
    assert set(parts_of_program(["sh", "-c", 'exec "$0"', str(link)], {"PATH": "/usr/bin"}, home)) == {packages}


def test_a_link_in_the_arguments_is_shown_with_what_it_leads_to(home: Path, tmp_path: Path) -> None:
    tool = program(tmp_path / "real" / "run")
    link = tmp_path / "link"
    link.symlink_to(tool)
    assert list(parts_of_program(["sh", str(link)], {"PATH": "/usr/bin"}, home)) == [link, tool]


def test_what_workers_write_shows_them_nothing_of_the_host(home: Path, tmp_path: Path) -> None:
    secret, work = tmp_path / "secret", tmp_path / "work"
    program(secret / "bin" / "key")
    script = program(work / "bin" / "script", f"#!{secret}/bin/key")
    python = program(work / "venv" / "bin" / "python")
    (work / "venv" / "pyvenv.cfg").write_text(f"home = {secret}/bin\n")
    link, outer = work / "link", tmp_path / "outer"
    link.symlink_to(secret / "bin" / "key")
    outer.symlink_to(link)
    (work / "path").symlink_to(secret / "bin")
    os.mkfifo(work / "pipe", 0o755)

    for argv in ([str(script)], [str(python)], [str(link)], [str(outer)], ["sh", str(link)], [str(work / "pipe")]):
        assert list(parts_of_program(argv, {"PATH": "/usr/bin"}, home, (work,))) == []
    assert list(folders_of_path({"PATH": f"{work}/path:{work}/bin"}, home, (work,))) == []
    shown = set(parts_of_program([str(script)], {}, home)) | set(parts_of_program([str(outer)], {}, home))
    assert secret in shown  # of programs that no Worker can change, the same is followed


def test_a_program_that_is_a_pipe_keeps_nobody_waiting(home: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "tool" / "pipe"
    pipe.parent.mkdir()
    os.mkfifo(pipe, 0o755)
    assert list(parts_of_program([str(pipe)], {}, home)) == [pipe.parent]


def test_the_home_of_the_user_is_never_shown_for_a_program_in_it(home: Path) -> None:
    tool = program(home / "bin" / "run")
    assert list(parts_of_program([str(tool)], {}, home)) == [tool]


def test_paths_in_a_command_are_shown_if_they_exist(home: Path, tmp_path: Path) -> None:
    script = program(tmp_path / "scripts" / "agent.py")
    command = ["python3", str(script), str(tmp_path / "missing"), "/", "/etc", "relative/path"]
    assert list(parts_of_program(command, {"PATH": "/usr/bin"}, home)) == [script]


def test_directories_of_path_are_shown_with_the_libraries_beside_them(home: Path, tmp_path: Path) -> None:
    (tmp_path / "tool" / "bin").mkdir(parents=True)
    (tmp_path / "tool" / "lib").mkdir()
    (tmp_path / "alone" / "bin").mkdir(parents=True)
    (home / ".local" / "bin").mkdir(parents=True)
    (home / ".local" / "lib").mkdir()
    path = f"/usr/bin:relative:{tmp_path}/tool/bin:{tmp_path}/alone/bin:{home}/.local/bin:{tmp_path}/missing"
    found = list(folders_of_path({"PATH": path}, home))
    assert found == [tmp_path / "tool", tmp_path / "alone" / "bin", home / ".local" / "bin"]
