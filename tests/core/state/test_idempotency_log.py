"""Which idempotency keys are kept, and for how long."""

from runtimed.core.state.change import IdempotencyRecord
from runtimed.core.state.idempotency_log import KEPT_MS, IdempotencyLog
from runtimed.model.identity import WorkerId

NAME = WorkerId("worker-00000001")


def record(number: int, scope: str | None = None, unix_ms: int = 0) -> IdempotencyRecord:
    return IdempotencyRecord(number, (scope or str(number)).encode(), b"body", NAME, unix_ms)


def test_the_oldest_keys_go_first_when_there_are_too_many() -> None:
    log = IdempotencyLog([record(1), record(2)], most=2)

    log.keep([record(3)])

    assert [log.find(scope, 0) is not None for scope in (b"1", b"2", b"3")] == [False, True, True]
    assert (len(log), log.newest, log.due(0)) == (2, 3, 1)


def test_a_key_is_kept_for_a_day() -> None:
    log = IdempotencyLog([record(1, unix_ms=5), record(2, unix_ms=6)], most=9)

    assert log.find(b"1", KEPT_MS + 4) is not None
    assert log.find(b"1", KEPT_MS + 5) is None
    assert log.find(b"2", KEPT_MS + 5) is not None
    assert log.due(KEPT_MS + 5) == 1
    assert log.due(2 * KEPT_MS) == 2


def test_an_expired_key_that_is_used_again_counts_as_the_newest() -> None:
    log = IdempotencyLog([record(1, "a"), record(2, "b")], most=2)

    log.keep([record(3, "a", unix_ms=KEPT_MS)])
    log.keep([record(4, "c", unix_ms=KEPT_MS)])

    assert [log.find(scope, KEPT_MS) is not None for scope in (b"a", b"b", b"c")] == [True, False, True]
    assert log.due(KEPT_MS) == 2
