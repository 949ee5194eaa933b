"""Mean and deviation against numpy, far from zero too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.moments import Moments


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=50), st.sampled_from([0.0, 1.0, 1e6]))
def test_agrees_with_numpy(values, offset) -> None:
    moments = Moments(offset)
    shifted = np.array(values) + offset
    n, mean, deviation = moments.get(moments.fold(shifted, Grouping.single(len(values))))
    assert n[0] == len(values)
    assert mean[0] == pytest.approx(shifted.mean(), abs=1e-9)
    assert deviation[0] == pytest.approx(shifted.std(ddof=1), abs=1e-6)


def test_too_few_values_have_no_deviation() -> None:
    moments = Moments()
    n, mean, deviation = moments.get(moments.fold(np.array([3.0, np.nan]), Grouping.single(2)))
    assert (n[0], mean[0]) == (1, 3.0)
    assert np.isnan(deviation[0])
