"""The observation feed: readers are cursors over a ring of messages and the store's pages."""

from runtimed.feed.feed import Feed
from runtimed.feed.log import WorkerOver
from runtimed.feed.observer import Observer
from runtimed.feed.reader import Reader
from runtimed.feed.view import Selection, View

__all__ = ["Feed", "Observer", "Reader", "Selection", "View", "WorkerOver"]
