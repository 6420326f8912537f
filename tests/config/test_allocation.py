"""A model that the machine can't hold is refused in one line while it is built."""

import pytest
import torch

from taming import config
from taming.config import allocation
from taming.errors import UserError
from tests.conftest import first_stage_plain

MODEL = first_stage_plain()["model"]


def with_params(**params) -> dict:
    return {**MODEL, "params": {**MODEL["params"], **params}}


def test_weights_beyond_the_free_memory(monkeypatch):
    monkeypatch.setattr(allocation, "free_memory", lambda: 1e5)
    with pytest.raises(UserError, match=r"model: its weights take over 0.0 GB.*are free") as error:
        config.build(with_params(channels=64))
    assert "\n" not in str(error.value)
    config.build(with_params(channels=1, multipliers=[1]))  # what fits is built
    with torch.device("meta"):
        config.build(with_params(channels=64))  # takes no memory
    torch.nn.Linear(1000, 1000)  # nobody counts after that


@pytest.mark.parametrize("params", [{"channels": 2**14, "multipliers": [64] * 8, "blocks": 128}])
def test_a_legal_size_beyond_all_machines(params):
    with pytest.raises(UserError, match=r"model: .*memory") as error:
        config.build(with_params(**params))
    assert "\n" not in str(error.value)


def test_what_is_large_is_first_built_without_memory(monkeypatch):
    """The same numbers come out; to train takes four times the weights."""
    torch.manual_seed(0)
    plain = config.build(MODEL).state_dict()
    monkeypatch.setattr(allocation, "SMALL", 1e4)
    torch.manual_seed(0)
    careful = config.build(MODEL).state_dict()
    assert all(torch.equal(plain[name], careful[name]) for name in plain)

    weights = sum(tensor.nbytes for tensor in plain.values())
    monkeypatch.setattr(allocation, "free_memory", lambda: 2.0 * weights)
    config.build(MODEL)
    torch.manual_seed(0)
    with pytest.raises(UserError, match="to train it takes about 0.0 GB"):
        config.build(MODEL, copies=4)
    monkeypatch.setattr(allocation, "free_memory", lambda: 0.5 * weights)
    with pytest.raises(UserError, match="its weights take over"):
        config.build(MODEL)


def test_free_memory_is_that_of_the_container(monkeypatch, tmp_path):
    for name, text in (("max", "3000000\n"), ("current", "2500000"), ("stat", "inactive_file 9\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(allocation, "LIMIT", str(tmp_path / "memory.max"))
    monkeypatch.setattr(allocation, "USED", str(tmp_path / "memory.current"))
    assert allocation.free_memory() == 500009
    (tmp_path / "memory.max").write_text("max\n")
    assert allocation.free_memory() > 3000000
