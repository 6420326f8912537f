"""Batches are functions of seed and number; broken pictures are replaced, named and counted."""

import itertools
import pickle

import pytest
import torch
from torch.utils.data import Dataset

from taming.data import DrawnLandscapes
from taming.data.batches import BrokenPictures, EndlessBatches, SkippingBroken, collate
from taming.data.reading import CorruptImage
from taming.errors import UserError
from taming.training.datamodule import DataModule


def first_batches(count, *arguments, **options):
    return list(itertools.islice(EndlessBatches(*arguments, **options), count))


def test_batches_resume_where_they_stopped():
    batches = first_batches(12, 7, 3, seed=5)
    assert first_batches(7, 7, 3, seed=5, start=15) == batches[5:]


def test_every_epoch_has_every_picture_once_in_a_new_order():
    keys = [key for batch in first_batches(4, 6, 3, seed=0) for key in batch]
    assert sorted(keys[:6]) == [(i, 0) for i in range(6)]
    assert sorted(keys[6:]) == [(i, 1) for i in range(6)]
    assert [i for i, _ in keys[:6]] != [i for i, _ in keys[6:]]


def test_two_processes_share_the_batch_of_one():
    one = first_batches(5, 10, 4, seed=1)
    two = [first_batches(5, 10, 2, seed=1, rank=rank, world=2) for rank in (0, 1)]
    assert one == [a + b for a, b in zip(*two)]


@pytest.mark.parametrize("world, size", [(1, 6), (2, 3), (3, 2), (6, 1), (5, 2)])
def test_a_run_resumes_on_any_number_of_processes(world, size):
    """Sample number n is the same, wherever the run stopped and whatever goes on."""
    samples = [key for batch in first_batches(40, 7, 1, seed=3) for key in batch]
    for start in (0, 1, 5, 8, 13):
        parts = [
            first_batches(2, 7, size, seed=3, start=start, rank=rank, world=world)
            for rank in range(world)
        ]
        resumed = [key for batches in zip(*parts) for batch in batches for key in batch]
        assert resumed == samples[start : start + len(resumed)]


def test_views_cycle():
    keys = [key for batch in first_batches(4, 2, 2, seed=0, views=2) for key in batch]
    assert [view for _, view in keys] == [0, 0, 1, 1, 0, 0, 1, 1]


def test_workers_change_nothing():
    data = DrawnLandscapes(16, 8)
    alone, helped = (
        list(itertools.islice(DataModule(data, None, 4, 2, workers).train_dataloader(), 3))
        for workers in (0, 1)
    )
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(alone, helped, strict=True))


def test_reading_batches_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    next(iter(DataModule(DrawnLandscapes(16, 4), None, 2, seed=0).train_dataloader()))
    assert torch.equal(torch.get_rng_state(), state)


class Numbers(Dataset):
    """Item i is i, but for those that are broken."""

    def __init__(self, length, broken, rest=0):
        self.length, self.broken, self.rest = length, broken, rest

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        index, view = key
        if index in self.broken:
            raise CorruptImage(f"{index} is broken", self.rest, self.rest + 1)
        return {"number": index, "view": view, "name": str(index)}


def test_the_next_usable_picture_stands_in_for_a_broken_one():
    data = SkippingBroken(Numbers(5, {3, 4}))
    assert data[(3, 7)] == {
        "number": 0,
        "view": 7,
        "name": "0",
        "skipped": ["3 is broken", "4 is broken"],
    }
    assert data[(1, 7)]["skipped"] == []
    with pytest.raises(UserError, match="none of 5 pictures can be used; first: 2 is broken"):
        SkippingBroken(Numbers(5, set(range(5))))[(2, 0)]


def test_what_is_known_to_be_lost_is_passed_over_at_once_and_counted():
    """A shard of a million pictures is not asked a million times."""
    item = SkippingBroken(Numbers(10**6, {5}, rest=900_000))[(5, 0)]
    assert item["number"] == 900_006 and item["skipped"] == ["5 is broken"]
    sent = pickle.loads(pickle.dumps(item["skipped"]))
    with pytest.raises(UserError, match="900001 of 1000000 pictures"):
        BrokenPictures(10**6).note(sent)


def test_broken_pictures_are_named_once_and_stop_the_run_beyond_one_in_a_hundred(capsys):
    broken = BrokenPictures(200)
    broken.note(["a", "b", "a"])
    broken.note(["b"])
    assert capsys.readouterr().err == "skipped: a\nskipped: b\n"
    with pytest.raises(UserError, match="3 of 200 .*more than 1 %: a; b; c$"):
        broken.note(["c"])
    with pytest.raises(UserError, match="13 of 200 .*; x4; and 5 more$"):
        BrokenPictures(200).note([f"x{i}" for i in range(10)] + ["a", "b", "c"])


def test_tensors_and_numbers_are_stacked_and_names_listed():
    data = SkippingBroken(Numbers(5, {3}))
    batch = collate([data[(2, 0)], data[(3, 1)]])
    assert batch["number"].tolist() == [2, 4] and batch["view"].tolist() == [0, 1]
    assert batch["name"] == ["2", "4"] and batch["skipped"] == ["3 is broken"]
    assert collate([{"codes": (torch.ones(2),)}])["codes"][0].shape == (1, 2)
