"""The command line of runtimed, and its client library: `Client` and `AsyncClient`."""

TYPE_CHECKING = False  # Importing typing would cost more than this whole module.

if TYPE_CHECKING:
    from runtimectl.library.async_client import AsyncClient
    from runtimectl.library.client import Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> object:
    if name == "Client":
        from runtimectl.library.client import Client

        return Client
    if name == "AsyncClient":
        from runtimectl.library.async_client import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
