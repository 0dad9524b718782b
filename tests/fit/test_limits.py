"""The most that fits, by few trials: peaks that grow evenly, faster, with the square; what ends a search."""

import pytest

from bat_jax.fit.limits import largest


class Peaks:
    """Remembers what was tried."""

    def __init__(self, peak_of):
        self.tried, self._peak_of = [], peak_of

    def __call__(self, number):
        self.tried.append(number)
        return self._peak_of(number)


@pytest.mark.parametrize(
    "peak_of",
    [lambda n: 100 + n // 2, lambda n: 100 + n // 2 + n * n // 100_000, lambda n: 100 + max(300, n // 2)],
    ids=["even", "faster", "flat at first"],
)
def test_the_most_that_fits_is_found_by_few_trials(peak_of):
    peaks = Peaks(peak_of)
    found = largest(peaks, 10, peak_of(10), 1100, base=100)
    best = max(n for n in range(10, 10_000) if peak_of(n) <= 1100)
    assert best / 1.05 <= found <= best and found in peaks.tried and len(peaks.tried) <= 4


def test_what_grows_with_the_square_is_found_in_whole_steps():
    peaks = Peaks(lambda n: 1000 + 3 * n * n)
    found = largest(peaks, 336, peaks(336), 1_000_000_000, base=1000, step=336, power=2)
    best = int((999_999_000 / 3) ** 0.5)
    assert found % 336 == 0 and best / 1.05**0.5 - 336 <= found <= best and len(peaks.tried) <= 3


def test_an_even_line_takes_two_trials():
    peaks = Peaks(lambda n: 5_000 + 7 * n)
    found = largest(peaks, 3_000, 5_000 + 21_000, 1_000_000, base=4_000)
    assert len(peaks.tried) == 2 and found == peaks.tried[-1]


def test_the_most_that_means_anything_ends_a_search():
    peaks = Peaks(lambda n: n)
    assert largest(peaks, 10, 10, 10_000, most=1000) == 1000 and peaks.tried == [1000]
    assert largest(peaks, 10, 10, 10_000, most=10) == 10 and len(peaks.tried) == 1, "no trial"


def test_where_nothing_more_fits_the_known_number_is_the_answer():
    assert largest(lambda n: 20 * n, 10, 190, 195, base=185) == 10
