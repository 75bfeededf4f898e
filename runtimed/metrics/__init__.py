"""Metrics for Prometheus: counts on the way of requests, state at the time of a scrape, and how both are written."""
