"""Sockets and connections: listeners, the accept loop, connection slots and the HTTP server."""

from runtimed.http.server.http_server import HttpServer

__all__ = ["HttpServer"]
