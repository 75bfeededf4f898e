"""The routes of the API but for the feed: one module a noun."""
