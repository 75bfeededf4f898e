"""The Runtime over HTTP: the only package that knows aiohttp."""

from runtimed.http.app import make_app

__all__ = ["make_app"]
