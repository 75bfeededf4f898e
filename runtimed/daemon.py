"""The daemon: the only module that wires the parts together."""

import asyncio
import contextlib
import ctypes
import functools
import gc
import logging
import os
import resource
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import attrs

from runtimed.audit import AuditLog
from runtimed.core.ports import Store, WorkspaceHost
from runtimed.core.runtime import Runtime
from runtimed.errors import ConfigurationError
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.confinement.host_paths import HostPaths
from runtimed.execution.confinement.probe import Mechanisms, find_mechanisms
from runtimed.execution.confinement.secrets import Secrets
from runtimed.execution.confinement.users import Users
from runtimed.execution.confinement.ways_out import Network
from runtimed.execution.processes.folder_size import MAX_DEPTH
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.registry import ProfileRegistry
from runtimed.execution.tasks import begin, finish
from runtimed.execution.workspaces.catalog import Catalog
from runtimed.execution.workspaces.manager import WorkspaceManager
from runtimed.gateways.host import HostGateways
from runtimed.http.app import Api
from runtimed.http.server.http_server import HttpServer
from runtimed.http.server.listeners import Address, Listeners, passed_by_systemd
from runtimed.http.server.tls_context import TlsContext
from runtimed.notify import notify
from runtimed.settings import Settings, configuration_files, configuration_folders
from runtimed.store.factories import OpenedStore, find_store
from runtimed.wire import endpoint
from runtimed.wire.token import TokenFileError, read_token

PR_SET_DUMPABLE = 4
GC_THRESHOLDS = (50_000, 50, 50)
"""Thresholds of the garbage collector. With the default of 700 it takes a third of an input's time and finds nothing:
the Runtime holds its objects for long, and hardly any of them are in cycles."""

KEPT_BLOCK_BYTES = 2 * 2**20
"""Several times what one stream through a gateway has in memory."""

OWN_DESCRIPTORS = 64 + 2 * MAX_DEPTH
"""The most descriptors that the daemon needs besides those of connections and Workers: store, sockets, log, and the
folders that are open while the folder of a Worker is counted."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that end the daemon. One that was ignored when it started stays ignored, as SIGHUP below nohup."""

REAP_PAUSE_S = 0.1
"""The shortest pause of process 1 between two searches for ended children."""

log = logging.getLogger(__name__)


@attrs.frozen
class Token:
    """The token that clients send.

    Attributes:
        text: The token itself.
        file: The file that holds it, if any.
        made: The daemon generated it without a file: clients find it in the endpoint file only.
    """

    text: str = attrs.field(repr=False)
    file: Path | None = None
    made: bool = False


async def run(settings: Settings, announce: Callable[[str], None], config: str | None = None) -> BaseException | None:
    """Serve until a signal arrives or the store fails.

    Args:
        settings: All settings.
        announce: Called with the ready line, which says where the daemon listens.
        config: The configuration file that was read instead of the usual ones.

    Returns:
        The error of the store, or None after a signal.

    Raises:
        StartError: The daemon cannot start.
    """
    passed = passed_by_systemd()
    hide_memory()
    keep_freed_memory()
    addresses = [Address.parse(text) for text in settings.listen]
    tls = await asyncio.to_thread(_tls, settings, addresses, passed)
    connections = settings.max_connections * len(passed or addresses)
    max_descriptors = raise_descriptor_limit(connections)
    with _stop_signals() as stopped, find_store(settings.store).open() as opened:
        confiner = await asyncio.to_thread(_confiner, settings, opened, config)
        supervisor = Supervisor(max_descriptors=max_descriptors, confiner=confiner)
        catalog = Catalog(settings.workspace_roots, settings.workspace_table())
        workspaces = WorkspaceManager(catalog, opened.data_dir, supervisor)
        backend = ProfileRegistry(
            settings.profile_table(),
            settings.default_profile,
            workspaces=opened.data_dir,
            supervisor=supervisor,
            manager=workspaces,
            sandbox=settings.sandbox_policy(),
        )
        async with _runtime(settings, opened.store, backend, workspaces) as runtime, _reaping(supervisor):
            await supervisor.claim(runtime.runtime_id)
            await workspaces.recover()
            await backend.keep_warm(settings.warm_idle_s)
            token = await asyncio.to_thread(_token, settings, opened)
            spare_garbage_collection()
            listening = functools.partial(Listeners.open, has_tls=tls is not None, insecure=settings.insecure_listen)
            async with _audit_log(settings) as audit_log:
                with contextlib.closing(await asyncio.to_thread(listening, addresses, passed)) as listeners:
                    await _serve(settings, runtime, token, tls, listeners, audit_log, announce, stopped)
        return runtime.poisoned.result() if runtime.poisoned.done() else None


def hide_memory() -> None:
    """Keep other processes of this user, above all Workers, from reading the memory and environment of this one."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def keep_freed_memory() -> None:
    """Have the C library keep some of the memory that is freed: giving it back for each chunk of a stream is slow.

    glibc learns from a large block that is freed: from then on it keeps up to twice as much for reuse.
    """
    bytes(KEPT_BLOCK_BYTES)


def raise_descriptor_limit(max_connections: int) -> int | None:
    """Let this process open as many descriptors as the system allows. Logs a warning if these are too few.

    Args:
        max_connections: The most connections of all listeners.

    Returns:
        The limit from before, which Workers' programs get because those that call select(2) need it. None if the
        limit did not change.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # not every system accepts its own value for "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < max_connections + OWN_DESCRIPTORS:
        fields = {"allowed": allowed, "max_connections": max_connections}
        log.warning("too few descriptors may be open for max_connections on each listener", extra=fields)
    return before if allowed != before else None


def spare_garbage_collection() -> None:
    """Treat all present objects as permanent, and collect garbage less often."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _serve(
    settings: Settings,
    runtime: Runtime,
    token: Token,
    tls: TlsContext | None,
    listeners: Listeners,
    audit_log: AuditLog,
    announce: Callable[[str], None],
    stopped: asyncio.Future[None],
) -> None:
    api = Api(
        runtime,
        token=token.text,
        allowed_hosts=(*settings.allow_host, *listeners.hosts),
        max_body_bytes=settings.max_body_bytes,
        ring_bytes=settings.ring_bytes,
        max_unread_bytes=settings.max_unread_bytes,
        heartbeat_s=settings.heartbeat_s,
        audit_log=audit_log,
    )
    server = HttpServer(
        api,
        max_connections=settings.max_connections,
        max_unauthenticated_bytes=settings.max_unauthenticated_bytes,
        header_timeout_s=settings.header_timeout_s,
        drain_timeout_s=settings.drain_timeout_s,
        quick_requests=settings.http_quick_path,
        tls=tls,
    )
    try:
        await server.start(listeners.sockets)
        with contextlib.ExitStack() as parts:
            certificate = settings.tls_files.cert if settings.tls_files else None
            await asyncio.to_thread(parts.enter_context, _endpoint(runtime, token, listeners, certificate))
            for url in listeners.bound_urls:
                log.info("listening", extra={"url": url})
            kind = settings.store.partition(":")[0]
            announce(f"runtimed: listening on {listeners.bound_urls[0]} runtime={runtime.runtime_id} store={kind}")
            notify("READY=1")
            await asyncio.wait((stopped, runtime.poisoned), return_when=asyncio.FIRST_COMPLETED)
            notify("STOPPING=1")
            log.info("shutting down")
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def _runtime(
    settings: Settings, store: Store, backend: ProfileRegistry, workspaces: WorkspaceHost
) -> AsyncIterator[Runtime]:
    runtime = Runtime(
        store,
        backend,
        workspaces=workspaces,
        runtime_id=settings.runtime_id or None,
        display_name=settings.display_name or None,
        limits=settings.limits(),
        restore=settings.restore,
        profiles=backend,
        tenants=settings.tenant_limits(),
    )
    try:
        async with runtime:
            yield runtime
    finally:
        await backend.close()


@contextlib.asynccontextmanager
async def _audit_log(settings: Settings) -> AsyncIterator[AuditLog]:
    audit_log = await asyncio.to_thread(AuditLog, settings.audit_policy())
    try:
        yield audit_log
    finally:
        await audit_log.close()


@contextlib.asynccontextmanager
async def _reaping(supervisor: Supervisor) -> AsyncIterator[None]:
    """Reap orphans if this is process 1, which the kernel makes their parent."""
    if os.getpid() != 1:
        yield
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    _handle(signal.SIGCHLD, lambda _number, _frame: loop.call_soon_threadsafe(ended.set))
    task = begin(_reap(supervisor, ended))
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        await finish(task)


async def _reap(supervisor: Supervisor, ended: asyncio.Event) -> None:
    while True:
        await supervisor.reap()
        await asyncio.sleep(REAP_PAUSE_S)
        await ended.wait()
        ended.clear()


def _confiner(settings: Settings, opened: OpenedStore, config: str | None) -> HostConfiner:
    """Return what confines Workers. It hides the store, the configuration, tokens and sockets of the daemon."""
    policies = (settings.sandbox_policy(), *(profile.sandbox for profile in settings.profile_table().values()))
    numbers = settings.worker_uids()
    users = Users(numbers, opened.data_dir.workers) if os.geteuid() == 0 else None
    files = [file for file in (settings.token_file, settings.tls_key) if file]
    sockets = [address.path for address in map(Address.parse, settings.listen) if address.path]
    configured = [*configuration_files(config), *configuration_folders()]
    named = [*configured, *settings.secret_files, *settings.audit_files, *map(Path, files), *map(Path, sockets)]
    paths = HostPaths(tuple(path.resolve() for path in (opened.data_dir.path, endpoint.folder(), *named)))
    is_off = all(policy.mode == "off" for policy in policies)
    mechanisms = Mechanisms() if is_off else find_mechanisms(None if users is None else numbers.start)
    resources = settings.host_resources()
    secrets_ = Secrets(resources.secrets)
    network = Network(HostGateways(resources.gateways, secrets_))
    return HostConfiner(mechanisms, paths, users, network, resources, secrets_)


def _tls(settings: Settings, addresses: Sequence[Address], passed: Sequence[socket.socket]) -> TlsContext | None:
    """Return how TLS connections are accepted, or None without TLS.

    Raises:
        ConfigurationError: A certificate cannot be used, or other machines can reach an address without TLS.
    """
    tls = settings.load_tls()
    if tls is not None and tls.warning is not None:
        log.warning(tls.warning)
    if tls is None and not settings.insecure_listen:
        for place in (Listeners(passed),) if passed else addresses:
            place.check_closed()
    return tls


def _token(settings: Settings, opened: OpenedStore) -> Token:
    if settings.token:
        return Token(str(settings.token))
    if settings.token_file:
        path = Path(settings.token_file).absolute()
        try:
            return Token(read_token(path), path)
        except TokenFileError as error:
            raise ConfigurationError(f"token_file: {path}: {error}") from error
    if opened.keeps_token:
        return Token(*opened.data_dir.read_or_make_token())
    return Token(secrets.token_urlsafe(32), made=True)


@contextlib.contextmanager
def _endpoint(runtime: Runtime, token: Token, listeners: Listeners, certificate: Path | None) -> Iterator[None]:
    """Publish the endpoint file while the daemon serves. If it cannot be written, log how to reach the daemon."""
    found = endpoint.Endpoint(
        url=listeners.urls[0],
        runtime_id=runtime.runtime_id,
        pid=os.getpid(),
        token=None if token.file else token.text,
        token_file=str(token.file) if token.file else None,
        certificate=str(certificate) if certificate and listeners.urls[0].startswith("https:") else None,
    )
    with contextlib.ExitStack() as parts:
        try:
            parts.enter_context(endpoint.published(found))
        except OSError as error:
            reason = str(error.strerror or error)
            _check_reachable(token, found, f"{error.filename}: {reason}" if error.filename else reason)
        yield


def _check_reachable(token: Token, unpublished: endpoint.Endpoint, reason: str) -> None:
    """Log how clients reach a daemon without an endpoint file. Raises ConfigurationError if they cannot."""
    if token.made:
        raise ConfigurationError(
            f"cannot publish the generated token in an endpoint file: {reason}; set RUNTIMED_TOKEN or token_file"
        )
    credentials = f"--token-file {token.file}" if token.file else "and the token"
    message = "cannot publish an endpoint file: clients need --url %s %s"
    log.warning(message, unpublished.url, credentials, extra={"reason": reason})


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Future[None]]:
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)

    ignored = [number for number in STOP_SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    handled = [number for number in STOP_SIGNALS if number not in ignored]
    for number in ignored:
        _handle(number, _do_nothing)
    for number in handled:
        loop.add_signal_handler(number, stop)
    try:
        yield stopped
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


def _handle(number: signal.Signals, handler: Callable[[int, object], object]) -> None:
    """Handle a signal without interrupting system calls."""
    signal.signal(number, handler)
    signal.siginterrupt(number, False)


def _do_nothing(_number: int, _frame: object) -> None:
    """Ignore a signal by a handler. Programs would inherit SIG_IGN, but they do not inherit a handler."""
