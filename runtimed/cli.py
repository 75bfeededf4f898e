"""The command line of the daemon: options become Settings, and the end of the daemon an exit code."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtimed import __version__
from runtimed.exits import FAILURE, OK, STORE_FAILED, STORE_TAKEN, USAGE, fail, store_message


def main() -> None:
    """Run the command line of this process and exit."""
    _open_standard_streams()
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"runtimed {__version__}\n")
        return
    sys.exit(_invoke())


def _invoke() -> int:
    import click

    try:
        return int(command().main(prog_name="runtimed", standalone_mode=False) or OK)
    except click.ClickException as error:
        return fail(f"{' '.join(error.format_message().split())} (see: runtimed --help)", USAGE)
    except click.Abort:
        return FAILURE


def command() -> Any:
    """Return the command line with its options and subcommands."""
    import click

    from runtimed.settings import LOG_LEVELS, RESTORE_POLICIES

    @click.group(
        invoke_without_command=True,
        context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
    )
    @click.option(
        "--listen",
        metavar="ADDR",
        multiple=True,
        help="The address: HOST:PORT, :PORT or unix:PATH; repeatable. [127.0.0.1:38800]",
    )
    @click.option(
        "--listen-metrics", metavar="ADDR", help="Serve metrics and probes here too, without a token. [nowhere]"
    )
    @click.option("--store", metavar="STORE", help="The store: memory, or fs:PATH for a durable one. [memory]")
    @click.option("--runtime-id", metavar="ID", help="The id of the Runtime. [generated, then kept in the store]")
    @click.option("--display-name", metavar="NAME", help="A name for people.")
    @click.option("--token-file", metavar="PATH", help="Read the token from this file (mode 0600). [generated]")
    @click.option(
        "--config", metavar="FILE", help="The TOML configuration file. [/etc/runtimed/config.toml, then the user's]"
    )
    @click.option(
        "--max-transcript-projection-items",
        type=int,
        metavar="N",
        help="The most entries in a page of a transcript. [256]",
    )
    @click.option("--max-event-batch-items", type=int, metavar="N", help="The most events in a page of events. [256]")
    @click.option(
        "--allow-host", metavar="NAME", multiple=True, help="Accept this name in the Host header too; repeatable."
    )
    @click.option(
        "--restore",
        type=click.Choice(RESTORE_POLICIES),
        help="Reconnect Workers after a restart: at the start, at their next input, or on request only. [lazy]",
    )
    @click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        help="The format of the log. [text on a terminal, else json]",
    )
    @click.option(
        "--log-level", type=click.Choice(LOG_LEVELS), help="Log only messages of this level or above. [info]"
    )
    @click.option("--tls-cert", metavar="FILE", help="Serve TCP with TLS: the certificate and its chain, in PEM.")
    @click.option("--tls-key", metavar="FILE", help="The private key of the certificate, in PEM (mode 0600).")
    @click.option(
        "--tls-client-ca", metavar="FILE", help="Require a client certificate from one of these authorities, in PEM."
    )
    @click.option(
        "--insecure-listen",
        is_flag=True,
        default=None,
        help="Listen without TLS, for metrics too, where other machines can reach it: something in front has TLS.",
    )
    @click.option("--check-config", is_flag=True, help="Check the configuration and exit.")
    @click.option(
        "--check-store", metavar="STORE", help="Check the store fs:PATH, which no daemon may use, and exit."
    )
    @click.option(
        "--http-quick-path/--no-http-quick-path",
        default=None,
        help="Answer plain HTTP requests without aiohttp's machinery. [on]",
    )
    @click.version_option(__version__, message="%(prog)s %(version)s")
    @click.pass_context
    def runtimed(
        context: click.Context, /, config: str | None, check_config: bool, check_store: str | None, **options: Any
    ) -> int:
        """Host a Runtime of Workers in the foreground, until SIGTERM or SIGINT.

        runtimed prints one line to stdout when it is ready, and logs to stderr. Each option can also be set in the
        environment, as RUNTIMED_LISTEN, RUNTIMED_STORE and so on, or in the configuration file. Pass the token in
        RUNTIMED_TOKEN or in a file: arguments are visible to all users of the machine. On SIGHUP it reads the
        configuration file again.

        \b
        Example:
          runtimed --store fs:/var/lib/rt
        """
        given = {name: value for name, value in options.items() if value not in (None, ())}
        if context.invoked_subcommand is not None:
            if given or config or check_config or check_store:
                raise click.UsageError(f"options belong behind {context.invoked_subcommand}")
            return OK
        if check_store is not None:
            return _check_store(check_store, "check_store")
        return _run(given, config, check_config=check_config)

    @runtimed.command("exec", context_settings={"allow_interspersed_args": False})
    @click.option("--store", metavar="STORE", help="The store: memory, or fs:PATH for a durable one. [memory]")
    @click.option("--config", metavar="FILE", help="The TOML configuration file. [as for runtimed]")
    @click.argument("command", metavar="-- COMMAND...", nargs=-1, required=True)
    def exec_(store: str | None, config: str | None, command: tuple[str, ...]) -> int:
        """Run a command beside a daemon of its own, which ends with it.

        The daemon serves on a socket that only this user can reach, and the current directory is among its workspace
        roots. runtimectl finds it by RUNTIMECTL_URL and RUNTIMECTL_TOKEN_FILE. The exit code is that of the command;
        125 if the daemon did not start.

        \b
        Example:
          runtimed exec -- runtimectl run -- make test
        """
        return _exec(store, config, command)

    @runtimed.group("store")
    def store_() -> None:
        """Check, back up and restore stores that no daemon holds."""

    @store_.command("check")
    @click.argument("source")
    def check(source: str) -> int:
        """Read all of a store, and print each problem.

        SOURCE is fs:PATH. Nothing is changed.

        \b
        Example:
          runtimed store check fs:/var/lib/rt
        """
        return _check_store(source, "SOURCE")

    @store_.command("backup")
    @click.argument("source")
    @click.argument("file")
    def backup(source: str, file: str) -> int:
        """Copy a store into a file, and check the copy.

        SOURCE is fs:PATH. While a daemon serves, use runtimectl backup.

        \b
        Example:
          runtimed store backup fs:/var/lib/rt rt.backup
        """
        from runtimed.store_commands import back_up

        return back_up(source, file)

    @store_.command("restore")
    @click.argument("file")
    @click.argument("target")
    def restore(file: str, target: str) -> int:
        """Check a backup, and make a store of it.

        TARGET is fs:PATH, where there may be nothing yet.

        \b
        Example:
          runtimed store restore rt.backup fs:/var/lib/rt
        """
        from runtimed.store_commands import restore

        return restore(file, target)

    return runtimed


def _check_store(source: str, option: str) -> int:
    from runtimed.store_commands import check_store

    return check_store(source, option)


def _exec(store: str | None, config: str | None, command: Sequence[str]) -> int:
    from runtimed.private_daemon import NOT_STARTED, PrivateDaemon, run_command

    try:
        daemon = PrivateDaemon(_serve_private, store, config)
    except OSError as error:
        return fail(f"exec: {error}", NOT_STARTED)
    return run_command(daemon, command)


def _serve_private(flags: Mapping[str, Any], config: str | None, announce: Callable[[str], None]) -> int:
    import attrs

    from runtimed import settings
    from runtimed.errors import ConfigurationError, StartError

    try:
        loaded = settings.load(flags, config)
        roots = (str(Path.cwd()), *loaded.workspace_roots)
        # What belongs to the daemon of the host, or would have the end of the command wait.
        private = attrs.evolve(loaded, workspace_roots=roots, listen_metrics="", audit={}, drain_s=0.0)
        return _serve(private, announce, config)
    except ConfigurationError as error:
        return fail(error, USAGE)
    except StartError as error:
        return fail(error, FAILURE)


def _run(flags: dict[str, Any], config: str | None, *, check_config: bool) -> int:
    from runtimed import settings
    from runtimed.errors import ConfigurationError, StartError
    from runtimed.http.server.listeners import Address

    try:
        config = config or settings.config_file()
        configuration = settings.Configuration(flags, config)
        loaded = configuration.load()
        addresses = [Address.parse(text) for text in loaded.listen]
        if check_config:
            _check_exposure(loaded, addresses)
            for name in settings.unknown_variables():
                sys.stderr.write(f"runtimed: environment: {name} is not a setting\n")
            sys.stdout.write("the configuration is valid\n")
            return OK
        return _serve(loaded, _announce, config, configuration)
    except ConfigurationError as error:
        return fail(error, USAGE)
    except StartError as error:
        return fail(error, FAILURE)


def _check_exposure(loaded: Any, addresses: Sequence[Any]) -> None:
    """Print the warning about the certificate, if any. Raises ConfigurationError for an open address without TLS."""
    tls = loaded.load_tls()
    if tls is not None and tls.warning is not None:
        sys.stderr.write(f"runtimed: {tls.warning}\n")
    for address in addresses:
        if tls is None and not loaded.insecure_listen:
            address.check_closed()
    loaded.check_metrics_closed()


def _serve(loaded: Any, announce: Callable[[str], None], config: str | None, configuration: Any = None) -> int:
    import asyncio
    import logging

    from runtimed import daemon, logs, settings
    from runtimed.errors import StoreError, StoreForeign, StoreInUse, StoreUnsupported

    logs.configure(loaded.log_format, loaded.log_level)
    for name in settings.unknown_variables():
        logging.getLogger(__name__).warning("environment: %s is not a setting", name)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            failure = runner.run(daemon.run(loaded, announce, config, configuration))
    except (StoreInUse, StoreForeign) as error:
        return fail(store_message(loaded.store_path, error), STORE_TAKEN)
    except (StoreUnsupported, StoreError) as error:
        return fail(store_message(loaded.store_path, error), FAILURE)
    return OK if failure is None else fail(store_message(loaded.store_path, failure), STORE_FAILED)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _announce(line: str) -> None:
    """Write the ready line, unbuffered. If stdout does not take it, the daemon serves all the same."""
    import logging

    try:
        os.write(1, f"{line}\n".encode())
    except OSError as error:
        logging.getLogger(__name__).warning("cannot write the ready line to stdout: %s", error.strerror)


def _open_standard_streams() -> None:
    """Open /dev/null as a missing stdin, stdout or stderr, so that no socket or database gets its descriptor."""
    missing = [number for number in range(3) if not _is_open(number)]
    for _ in missing:
        os.open(os.devnull, os.O_RDWR)
    if missing:
        sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 open as long as the process
        sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 the same


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
