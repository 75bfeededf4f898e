"""The daemon: the only module that wires the parts together."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from runtimed import logs
from runtimed.audit import AuditLog
from runtimed.core.limits import AT_START
from runtimed.core.ports import Store, WorkspaceHost
from runtimed.core.runtime import Runtime
from runtimed.errors import ConfigurationError
from runtimed.execution.confinement.confiner import HostConfiner
from runtimed.execution.confinement.secrets import Secrets
from runtimed.execution.confinement.users import Users
from runtimed.execution.confinement.ways_out import Network
from runtimed.execution.processes.supervisor import Supervisor
from runtimed.execution.registry import ProfileRegistry
from runtimed.execution.tasks import begin, finish
from runtimed.execution.workspaces.catalog import Catalog
from runtimed.execution.workspaces.manager import WorkspaceManager
from runtimed.first_token import FirstToken, TokenFile
from runtimed.gateways.host import HostGateways
from runtimed.host import Host
from runtimed.http.app import Api
from runtimed.http.server.http_server import HttpServer
from runtimed.http.server.listeners import Address, Listeners, passed_by_systemd
from runtimed.http.server.tls_context import TlsContext
from runtimed.metrics_listener import MAX_METRICS_CONNECTIONS, serving_metrics
from runtimed.notify import ServiceManager
from runtimed.process_setup import (
    hide_memory,
    keep_freed_memory,
    raise_descriptor_limit,
    reaping,
    spare_garbage_collection,
)
from runtimed.reload import Apply, Part, Reload, reads_no_configuration
from runtimed.settings import Configuration, Settings
from runtimed.settings.limits import LimitSettings
from runtimed.settings.workers import WorkerSettings
from runtimed.settings.workspaces import WorkspaceSettings
from runtimed.signals import Signals
from runtimed.store.factories import find_store
from runtimed.wire import endpoint

WORKERS = frozenset(field.name for kind in (WorkerSettings, WorkspaceSettings) for field in attrs.fields(kind))
WORKERS = WORKERS - {"restore"} | {"audit"}  # Workers see no file of the audit log
LIMITS = frozenset(field.name for field in attrs.fields(LimitSettings)) - AT_START

log = logging.getLogger(__name__)


@attrs.define
class _Workers:
    """What runs Workers. It takes another configuration for those that are spawned from then on."""

    host: Host
    config: str | None
    gateways: HostGateways
    confiner: HostConfiner
    workspaces: WorkspaceManager
    backend: ProfileRegistry
    _named: tuple[Path, ...] = ()
    """The private files that the configuration names now, also for the next start."""

    def noting(self, reread: Callable[[], Settings | None]) -> Callable[[], Settings | None]:
        """Have the private files of the settings that are read hidden, also if the daemon uses others."""

        def read() -> Settings | None:
            found = reread()
            self._named = found.private_files if found else ()
            return found

        return read

    async def prepare(self, new: Settings) -> Apply:
        """Find out what the new settings mean on this host."""
        host = await asyncio.to_thread(self.host.after, new, self._named, self.config)
        catalog = Catalog(new.workspace_roots, new.workspace_table())
        replace_profiles = await self.backend.prepare_replacement(
            new.profile_table(),
            new.default_profile,
            new.sandbox_policy(),
            new.warm_idle_s,
            host_changed=host != self.host,
        )

        def apply() -> None:
            self.host = host
            secrets_ = Secrets(host.resources.secrets)
            self.gateways.replace(host.resources.gateways, secrets_)
            self.confiner.replace(host.mechanisms, host.paths, host.resources, secrets_)
            self.workspaces.replace_catalog(catalog)
            replace_profiles()

        return apply


async def run(
    settings: Settings,
    announce: Callable[[str], None],
    config: str | None = None,
    configuration: Configuration | None = None,
) -> BaseException | None:
    """Serve until a signal arrives or the store fails.

    Args:
        settings: All settings.
        announce: Called with the ready line, which says where the daemon listens.
        config: The configuration file that was read instead of the usual ones.
        configuration: Where the settings are read again; None if nothing can change them.

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
    scrapes = MAX_METRICS_CONNECTIONS if settings.listen_metrics else 0
    connections = settings.max_connections * len(passed or addresses) + scrapes
    max_descriptors = raise_descriptor_limit(connections)
    signals, manager = Signals(), ServiceManager.of(os.environ)
    with signals.handled(), find_store(settings.store).open() as opened:
        host = await asyncio.to_thread(Host.find, settings, opened.data_dir.path, config)
        users = Users(settings.worker_uids(), opened.data_dir.workers) if os.geteuid() == 0 else None
        secrets_ = Secrets(host.resources.secrets)
        gateways = HostGateways(host.resources.gateways, secrets_)
        confiner = HostConfiner(host.mechanisms, host.paths, users, Network(gateways), host.resources, secrets_)
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

        workers = _Workers(host, config, gateways, confiner, workspaces, backend)
        async with (
            manager.kept_informed(),
            _runtime(settings, opened.store, backend, workspaces) as runtime,
            reaping(supervisor),
        ):
            manager.is_alive = lambda: not runtime.poisoned.done()
            await supervisor.claim(runtime.runtime_id)
            await workspaces.recover()
            await backend.keep_warm(settings.warm_idle_s)
            token = await asyncio.to_thread(FirstToken.find, settings, opened)
            spare_garbage_collection()
            listening = partial(Listeners.open, has_tls=tls is not None, insecure=settings.insecure_listen)
            async with _audit_log(settings) as audit_log:
                with contextlib.closing(await asyncio.to_thread(listening, addresses, passed)) as listeners:
                    async with _serving(settings, runtime, token, tls, listeners, audit_log, confiner) as api:
                        kind = settings.store.partition(":")[0]
                        bound = listeners.bound_urls[0]
                        announce(f"runtimed: listening on {bound} runtime={runtime.runtime_id} store={kind}")
                        token_file = TokenFile(token, api.replace_token)
                        parts = [
                            Part(WORKERS, workers.prepare, rereads=True),
                            Part(LIMITS | {"drain_s"}, partial(_prepare_limits, runtime)),
                            Part(frozenset({"tenants"}), partial(_prepare_tenants, runtime)),
                            Part(frozenset({"log_format", "log_level"}), _prepare_log),
                            Part(frozenset(), token_file.prepare, rereads=True),
                        ]
                        if tls is not None:
                            parts.append(Part(frozenset(), partial(_prepare_tls, tls), rereads=True))
                        if configuration is not None:
                            parts.append(Part(frozenset(), configuration.prepare, rereads=True))
                        # Last, because the file that it opens stays open if another part refuses.
                        parts.append(Part(frozenset({"audit"}), partial(_prepare_audit, audit_log), rereads=True))
                        reread = reads_no_configuration if configuration is None else configuration.reload
                        reload = Reload(settings, workers.noting(reread), parts)
                        await _until_drained(runtime, signals, manager, reload, settings.drain_timeout_s)
        return runtime.poisoned.result() if runtime.poisoned.done() else None


@contextlib.asynccontextmanager
async def _serving(
    settings: Settings,
    runtime: Runtime,
    token: FirstToken,
    tls: TlsContext | None,
    listeners: Listeners,
    audit_log: AuditLog,
    confiner: HostConfiner,
) -> AsyncIterator[Api]:
    api = Api(
        runtime,
        token=token.text,
        allowed_hosts=(*settings.allow_host, *listeners.hosts),
        max_body_bytes=settings.max_body_bytes,
        ring_bytes=settings.ring_bytes,
        max_unread_bytes=settings.max_unread_bytes,
        heartbeat_s=settings.heartbeat_s,
        audit_log=audit_log,
        gateway_requests=lambda: confiner.gateway_requests,
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
    async with serving_metrics(settings, api):
        try:
            await server.start(listeners.sockets)
            with contextlib.ExitStack() as parts:
                certificate = settings.tls_files.cert if settings.tls_files else None
                await asyncio.to_thread(parts.enter_context, _endpoint(runtime, token, listeners, certificate))
                for url in listeners.bound_urls:
                    log.info("listening", extra={"url": url})
                yield api
                log.info("shutting down")
        finally:
            await server.close()


async def _until_drained(
    runtime: Runtime, signals: Signals, manager: ServiceManager, reload: Reload, drain_timeout_s: float
) -> None:
    """Serve until a stop signal or a drain, then until no run is left, the time is up, or another signal comes.

    Returns at once if the store fails.
    """
    manager.ready("serving")
    reloading = begin(_reload_on_request(signals, manager, reload))
    try:
        await _serve_and_drain(runtime, signals, manager, drain_timeout_s)
    finally:
        await finish(reloading)


async def _serve_and_drain(
    runtime: Runtime, signals: Signals, manager: ServiceManager, drain_timeout_s: float
) -> None:
    await _any_of(runtime, signals.stopped.wait(), runtime.drain_begun())
    if runtime.poisoned.done():
        manager.stopping("ending: the store has failed", drain_timeout_s)
        return
    drain = runtime.drain()
    if drain.runs and runtime.drain_s:
        within_s = runtime.drain_s + drain_timeout_s
        manager.stopping(f"draining for at most {runtime.drain_s:g} s; runs: {drain.runs}", within_s)
        log.info("draining", extra={"runs": drain.runs, "drain_s": runtime.drain_s})
    else:
        manager.stopping("ending", drain_timeout_s)
    await _any_of(runtime, runtime.drained(), signals.cut.wait())


async def _reload_on_request(signals: Signals, manager: ServiceManager, reload: Reload) -> None:
    while True:
        await signals.reload.wait()
        signals.reload.clear()
        manager.reloading()
        manager.ready(await reload.run())


async def _prepare_limits(runtime: Runtime, new: Settings) -> Apply:
    def apply() -> None:
        runtime.set_limits(new.limits())
        runtime.drain_s = new.drain_s

    return apply


async def _prepare_tenants(runtime: Runtime, new: Settings) -> Apply:
    return partial(runtime.reload_tenants, new.tenant_limits())


async def _prepare_tls(tls: TlsContext, _new: Settings) -> Apply:
    """Read the certificates again. In which files they are does not change before the next start."""
    fresh = await asyncio.to_thread(TlsContext, tls.files)
    if fresh.warning is not None:
        log.warning(fresh.warning)
    return partial(tls.replace, fresh)


async def _prepare_audit(audit_log: AuditLog, new: Settings) -> Apply:
    return await audit_log.prepare(new.audit_policy())


async def _prepare_log(new: Settings) -> Apply:
    return partial(logs.configure, new.log_format, new.log_level)


async def _any_of(runtime: Runtime, *awaited: Coroutine[Any, Any, Any]) -> None:
    """Wait for one of these, or for a failure of the store."""
    tasks = [asyncio.create_task(one) for one in awaited]
    try:
        await asyncio.wait((*tasks, runtime.poisoned), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await finish(*tasks)


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
        drain_s=settings.drain_s,
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
    settings.check_metrics_closed()
    return tls


@contextlib.contextmanager
def _endpoint(runtime: Runtime, token: FirstToken, listeners: Listeners, certificate: Path | None) -> Iterator[None]:
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


def _check_reachable(token: FirstToken, unpublished: endpoint.Endpoint, reason: str) -> None:
    """Log how clients reach a daemon without an endpoint file. Raises ConfigurationError if they cannot."""
    if token.made:
        raise ConfigurationError(
            f"cannot publish the generated token in an endpoint file: {reason}; set RUNTIMED_TOKEN or token_file"
        )
    credentials = f"--token-file {token.file}" if token.file else "and the token"
    message = "cannot publish an endpoint file: clients need --url %s %s"
    log.warning(message, unpublished.url, credentials, extra={"reason": reason})
