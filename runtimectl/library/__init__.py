"""The client library: the API in Python, typed by `runtimed.model`, with and without asyncio."""
