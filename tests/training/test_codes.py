"""The cache of codes: used while it holds, computed anew when it does not."""

import pytest

from taming.errors import UserError
from taming.training import codes, run
from tests.conftest import experiment_of
from tests.training.conftest import assert_same, content, temporaries


@pytest.fixture
def computations(monkeypatch) -> list:
    calls = []
    original = codes.compute

    def compute(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(codes, "compute", compute)
    return calls


def test_the_cache_is_used_again_until_something_it_depends_on_changes(
    trained, tmp_path, computations
):
    _, plains = trained
    run.train(experiment_of(plains["cached"]), tmp_path / "a")
    assert not computations
    changed = {**plains["cached"], "data": {**plains["cached"]["data"], "views": 1}}
    run.train(experiment_of(changed), tmp_path / "b")
    assert len(computations) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_cache_is_computed_anew(trained, tmp_path, computations, capsys, damage):
    import torch

    root, plains = trained
    plain = {**plains["cached"], "data": {**plains["cached"]["data"], "cache": str(tmp_path)}}
    run.train(experiment_of(plain), tmp_path / "a")
    computations.clear()
    for path in tmp_path.glob("codes-*.pt"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        cases = {"cut": data[:-200], "flipped": data, "empty": b""}
        if damage == "other":
            torch.save({"views": 1, "codes": [torch.zeros(3)], "tokens": []}, path)
        else:
            path.write_bytes(cases[damage])
    run.train(experiment_of(plain), tmp_path / "b")
    assert (
        len(computations) == 2 and "is damaged; its codes are computed" in capsys.readouterr().err
    )
    assert_same(content(tmp_path / "b")["rows"], content(root / "cached")["rows"])


def test_a_cache_that_cant_be_written_stops_nothing(trained, tmp_path, monkeypatch, capsys):
    def full(path, write):
        raise UserError(f"'{path}' can't be written (No space left on device)")

    root, plains = trained
    plain = {**plains["cached"], "data": {**plains["cached"]["data"], "cache": str(tmp_path / "c")}}
    monkeypatch.setattr(codes, "write_atomically", full)
    run.train(experiment_of(plain), tmp_path / "run")
    assert "training continues without a code cache" in capsys.readouterr().err
    assert_same(content(tmp_path / "run")["rows"], content(root / "cached")["rows"])
    assert not temporaries(tmp_path)
