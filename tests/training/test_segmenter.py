"""The judge of layouts: its network, its training, and the counting of labels."""

import pytest
import torch
from torch.utils.data import DataLoader

import taming
from taming.data import DrawnLandscapes
from taming.errors import UserError
from taming.evaluation.layout import accuracy, confusions, label_figures, mean_iou
from taming.segmenter import Segmenter
from taming.training import run
from tests.conftest import experiment_of, first_stage_plain


def plain(**trainer) -> dict:
    found = first_stage_plain(**trainer)
    del found["loss"]
    return {
        **found,
        "model": {
            "target": "taming.evaluation.Segmenter",
            "params": {"labels": 10, "width": 8, "depth": 2},
        },
        "optimizer": {"learning_rate": 3e-3},
    }


def test_iou_and_accuracy_are_those_of_brute_force():
    given, found = torch.randint(4, (5, 6, 7)), torch.randint(4, (5, 6, 7))
    confusion = confusions(given, found, 5)
    assert confusion.shape == (5, 5, 5) and int(confusion.sum()) == 5 * 42
    unions = [((given == c) | (found == c)).sum() for c in range(4)]
    # Label 4 does not occur
    expected = (
        sum(
            float(((given == c) & (found == c)).sum() / union) for c, union in zip(range(4), unions)
        )
        / 4
    )
    assert mean_iou(confusion.sum(0)) == pytest.approx(expected)
    assert accuracy(confusion.sum(0)) == pytest.approx(float((given == found).float().mean()))
    figures = label_figures(confusion.numpy(), seed=0)
    assert (
        figures["mean_iou"].value == pytest.approx(expected)
        and figures["mean_iou"].low < expected < figures["mean_iou"].high
    )


def test_labels_beyond_the_segmenters_are_refused():
    with pytest.raises(UserError, match="label 4, but the segmenter knows 0 to 3"):
        confusions(torch.full((1, 2, 2), 4), torch.zeros(1, 2, 2, dtype=torch.int64), 4)


@pytest.mark.parametrize("size", [(16, 16), (19, 33)])
def test_any_size_goes_through(size):
    assert Segmenter(3, width=8, depth=3)(torch.zeros(1, 3, *size)).shape == (1, 3, *size)


def test_it_trains_from_a_configuration_and_finds_layouts(tmp_path):
    checkpoint = run.train(
        experiment_of(
            plain(max_steps=60, validate_every=60, pictures_every=60, checkpoint_every=60)
        ),
        tmp_path / "run",
    )
    model = taming.load(checkpoint)
    batch = next(iter(DataLoader(DrawnLandscapes(16, 8, seed=5), batch_size=8)))
    with torch.no_grad():
        found = model(batch["image"]).argmax(dim=1)
    counts = torch.bincount(batch["segmentation"].flatten())
    right = float((found == batch["segmentation"]).float().mean())
    assert right > float(counts.max() / counts.sum()) + 0.1, (
        "better than naming the most frequent label everywhere"
    )


def test_data_without_masks_are_refused(tmp_path, monkeypatch):
    from taming.data import landscapes

    whole = landscapes.DrawnLandscapes.__getitem__
    monkeypatch.setattr(
        landscapes.DrawnLandscapes,
        "__getitem__",
        lambda self, key: {k: v for k, v in whole(self, key).items() if k != "segmentation"},
    )
    with pytest.raises(UserError, match="a segmenter learns from masks"):
        run.prepare(experiment_of(plain()))
