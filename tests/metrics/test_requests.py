"""Counts of requests: what clients send makes no new names."""

from runtimed.metrics.requests import Requests


def test_all_unknown_paths_and_all_unknown_methods_share_one_name() -> None:
    requests = Requests()

    for number in range(100):
        requests.of(None, f"METHOD{number}").count(404)
    requests.of("/v1/workers", "GET").observe(200, 0.2)

    assert requests.by_route.keys() == {("unknown", "other"), ("/v1/workers", "GET")}
    assert requests.of(None, "METHOD").statuses == {404: 100}
    assert requests.of("/v1/workers", "GET").seconds.sum == 0.2
