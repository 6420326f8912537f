"""Runs of a few batches, what they leave on disk, and accidents at a chosen batch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from taming.evaluation.metrics import read_metrics
from taming.training import run
from taming.training.callbacks import Inputs
from tests.conftest import experiment_of, first_stage_plain, mask_stage_plain, second_stage_plain


class Killed(BaseException):
    """Stands for kill -9: nothing is saved on the way out."""


def kill() -> None:
    raise Killed


def at_batch(monkeypatch, number: int, act: Callable[[], object]) -> None:
    """`act()` at the beginning of the micro-batch with this number in this process."""
    count = 0
    original = Inputs.on_train_batch_start

    def hook(self, *arguments):
        nonlocal count
        count += 1
        if count == number:
            act()
        original(self, *arguments)

    monkeypatch.setattr(Inputs, "on_train_batch_start", hook)


def train_until_killed(monkeypatch, plain: dict, folder: Path, micro_batch: int) -> None:
    """A run that is killed where this micro-batch begins."""
    with monkeypatch.context() as patch:
        at_batch(patch, micro_batch, kill)
        with pytest.raises(Killed):
            run.train(experiment_of(plain), folder)


def resume(plain: dict, folder: Path) -> dict:
    """Resumes a run to its end, and returns its content."""
    run.train(experiment_of(plain), folder, resume=True)
    return content(folder)


def assert_resumes_exactly(monkeypatch, plain: dict, folder: Path, micro_batch: int) -> None:
    """A run that is killed where this micro-batch begins, and resumed, equals `folder`/whole, which
    was not.
    """
    run.train(experiment_of(plain), folder / "whole")
    train_until_killed(monkeypatch, plain, folder / "cut", micro_batch)
    assert_same(resume(plain, folder / "cut"), content(folder / "whole"))


def content(folder: Path) -> dict:
    """The last checkpoint, and the rows of metrics.csv."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    state["rows"] = read_metrics(folder / "metrics.csv")
    return state


def assert_same(a, b, place: str = "state") -> None:
    assert type(a) is type(b), place
    if isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a:
            assert_same(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), place
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{place}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), place
    else:
        assert a == b, f"{place}: {a} != {b}"


def temporaries(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.tmp"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, dict[str, dict]]:
    """A first stage, a mask tokenizer, and priors on them, each trained for 8 batches without
    interruption; and the configurations of the priors.
    """
    root = tmp_path_factory.mktemp("runs")
    run.train(experiment_of(first_stage_plain(ema=0.9)), root / "first")
    run.train(experiment_of(mask_stage_plain()), root / "masks")
    plains = {
        "cached": second_stage_plain(root / "first", root / "masks", ema=0.9),
        "fly": second_stage_plain(root / "first", ema=0.9),
    }
    plains["cached"]["data"] |= {"views": 2, "cache": str(root / "cache")}
    for name, plain in plains.items():
        run.train(experiment_of(plain), root / name)
    return root, plains
