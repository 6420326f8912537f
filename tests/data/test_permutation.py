"""Orders that are functions: permutations, random ones, in windows of shards where wanted."""

import time
from collections import Counter

import numpy as np
import pytest

from taming.data.permutation import Permutation, ShardOrder


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 10, 97, 1000, 1024, 1025])
def test_every_number_comes_once(length):
    for key in range(3):
        assert sorted(map(Permutation(length, key), range(length))) == list(range(length))


def test_all_orders_of_three_are_about_equally_likely():
    counts = Counter(tuple(map(Permutation(3, seed, 0), range(3))) for seed in range(3000))
    assert len(counts) == 6 and max(counts.values()) < 1.2 * min(counts.values())


def test_neighbours_of_a_hundred_million_go_far_apart():
    permutation = Permutation(100_000_000, 5, 2)
    places = np.array([permutation(position) for position in range(4000)])
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.06
    assert np.histogram(places, 8, (0, 100_000_000))[0].min() > 400
    other = [Permutation(100_000_000, 5, 3)(position) for position in range(100)]
    assert len({*other} & {*places[:100].tolist()}) == 0, "another epoch, another order"


def test_a_step_takes_microseconds_and_no_memory():
    order = ShardOrder(np.full(10_000, 10_000), seed=1, epoch=0, window=None)
    start = time.perf_counter()
    for position in range(2000):
        order(position)
    assert (time.perf_counter() - start) / 2000 < 200e-6  # 18 microseconds on an idle core


@pytest.mark.parametrize("window", [1, 2, 3, 5, 100, None])
def test_each_epoch_has_each_sample_of_each_shard_once(window):
    counts = [3, 0, 5, 2, 4, 1]
    for epoch in range(3):
        order = ShardOrder(counts, 7, epoch, window)
        assert sorted(map(order, range(15))) == list(range(15))


def test_a_window_reads_from_few_shards_at_a_time():
    counts = np.full(20, 50)
    order = ShardOrder(counts, seed=0, epoch=0, window=4)
    shards = [order(position) // 50 for position in range(1000)]
    for start in range(0, 1000, 200):
        assert len(set(shards[start : start + 200])) == 4
    assert [*dict.fromkeys(shards)] != sorted(set(shards)), "shards come in random order"
    whole = ShardOrder(counts, seed=0, epoch=0, window=None)
    assert len({whole(position) // 50 for position in range(100)}) == 20


def test_the_order_never_changes_between_versions():
    """Runs resume by it."""
    assert [Permutation(10, 1, 2)(i) for i in range(10)] == FIRST
    assert [ShardOrder([3, 5, 2], 1, 0, 2)(i) for i in range(10)] == SECOND


FIRST = [4, 5, 3, 7, 2, 8, 9, 1, 6, 0]
SECOND = [0, 2, 9, 8, 1, 5, 3, 7, 4, 6]
