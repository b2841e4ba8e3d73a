"""What many measurements come to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lab import quantiles


def test_a_quantile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(1, 201)]
    assert quantiles.quantile(values, 0.99) == 198
    assert quantiles.quantile(values, 0.25) == 50
    assert quantiles.quantile([7.0], 0.99) == 7


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_quantile_covers_its_share(values: list[float], share: float) -> None:
    found = quantiles.quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
