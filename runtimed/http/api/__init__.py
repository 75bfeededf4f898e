"""The routes of the API except the feed: one module for each noun."""
