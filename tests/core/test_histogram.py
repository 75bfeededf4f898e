"""Counts of values by size."""

from math import inf

from runtimed.core.histogram import CommitHistograms, Histogram


def test_a_value_counts_in_the_first_bucket_that_is_not_smaller_and_in_all_after_it() -> None:
    histogram = Histogram([1, 5])

    for value in (0.5, 1, 3, 5, 100):
        histogram.observe(value)

    assert list(histogram.cumulative()) == [(1, 2), (5, 4), (inf, 5)]
    assert (histogram.sum, histogram.count) == (109.5, 5)


def test_a_histogram_without_values_has_empty_buckets() -> None:
    assert [count for _, count in Histogram([1]).cumulative()] == [0, 0]


def test_a_commit_counts_once_by_its_time_and_once_by_its_changes() -> None:
    commits = CommitHistograms()

    commits.observe(0.003, 40)

    assert (commits.seconds.sum, commits.changes.sum) == (0.003, 40)
    assert (commits.seconds.count, commits.changes.count) == (1, 1)
