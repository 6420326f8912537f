"""A cascade trains over a prior's checkpoint, resumes exactly, and is one file that draws."""

import pytest
import torch

from taming.cli.main import main
from taming.errors import UserError
from taming.formats.load import load, read_checkpoint
from taming.second_stage import Cascade
from taming.training import run
from taming.training.cascade import blurred, disturbed
from tests.conftest import experiment_of, paint_pairs, second_stage_plain
from tests.training.conftest import assert_resumes_exactly


@pytest.fixture(scope="module")
def plain(trained, tmp_path_factory) -> dict:
    root, _ = trained
    data = paint_pairs(tmp_path_factory.mktemp("pieces") / "pairs", size=(60, 40))
    tree = second_stage_plain(root / "first", ema=0.9)
    base = {
        "target": "taming.second_stage.pretrained",
        "params": {"checkpoint": str(root / "cached")},
    }
    level = {
        "target": "taming.second_stage.MaskedPrior",
        "params": {"layers": 1, "heads": 2, "width": 8, "steps": 2},
    }
    tree["model"] = {
        "target": "taming.second_stage.Cascade",
        "params": {"base": base, "level": level, "window": 16},
    }
    pieces = {
        "target": "taming.data.ScenePieces",
        "params": {"root": str(data), "view": {"size": 32}},
    }
    tree["data"] = {**tree["data"], "train": pieces, "validation": pieces}
    return tree


def test_a_cascade_trains_resumes_exactly_and_draws(plain, tmp_path, monkeypatch):
    assert_resumes_exactly(monkeypatch, plain, tmp_path, micro_batch=6)
    model = load(tmp_path / "whole")
    assert isinstance(model, Cascade)
    size = [2 * side for side in model.trained_size]
    labels = torch.zeros(1, *size, dtype=torch.int64)
    assert model.sample({"segmentation": labels}).shape == (1, 3, *size)
    assert (tmp_path / "whole" / "pictures").is_dir()


def test_only_the_level_learns(plain, trained, tmp_path):
    root, _ = trained
    run.train(
        experiment_of({**plain, "trainer": {**plain["trainer"], "max_steps": 1}}), tmp_path / "r"
    )
    base, model = load(root / "cached"), load(tmp_path / "r")
    for name, tensor in base.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_level_trained_on_reads_the_base_that_its_configuration_names(plain, trained, tmp_path):
    """`--from LEVEL variables.base=NEW` trained on over the base of LEVEL, and did not say so."""
    root, plains = trained
    short = {**plain, "trainer": {**plain["trainer"], "max_steps": 1}}
    run.train(experiment_of(short), tmp_path / "level")
    run.train(experiment_of({**plains["cached"], "seed": 99}), tmp_path / "new")
    base = {**plain["model"]["params"]["base"], "params": {"checkpoint": str(tmp_path / "new")}}
    params = {**plain["model"]["params"], "base": base}
    moved = {**short, "model": {**plain["model"], "params": params}}
    with pytest.raises(UserError, match="has another base .*--fitting"):
        run.train(experiment_of(moved), tmp_path / "r", start_from=tmp_path / "level")
    run.train(experiment_of(moved), tmp_path / "r", start_from=tmp_path / "level", fitting=True)
    model = load(tmp_path / "r")
    for name, tensor in load(tmp_path / "new").state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_base_and_level_trained_apart_are_joined(plain, trained, tmp_path, capsys):
    root, _ = trained
    run.train(
        experiment_of({**plain, "trainer": {**plain["trainer"], "max_steps": 1}}), tmp_path / "r"
    )
    level, base, out = (str(p) for p in (tmp_path / "r", root / "cached", tmp_path / "both"))
    assert main(["convert", level, f"{out}.safetensors", "--base", base]) == 0
    joined = load(f"{out}.safetensors")
    assert isinstance(joined, Cascade)
    for name, tensor in load(base).state_dict().items():
        assert torch.equal(joined.state_dict()[name], tensor), name
    figures = read_checkpoint(f"{out}.safetensors").figures
    assert figures["nll"] == read_checkpoint(base).figures["nll"] != figures["level_nll"]
    assert main(["convert", base, f"{out}.safetensors", "--base", base]) == 2
    assert "holds no cascade" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, words",
    [
        ({"target": "taming.data.SegmentedImages"}, "'crop'.*ScenePieces"),
        ({"view": {"size": 8}}, "smaller than the level's window|multiples"),
        ({"view": {"size": 34}}, "multiples of"),
    ],
)
def test_data_that_is_no_pieces_is_refused(plain, change, words, tmp_path):
    train = plain["data"]["train"]
    params = {**train["params"], **{k: v for k, v in change.items() if k == "view"}}
    train = {"target": change.get("target", train["target"]), "params": params}
    tree = {**plain, "data": {**plain["data"], "train": train, "validation": {}}}
    with pytest.raises(UserError, match=words):
        run.train(experiment_of(tree), tmp_path / "run")


def test_cached_codes_are_refused(plain, tmp_path):
    tree = {**plain, "data": {**plain["data"], "views": 2}}
    with pytest.raises(UserError, match=r"data\.views"):
        run.train(experiment_of(tree), tmp_path / "run")


def test_pictures_are_disturbed_by_as_much_as_is_said():
    torch.manual_seed(0)
    image = torch.rand(64, 3, 24, 24) * 2 - 1
    changed, said = disturbed(image)
    difference = (changed - image).flatten(1).square().mean(1).sqrt()
    untouched = (said["blur"] == 0) & (said["noise"] == 0)
    assert 4 < untouched.sum() < 40
    assert difference[untouched].max() < 1e-5
    noisy = (said["blur"] == 0) & (said["noise"] > 0)
    assert torch.allclose(difference[noisy], said["noise"][noisy], rtol=0.1)


def test_blur_is_a_gaussian_of_its_deviation():
    point = torch.zeros(2, 1, 31, 31)
    point[:, :, 15, 15] = 1
    spread = blurred(point, torch.tensor([1.2, 0.0]))
    places = torch.arange(31.0) - 15
    variance = (spread[0, 0].sum(0) * places.square()).sum()
    assert abs(variance - 1.44) < 0.06 and abs(spread[0].sum() - 1) < 1e-4
    assert torch.allclose(spread[1], point[1], atol=1e-6)
