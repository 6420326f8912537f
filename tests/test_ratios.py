"""`make bench`: ratios with their noise, compared with stored ones."""

import json

import pytest
import torch

from benchmarks import ratios
from benchmarks.ratios import Ratio


def work(count: int):
    return lambda: sum(range(count))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_ratio_is_that_of_the_work_with_quartiles_around_it():
    ratio = ratios.measured(work(400_000), work(100_000), rounds=7)
    assert 2.5 < ratio.median < 6
    assert ratio.low <= ratio.median <= ratio.high and ratio.seconds > 0


def test_a_ratio_fell_only_where_noise_can_not_explain_it():
    before = Ratio(2.0, 1.9, 2.1, 1)
    assert Ratio(1.4, 1.3, 1.5, 1).fell(before)
    assert not Ratio(1.7, 1.4, 1.95, 1).fell(before), "its upper quartile is as before"
    assert not Ratio(1.8, 1.75, 1.85, 1).fell(before), "by less than the tolerance"
    assert not Ratio(3.0, 2.9, 3.1, 1).fell(before)


def test_stored_ratios_are_of_one_kind_of_processor(tmp_path):
    path, one = tmp_path / "stored.json", Ratio(2.0, 1.9, 2.1, 0.5)
    assert ratios.read_stored(path, "x") == {}
    ratios.store(path, "x", {"a": one})
    ratios.store(path, "y", {"b": one})
    ratios.store(path, "x", {"c": one})
    assert ratios.read_stored(path, "x") == {"a": one, "c": one}
    assert ratios.read_stored(path, "z") == {}
    assert set(json.loads(path.read_text())) == {"x", "y"}


def test_a_fallen_ratio_is_named_and_the_exit_code_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ratios, "pairs", lambda folder: [("a", work(1000), work(100_000))])
    path = tmp_path / "stored.json"
    kind = f"{ratios.processor()}, 1 thread"
    ratios.store(path, kind, {"a": Ratio(2.0, 1.9, 2.1, 1)})
    arguments = ["ratios", "--rounds", "2", "--file", str(path)]
    monkeypatch.setattr("sys.argv", arguments)
    assert ratios.main() == 1
    assert "FELL" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*arguments, "--store"])
    assert ratios.main() == 0
    monkeypatch.setattr("sys.argv", arguments)
    assert ratios.main() == 0
