"""Transcripts."""

from typing import Annotated

from runtimed.core.runtime import Runtime
from runtimed.errors import InvalidWorkerId, LimitTooLarge, WorkerNotFound
from runtimed.http.binder import Number, Routes
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import TranscriptResponse

routes = Routes("transcripts")


@routes.get(paths.WORKER_TRANSCRIPT, raises=(InvalidWorkerId, WorkerNotFound, LimitTooLarge))
async def get_transcript(
    runtime: Runtime,
    worker_id: str,
    start: Annotated[int, Number()] = 0,
    limit: Annotated[int | None, Number(limit="max_transcript_projection_items")] = None,
) -> TranscriptResponse:
    """A page of what was said: the entries behind the first `start`; `next_start` tells where the next begins.

    With `limit=0` it has no entries, and tells `total_items` alone.
    """
    return TranscriptResponse(await runtime.transcript(runtime.ref(worker_id), start, limit))
