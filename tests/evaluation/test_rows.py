"""Numbers per picture on disk: resumed, shared out, and the same in any batches."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from taming.errors import UserError
from taming.evaluation.rows import RowStore, measure


class Numbered(Dataset):
    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> dict:
        return {"image": torch.full((3, 4, 4), float(index)), "name": f"p{index}", "index": index}


def doubled(batch: dict) -> dict:
    return {
        "twice": 2 * batch["image"][:, 0, 0, 0],
        "codes": batch["index"].to(torch.int32)[:, None],
    }


def test_rows_are_in_the_pictures_order_whatever_the_batches(tmp_path):
    for size in (1, 4, 100):
        result = measure("x", Numbered(), doubled, RowStore(tmp_path / str(size), size))
        np.testing.assert_array_equal(result["twice"], 2 * np.arange(11))
        assert result["codes"].dtype == np.int32 and result["codes"].shape == (11, 1)


def test_what_is_done_before_a_kill_is_not_done_again(tmp_path):
    measured: list[int] = []

    def dying(batch: dict) -> dict:
        if len(measured) > 5:
            raise KeyboardInterrupt
        measured.extend(batch["index"].tolist())
        return doubled(batch)

    store = RowStore(tmp_path, 3)
    with pytest.raises(KeyboardInterrupt):
        measure("x", Numbered(), dying, store)
    before = set(measured)
    again: list[int] = []
    result = measure(
        "x",
        Numbered(),
        lambda batch: again.extend(batch["index"].tolist()) or doubled(batch),
        store,
    )
    np.testing.assert_array_equal(result["twice"], 2 * np.arange(11))
    assert len(again) == 11 - 6 and not before - {0} & set(again), (
        "picture 0 only showed what arrays are needed"
    )


def test_rows_of_other_pictures_are_not_taken_up(tmp_path):
    measure("x", Numbered(), doubled, RowStore(tmp_path), "one list")
    result = measure(
        "x",
        Numbered(),
        lambda batch: {"twice": 3 * batch["image"][:, 0, 0, 0]},
        RowStore(tmp_path),
        "another",
    )
    np.testing.assert_array_equal(result["twice"], 3 * np.arange(11))


def test_pictures_of_different_sizes_are_named(tmp_path):
    class Mixed(Numbered):
        def __getitem__(self, index: int) -> dict:
            return {"image": torch.zeros(3, 4, 4 + index % 2), "name": f"p{index}", "index": index}

    with pytest.raises(UserError, match=r"'p\d' is 4x4 and 'p\d' 4x5 .*--size HxW"):
        measure("x", Mixed(), doubled, RowStore(tmp_path, 4))


def test_a_value_that_is_no_number_names_its_picture(tmp_path):
    def broken(batch: dict) -> dict:
        return {"features": torch.where(batch["index"] == 7, torch.nan, 1.0)[:, None]}

    with pytest.raises(UserError, match=r"features of picture 7 \(p7\) is NaN"):
        measure("features of samples", Numbered(), broken, RowStore(tmp_path, 4))


def test_shares_of_machines_without_a_common_disk_make_what_one_makes(tmp_path):
    """Each measures its share; put together, nothing is measured again."""
    for number in range(3):
        folder = tmp_path / str(number) / "work"
        shares = RowStore(folder, 4, shard=(number, 3))
        rows = measure("x", Numbered(), doubled, shares)
        assert rows["twice"].shape == (11,), "figures can be computed, and are thrown away"
    measured: list[int] = []

    def noting(batch: dict) -> dict:
        measured.extend(batch["index"].tolist())
        return doubled(batch)

    sources = tuple(tmp_path / str(number) / "work" for number in range(3))
    result = measure("x", Numbered(), noting, RowStore(tmp_path / "all", 4, sources=sources))
    np.testing.assert_array_equal(result["twice"], 2 * np.arange(11))
    assert measured == [0], "picture 0 only showed what arrays are needed"
    some = RowStore(tmp_path / "some", 4, sources=sources[:2])
    np.testing.assert_array_equal(
        measure("x", Numbered(), noting, some)["twice"], 2 * np.arange(11)
    )
    assert set(measured[1:]) - {0} == {2, 5, 8}, "what none of them measured is measured here"
