"""The Runtime over HTTP: the only package that imports aiohttp."""

from runtimed.http.app import Api, make_app

__all__ = ["Api", "make_app"]
