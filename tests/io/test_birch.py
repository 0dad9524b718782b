"""BIRCH labels: the clusters that are there, no more than asked for, padding left out."""

import sys

import numpy as np
import pytest

from bat_jax.io import birch


def blobs():
    """Return 90 rows around three far-apart places in random order, and the place of each."""
    rng = np.random.default_rng(0)
    place = rng.permutation(np.repeat(np.arange(3), 30))
    return (np.eye(3)[place] * 9 + rng.normal(size=(90, 3)) * 0.3).astype(np.float32), place


def test_separate_clusters_are_found_exactly():
    rows, place = blobs()
    label = birch.birch_labels(rows, np.ones(90, bool), 3, 0.25)
    assert label.dtype == np.int32
    assert len({(a, b) for a, b in zip(place.tolist(), label.tolist(), strict=True)}) == 3
    np.testing.assert_array_equal(label, birch.birch_labels(rows, np.ones(90, bool), 3, 0.25))


def test_padding_is_in_no_region_and_changes_nothing():
    rows, _ = blobs()
    valid = np.arange(90) % 4 != 0
    label = birch.birch_labels(rows, valid, 7, 0.25)
    other = np.where(valid[:, None], rows, 99).astype(np.float32)
    np.testing.assert_array_equal(birch.birch_labels(other, valid, 7, 0.25), label)
    assert np.all(label[~valid] == -1) and sorted(set(label[valid].tolist())) == list(range(7))
    assert np.all(birch.birch_labels(rows, np.zeros(90, bool), 7, 0.25) == -1)


def test_a_wide_radius_gives_fewer_regions_than_asked_for():
    rows, _ = blobs()
    assert set(birch.birch_labels(rows, np.ones(90, bool), 50, 3.0).tolist()) == {0, 1, 2}


def test_too_many_subclusters_are_refused_by_the_setting(monkeypatch):
    monkeypatch.setattr(birch, "MAX_SUBCLUSTERS", 10)
    with pytest.raises(ValueError, match=r"birch_threshold=0.001: leaves 90 subclusters"):
        birch.birch_labels(blobs()[0], np.ones(90, bool), 3, 0.001)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ValueError, match=r"pip install 'bat_jax\[birch\]'"):
        birch.birch_labels(blobs()[0], np.ones(90, bool), 3, 0.25)
