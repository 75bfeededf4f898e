"""The listener for metrics and probes."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial

from runtimed.http.app import Api, MetricsApi
from runtimed.http.server.http_server import HttpServer
from runtimed.http.server.listeners import Listeners
from runtimed.settings import Settings

MAX_METRICS_CONNECTIONS = 64
"""The connections at the same time on the address of the metrics."""

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def serving_metrics(settings: Settings, api: Api) -> AsyncIterator[None]:
    """Serve metrics and probes on an address of their own, if there is one, and measure the event loop."""
    with api.metrics.loop_lag.measuring(), contextlib.ExitStack() as parts:
        address = settings.metrics_address()
        if address is None:
            yield
            return
        insecure = settings.insecure_listen
        opening = partial(Listeners.open, [address], insecure=insecure, setting="listen_metrics")
        listeners = parts.enter_context(contextlib.closing(await asyncio.to_thread(opening)))
        server = HttpServer(
            MetricsApi(api, (*settings.allow_host, *listeners.hosts)),
            max_connections=MAX_METRICS_CONNECTIONS,
            header_timeout_s=settings.header_timeout_s,
            drain_timeout_s=settings.drain_timeout_s,
        )
        await server.start(listeners.sockets)
        log.info("listening for scrapes", extra={"url": listeners.bound_urls[0]})
        try:
            yield
        finally:
            await server.close()
