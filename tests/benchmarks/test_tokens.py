import pytest

from benchmarks.ticks import Series
from benchmarks.tokens import Heard


def test_each_token_has_a_delay_and_the_deltas_are_counted() -> None:
    heard = Heard(Series(3, 50))

    heard.take("<0@1000000> ", 3_000_000)
    heard.take("<1@4000000> <2@6000000> ", 9_000_000)

    assert heard.checked().delays == [2_000_000, 5_000_000, 3_000_000]
    assert heard.deltas == 2
    assert heard.percentile_ms(50) == 3.0


@pytest.mark.parametrize("text", ["<1@1000000>", "<0@1000000><0@1000000>", "<0@1000000><2@1000000>"])
def test_a_token_that_is_missing_repeated_or_out_of_order_fails_the_run(text: str) -> None:
    with pytest.raises(ValueError, match="came where"):
        Heard(Series(3, 50)).take(text, 2_000_000)


def test_a_run_in_which_tokens_did_not_arrive_fails() -> None:
    heard = Heard(Series(2, 50))
    heard.take("<0@1000000>", 2_000_000)

    with pytest.raises(ValueError, match="1 of 2"):
        heard.checked()
