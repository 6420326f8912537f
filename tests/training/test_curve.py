"""The training curve of the metrics."""

import pytest
import torch

from taming.errors import UserError
from taming.evaluation.metrics import read_metrics
from taming.training import run
from tests.conftest import experiment_of, first_stage_plain, mask_stage_plain, second_stage_plain


@pytest.fixture
def network(tmp_path):
    from torchvision import models

    torch.manual_seed(0)
    torch.save(models.resnet18().state_dict(), tmp_path / "resnet.pth")
    return f"resnet18:{tmp_path / 'resnet.pth'}"


def curves(folder) -> dict[str, list[tuple[int, float]]]:
    found: dict = {}
    for batch, name, value in read_metrics(folder / "metrics.csv"):
        found.setdefault(name, []).append((batch, value))
    return found


def test_both_stages_log_their_figures_every_so_many_batches_and_train_as_without(
    tmp_path, network
):
    plain = first_stage_plain(max_steps=4)
    first = run.train(
        experiment_of(plain | {"evaluation": {"every": 2, "pictures": 3, "features": network}}),
        tmp_path / "first",
    )
    silent = run.train(experiment_of(plain), tmp_path / "silent")
    found = curves(tmp_path / "first")
    for name in ("psnr", "ssim", "rfd", "rkd", "seconds", "share"):
        assert [batch for batch, _ in found[f"evaluation/{name}"]] == [2, 4]
    assert 0 < found["evaluation/share"][-1][1] < 1
    assert found["train/total"] == curves(tmp_path / "silent")["train/total"]
    weights = [torch.load(path, weights_only=True)["state_dict"] for path in (first, silent)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    second = experiment_of(
        second_stage_plain(first, max_steps=2)
        | {"condition_dropout": 0.0, "evaluation": {"every": 2, "pictures": 3, "features": network}}
    )
    run.train(second, tmp_path / "second")
    assert {"evaluation/fd", "evaluation/kd"} <= set(curves(tmp_path / "second"))


def test_psnr_of_the_curve_is_that_of_validation(tmp_path):
    run.train(
        experiment_of(
            first_stage_plain(max_steps=4) | {"evaluation": {"every": 4, "pictures": 99}}
        ),
        tmp_path / "run",
    )
    found = curves(tmp_path / "run")
    assert found["evaluation/psnr"][-1][1] == pytest.approx(
        found["validation/psnr"][-1][1], abs=0.05
    ), "but for rounding to 8 bits"


def test_models_without_pictures_are_refused(tmp_path):
    with pytest.raises(UserError, match="measures pictures, and this model reads 'segmentation'"):
        run.train(
            experiment_of(mask_stage_plain(max_steps=2) | {"evaluation": {"every": 1}}),
            tmp_path / "masks",
        )
    with pytest.raises(
        UserError, match="evaluation.every: 0 should be a whole number of at least 1"
    ):
        experiment_of(first_stage_plain() | {"evaluation": {"every": 0}})
