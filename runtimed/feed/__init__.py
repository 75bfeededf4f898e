"""The observation feed: readers are cursors over a ring of frames and the store's pages."""

from runtimed.feed.feed import Feed
from runtimed.feed.reader import Reader

__all__ = ["Feed", "Reader"]
