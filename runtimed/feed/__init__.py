"""The observation feed: each reader is a cursor over a ring of encoded events in memory and the store's pages."""

from runtimed.feed.event_log import WorkerOver
from runtimed.feed.feed import Feed
from runtimed.feed.observer import Observer
from runtimed.feed.reader import Reader
from runtimed.feed.view import Selection, View
from runtimed.feed.waits import Waits

__all__ = ["Feed", "Observer", "Reader", "Selection", "View", "Waits", "WorkerOver"]
