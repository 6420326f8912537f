"""What is particular to the training of priors."""

import pytest
import torch

from taming.errors import UserError
from taming.evaluation.metrics import read_metrics
from taming.training import run
from taming.training.muon import Muon
from tests.conftest import experiment_of, first_stage_plain, second_stage_plain
from tests.training.conftest import assert_same, content, resume, train_until_killed

MUON = {"algorithm": "muon", "learning_rate": 1e-3}


def muon_plain(trained, **trainer) -> dict:
    root, _ = trained
    return second_stage_plain(root / "first", ema=0.9, **trainer) | {"optimizer": MUON}


def test_muon_moves_the_matrices_of_blocks_and_batches_are_still_counted(trained, tmp_path):
    run.train(experiment_of(muon_plain(trained, max_steps=5)), tmp_path / "run")
    adam, muon = content(tmp_path / "run")["optimizers"]
    assert len(muon["state"]) == 4  # qkv, proj and two of the MLP
    assert all(set(state) == {"momentum_buffer"} for state in muon["state"].values())
    shapes = [tuple(state["exp_avg"].shape) for state in adam["state"].values()]
    assert (32, 16) in shapes and (48, 16) not in shapes  # the head, but no qkv
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert {batch for batch, name, _ in rows if name == "train/nll"} == {1, 2, 3, 4, 5}


def test_a_run_with_muon_resumes_bit_identical(trained, tmp_path, monkeypatch):
    plain = muon_plain(trained)
    run.train(experiment_of(plain), tmp_path / "whole")
    train_until_killed(monkeypatch, plain, tmp_path / "cut", 6)
    assert_same(resume(plain, tmp_path / "cut"), content(tmp_path / "whole"))


def test_a_step_of_muon_is_as_large_as_one_of_adam(trained, tmp_path):
    """Its root mean square is 0.2 x the rate x the root of the longer side, so that one rate
    serves both.
    """
    from taming.config.experiment import Optimizer
    from taming.training.module import muon

    matrix = torch.nn.Parameter(torch.randn(64, 32))
    before = matrix.detach().clone()
    optimizer = muon([matrix], Optimizer(algorithm="muon"), 1.0)
    matrix.grad = torch.randn(64, 32)
    optimizer.step()
    step = (matrix.detach() - before).square().mean().sqrt()
    assert 0.1 < step < 0.4


@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (32, 32)])
def test_muon_in_float32_is_torchs_but_for_rounding(monkeypatch, shape):
    """Where bfloat16 is slow its matrices are computed in float32: singular values near 1."""
    monkeypatch.setattr("taming.training.muon.fast_bfloat16", lambda device: False)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours, other = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    options = {"lr": 0.1, "weight_decay": 0.02, "adjust_lr_fn": "match_rms_adamw"}
    pair = [(ours, Muon([ours], **options)), (other, torch.optim.Muon([other], **options))]
    for seed in range(3):
        before = ours.detach().clone()
        for parameter, optimizer in pair:
            parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
        step = (before * (1 - 0.1 * 0.02) - ours.detach()) / (0.1 * 0.2 * max(shape) ** 0.5)
        values = torch.linalg.svdvals(step.double())
        assert (values > 0.3).all() and (values < 1.3).all()
    torch.testing.assert_close(ours, other, atol=0.02, rtol=0)
    buffers = [optimizer.state[parameter]["momentum_buffer"] for parameter, optimizer in pair]
    assert torch.equal(*buffers)


@pytest.mark.parametrize("stage", ["first", "convolutions"])
def test_muon_is_refused_where_there_is_no_transformer(trained, stage, tmp_path):
    plain = first_stage_plain() if stage == "first" else muon_plain(trained)
    plain["optimizer"] = MUON
    if stage == "convolutions":
        plain["model"]["params"]["prior"] = {
            "target": "taming.second_stage.GatedPixelCNN",
            "params": {"layers": 1, "width": 8},
        }
        plain["model"]["params"]["size"] = 16
    with pytest.raises(UserError, match=r"optimizer\.algorithm: muon"):
        run.train(experiment_of(plain), tmp_path / "run")
