"""Routes for operators and tools that belong to no noun of the Runtime."""

from aiohttp import web

from runtimed.http.web.binding import Routes
from runtimed.http.web.openapi import Document
from runtimed.http.web.responses import HEADERS
from runtimed.wire import routes as paths

routes = Routes("operations")


@routes.get(paths.OPENAPI, "read")
def get_openapi(document: Document) -> web.Response:
    """Get this description of the API, in OpenAPI 3.1."""
    return web.Response(body=document.json, headers=HEADERS)
