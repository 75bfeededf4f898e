"""The command line of the daemon: options and environment become Settings, the end becomes an exit code."""

import os
import sys
from typing import Any

from runtimed import __version__

OK = 0
FAILURE = 1
USAGE = 2
STORE_TAKEN = 3
STORE_FAILED = 74


def main() -> None:
    """The console script `runtimed`."""
    _open_standard_streams()
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"runtimed {__version__}\n")
        return
    sys.exit(_invoke())


def _invoke() -> int:
    import click

    try:
        return int(_command().main(prog_name="runtimed", standalone_mode=False) or OK)
    except click.ClickException as error:
        return _complain(f"{' '.join(error.format_message().split())} (see: runtimed --help)", USAGE)
    except click.Abort:
        return FAILURE


def _command() -> Any:
    import click

    from runtimed.settings import LOG_LEVELS, RESTORE_POLICIES

    @click.command(context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]})
    @click.option(
        "--listen", metavar="ADDR", multiple=True, help="HOST:PORT, :PORT or unix:PATH; repeatable. [127.0.0.1:38800]"
    )
    @click.option("--store", metavar="STORE", help="memory, or fs:PATH for a durable one. [memory]")
    @click.option("--runtime-id", metavar="ID", help="The Runtime's id. [generated, and kept by the store]")
    @click.option("--display-name", metavar="NAME", help="A name for people.")
    @click.option("--token-file", metavar="PATH", help="A file with the token, mode 0600. [generated]")
    @click.option("--config", metavar="FILE", help="A TOML file. [/etc/runtimed/config.toml, then the user's]")
    @click.option("--max-transcript-projection-items", type=int, metavar="N", help="Largest transcript page. [256]")
    @click.option("--max-event-batch-items", type=int, metavar="N", help="Largest page of events. [256]")
    @click.option("--allow-host", metavar="NAME", multiple=True, help="Another Host to answer to; repeatable.")
    @click.option(
        "--restore",
        type=click.Choice(RESTORE_POLICIES),
        help="Bring Workers back after a restart: at the start, with their next input, or only when asked. [lazy]",
    )
    @click.option(
        "--http-quick-path/--no-http-quick-path",
        default=None,
        help="Answer plain HTTP requests without aiohttp's machinery. [on]",
    )
    @click.option("--log-format", type=click.Choice(["text", "json"]), help="[text on a terminal, else json]")
    @click.option("--log-level", type=click.Choice(LOG_LEVELS), help="[info]")
    @click.option("--check-config", is_flag=True, help="Check the configuration, and exit.")
    @click.option("--check-store", metavar="STORE", help="Check a store, fs:PATH, that no daemon holds, and exit.")
    @click.version_option(__version__, message="%(prog)s %(version)s")
    def runtimed(config: str | None, check_config: bool, check_store: str | None, **options: Any) -> int:
        """Host a Runtime of Workers, in the foreground, until SIGTERM, SIGINT or SIGHUP.

        Once it serves it prints one line to stdout, and it logs to stderr. Every option can be set in the
        environment too, as RUNTIMED_LISTEN, RUNTIMED_STORE and so on, or in the configuration file. The token itself
        goes into RUNTIMED_TOKEN or a file, never on the command line.

        \b
        Example:
          runtimed --store fs:/var/lib/rt
        """
        if check_store is not None:
            return _check_store(check_store)
        given = {name: value for name, value in options.items() if value not in (None, ())}
        return _run(given, config, check_config=check_config)

    return runtimed


def _run(flags: dict[str, Any], config: str | None, *, check_config: bool) -> int:
    from runtimed import settings
    from runtimed.errors import ConfigurationError, StartError
    from runtimed.http.server.listeners import Address

    try:
        loaded = settings.load(flags, config or settings.config_file())
        for text in loaded.listen:
            Address.parse(text)
        if check_config:
            for name in settings.unknown_variables():
                sys.stderr.write(f"runtimed: the environment has {name}, which is no setting\n")
            sys.stdout.write("the configuration is fine\n")
            return OK
        return _serve(loaded)
    except ConfigurationError as error:
        return _complain(error, USAGE)
    except StartError as error:
        return _complain(error, FAILURE)


def _check_store(store: str) -> int:
    """Say in words what is wrong with a store, a line each: 0 for nothing, 1 for something."""
    from runtimed.errors import ConfigurationError, StoreError, StoreInUse, StoreUnsupported
    from runtimed.settings import store_folder
    from runtimed.store.inspection import inspect

    try:
        path = store_folder(store, "check_store")
    except ConfigurationError as error:
        return _complain(error, USAGE)
    try:
        found = inspect(path)
    except StoreInUse as error:
        return _complain(_of_store(path, error), STORE_TAKEN)
    except StoreUnsupported as error:
        return _complain(_of_store(path, error), USAGE)
    except StoreError as error:
        return _complain(_of_store(path, error), FAILURE)
    check = found.check
    for finding in check.findings:
        sys.stdout.write(f"{finding.worker_id}: {finding.problem}\n" if finding.worker_id else f"{finding.problem}\n")
    for remark in found.remarks:
        sys.stdout.write(f"note: {remark}\n")
    problems = len(check.findings)
    told = "no problem" if not problems else f"{problems} problem{'s' if problems > 1 else ''}"
    read = f"{check.workers} Workers, {check.entries} entries and {check.events} events were read"
    sys.stdout.write(f"{read}: {told} found\n")
    return FAILURE if problems else OK


def _serve(loaded: Any) -> int:
    import asyncio
    import logging

    from runtimed import daemon, logs, settings
    from runtimed.errors import StoreError, StoreForeign, StoreInUse, StoreUnsupported

    logs.configure(loaded.log_format, loaded.log_level)
    for name in settings.unknown_variables():
        logging.getLogger(__name__).warning("the environment has %s, which is no setting", name)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            failure = runner.run(daemon.run(loaded, _announce))
    except (StoreInUse, StoreForeign) as error:
        return _complain(_of_store(loaded.store_path, error), STORE_TAKEN)
    except (StoreUnsupported, StoreError) as error:
        return _complain(_of_store(loaded.store_path, error), FAILURE)
    return OK if failure is None else _complain(_of_store(loaded.store_path, failure), STORE_FAILED)


def _of_store(path: Any, error: object) -> str:
    """What is wrong with the store in a folder, with the folder's path; None for one in memory."""
    told = str(error)
    if path is None or str(path) in told:
        return told
    return f"store {path}: {told.removeprefix('the store').removeprefix(':').removeprefix(' is').lstrip()}"


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _announce(line: str) -> None:
    """The ready line, past Python's buffer: where nobody takes it, the daemon serves all the same."""
    import logging

    try:
        os.write(1, f"{line}\n".encode())
    except OSError as error:
        logging.getLogger(__name__).warning("the ready line could not be written: %s", error.strerror)


def _open_standard_streams() -> None:
    """Keep the numbers 0, 1 and 2 from being taken by a socket or the store."""
    missing = [number for number in range(3) if not _is_open(number)]
    for _ in missing:
        os.open(os.devnull, os.O_RDWR)
    if missing:
        sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 as long as the process
        sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 the same


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _complain(error: object, code: int) -> int:
    sys.stderr.write(f"runtimed: {error}\n")
    return code
