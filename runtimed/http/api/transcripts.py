"""Routes of transcripts."""

from typing import Annotated

from runtimed.core.runtime import Runtime
from runtimed.errors import InvalidWorkerId, LimitTooLarge, WorkerNotFound
from runtimed.http.web.binding import Routes
from runtimed.http.web.query import Number
from runtimed.model.principal import Principal
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import TranscriptResponse

routes = Routes("transcripts")


@routes.get(paths.WORKER_TRANSCRIPT, "read", raises=(InvalidWorkerId, WorkerNotFound, LimitTooLarge))
async def get_transcript(
    runtime: Runtime,
    principal: Principal,
    worker_id: str,
    start: Annotated[int, Number()] = 0,
    limit: Annotated[int | None, Number(limit="max_transcript_projection_items")] = None,
) -> TranscriptResponse:
    """Get a page of a transcript: at most `limit` entries after the first `start`.

    `next_start` is where the next page begins. With `limit=0` the page has no entries, only `total_items`.
    """
    return TranscriptResponse(await runtime.transcript(runtime.ref(worker_id), start, limit, principal=principal))
