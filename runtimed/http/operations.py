"""What an operator needs of the service itself."""

from aiohttp import web

from runtimed.http.binder import Routes
from runtimed.http.openapi import Document
from runtimed.http.responses import HEADERS
from runtimed.wire import routes as paths

routes = Routes("operations")


@routes.get(paths.OPENAPI)
def get_openapi(document: Document) -> web.Response:
    """This description of the API, in OpenAPI 3.1."""
    return web.Response(body=document.json, headers=HEADERS)
