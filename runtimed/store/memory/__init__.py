"""The store that keeps a Runtime in memory and forgets it with the process."""

from runtimed.store.memory.store import MemoryStore

__all__ = ["MemoryStore"]
