"""`taming evaluate`: every figure of every kind of model, the protocol on each, and the same values
however they are measured.
"""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import taming
from taming import evaluate
from taming.cli.main import main
from taming.errors import UserError
from taming.evaluation.protocol import Figures
from taming.training import run
from tests.conftest import (
    experiment_of,
    first_stage_plain,
    mask_stage_plain,
    paint_pairs,
    second_stage_plain,
)

FEATURES = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh())


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict:
    """A tokenizer, a mask tokenizer, a prior on both, and a segmenter, two batches each."""
    root = tmp_path_factory.mktemp("models")
    short = {"max_steps": 2, "validate_every": 2, "checkpoint_every": 2, "pictures_every": 2}
    made = {"first": run.train(experiment_of(first_stage_plain(**short)), root / "first")}
    made["masks"] = run.train(experiment_of(mask_stage_plain(**short)), root / "masks")
    made["second"] = run.train(
        experiment_of(second_stage_plain(made["first"], made["masks"], **short)), root / "second"
    )
    segmenter = first_stage_plain(**short) | {
        "model": {
            "target": "taming.segmenter.Segmenter",
            "params": {"labels": 10, "width": 8, "depth": 2},
        }
    }
    del segmenter["loss"]
    made["segmenter"] = run.train(experiment_of(segmenter), root / "segmenter")
    return {name: str(path) for name, path in made.items()}


@pytest.fixture
def two_folders(tmp_path):
    generator = np.random.default_rng(0)
    for name, count, shift in (("a", 12, 0), ("b", 9, 40)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.fromarray(
                (generator.integers(0, 200, (16, 16, 3)) + shift).astype(np.uint8)
            ).save(tmp_path / name / f"{i}.png")
    return str(tmp_path / "a"), str(tmp_path / "b")


def values(figures: Figures) -> dict[str, float]:
    return {name: figure.value for name, figure in figures.figures.items()}


def test_a_second_stage_has_figures_of_every_kind_and_a_stamp_on_each(models, tmp_path):
    figures = evaluate(
        tmp_path / "f.json",
        checkpoint=models["second"],
        features=FEATURES,
        segmenter=models["segmenter"],
    )
    kinds = {
        "psnr",
        "ssim",
        "stlpips",
        "rfd",
        "used",
        "perplexity",
        "dead",
        "position_entropy",
        "neighbour_distance",
        "nll",
        "bits",
        "nll_train",
        "nll_other_condition",
    }
    kinds |= {
        "code_bits_per_dim",
        "unigram",
        "position_unigram",
        "log_codes",
        "fd",
        "kd",
        "fd_real",
        "copying",
    }
    kinds |= {
        "layout_iou",
        "layout_floor_iou",
        "layout_real_iou",
        "layout_reconstructed_iou",
        "layout_accuracy",
    }
    assert kinds <= set(figures.figures)
    assert not any(
        name.startswith(("fid", "kid", "rfid", "inception")) for name in figures.figures
    ), "only Inception-2015 makes those"
    read = Figures.read(tmp_path / "f.json")
    for figure in read.figures.values():
        stamp = read.stamps[figure.stamp]
        assert {
            "pictures",
            "data_sha256",
            "seed",
            "versions",
            "size",
            "checkpoint_sha256",
            "input",
        } <= set(stamp)
    assert {"features", "features_sha256", "layer", "resize", "sampling", "against_sha256"} <= set(
        read.stamps[read.figures["fd"].stamp]
    )
    assert read.stamps[read.figures["fd"].stamp]["sampling"]["temperature"] == 1.0
    assert any("MS-SSIM" in why for why in read.missing) and any(
        "fd: 3 pictures for 6 features" in w for w in read.warnings
    )
    pictures = {path.name for path in (tmp_path / "f").iterdir()}
    assert {"samples.png", "reconstructions.png", "codes.png", "codes.npz"} <= pictures and not any(
        name.startswith("work") for name in pictures
    )
    counts = np.load(tmp_path / "f" / "codes.npz")["counts"]
    assert counts.sum() == 3 * 64 and (counts > 0).mean() == pytest.approx(figures["used"])


def test_likelihood_and_psnr_are_those_of_the_model(models, tmp_path):
    import taming
    from taming.data import DrawnLandscapes

    figures = evaluate(
        tmp_path / "f.json", checkpoint=models["second"], only=("reconstruction", "likelihood")
    )
    model, held_out = taming.load(models["second"]), DrawnLandscapes(16, 3, seed=1)
    batch = {
        key: torch.stack([held_out[i][key] for i in range(3)]) for key in ("image", "segmentation")
    }
    with torch.no_grad():
        codes = model.first_stage.encode(batch["image"])
        nll = -model.log_prob(codes, model.conditioner(batch)).mean() / 64
        again = model.first_stage.decode(codes).clamp(-1, 1)
    assert figures["nll"] == pytest.approx(float(nll), rel=1e-6)
    rounded = [((x + 1) * 127.5).round() for x in (batch["image"], again)]
    psnr = 10 * torch.log10(255**2 / (rounded[0] - rounded[1]).square().mean(dim=(1, 2, 3)))
    assert figures["psnr"] == pytest.approx(float(psnr.mean()), rel=1e-6)
    assert figures["log_codes"] == pytest.approx(np.log(32))


def test_a_mask_tokenizer_is_measured_by_its_labels(models, tmp_path):
    figures = evaluate(tmp_path / "f.json", checkpoint=models["masks"])
    assert {"labels_accuracy", "labels_mean_iou", "used"} <= set(
        figures.figures
    ) and "psnr" not in figures


def test_another_batch_size_and_a_kill_change_nothing(models, tmp_path, monkeypatch):
    from taming.evaluation import rows

    request = {
        "checkpoint": models["second"],
        "segmenter": models["segmenter"],
        "features": FEATURES,
    }
    whole = values(evaluate(tmp_path / "whole.json", **request))
    calls, measured = [], rows._measured

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measured(*arguments)

    monkeypatch.setattr(rows, "_measured", dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "other.json", batch_size=2, **request)
    monkeypatch.setattr(rows, "_measured", measured)
    again = values(evaluate(tmp_path / "other.json", batch_size=3, **request))
    assert again.keys() == whole.keys()
    for name, value in whole.items():
        assert again[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(models, tmp_path):
    """Under torchrun's variables, through the command line."""
    features = tmp_path / "resnet.pth"
    from torchvision import models as networks

    torch.manual_seed(0)
    torch.save(networks.resnet18().state_dict(), features)
    words = [
        "evaluate",
        models["second"],
        "--segmenter",
        models["segmenter"],
        "--features",
        f"resnet18:{features}",
        "--feature-size",
        "32",
        "--batch-size",
        "1",
        "--seed",
        "3",
    ]
    one = tmp_path / "one.json"
    assert main([*words, "-o", str(one)]) == 0
    code = "import sys; from taming.cli import main; sys.exit(main(sys.argv[1:]))"
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29533",
        "OMP_NUM_THREADS": "1",
    }
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, *words, "-o", str(tmp_path / "two.json")],
            env={**os.environ, **shared, "RANK": str(rank)},
            stdout=-3,
            stderr=-3,
        )
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=900) for process in both] == [0, 0]
    both_figures = values(Figures.read(tmp_path / "two.json"))
    for name, value in values(Figures.read(one)).items():
        assert both_figures[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


def test_a_vae_and_levels_and_classes_are_measured(tmp_path):
    """A VAE has no codes; VQ-VAE-2 has two levels, each with a prior; a prior may be conditioned
    on a class, here the picture's folder.
    """
    short = {"max_steps": 2, "validate_every": 2, "checkpoint_every": 2, "pictures_every": 2}
    gaussian = {"target": "taming.first_stage.GaussianLikelihood"}
    small = {"width": 8, "residual_width": 4, "blocks": 1, "likelihood": gaussian}
    plain = first_stage_plain(**short) | {"loss": {"target": "taming.first_stage.LikelihoodLoss"}}
    vae = run.train(
        experiment_of(
            plain | {"model": {"target": "taming.first_stage.VAE", "params": {**small, "dim": 4}}}
        ),
        tmp_path / "vae",
    )
    figures = evaluate(tmp_path / "vae.json", checkpoint=str(vae), features=FEATURES)
    alone = evaluate(tmp_path / "alone.json", checkpoint=str(vae), features=FEATURES, batch_size=1)
    assert {"psnr", "bits_per_dim", "rfd"} <= set(figures.figures) and "used" not in figures
    assert alone["bits_per_dim"] == pytest.approx(figures["bits_per_dim"], rel=1e-6), (
        "the VAE's noise does not depend on the batch"
    )
    quantizer = {
        "target": "taming.first_stage.VectorQuantizer",
        "params": {"num_codes": 8, "dim": 4},
    }
    two = {
        "target": "taming.first_stage.VQVAE2",
        "params": {**small, "quantizers": [quantizer, quantizer]},
    }
    levels = run.train(experiment_of(plain | {"model": two}), tmp_path / "levels")
    grids = taming.load(levels).grids(16, 16)
    root = tmp_path / "classes"
    for name in ("lake", "wood"):
        paint_pairs(root / name, 3, (16, 16))
        for path in (root / name / "images").iterdir():
            path.rename(root / name / path.name)
        for folder in ("images", "segmentations"):
            shutil.rmtree(root / name / folder)
    parts = [{"vocabulary": 2, "length": 1}]
    gpt = {"num_codes": 8, "layers": 1, "heads": 2, "width": 16}
    priors = [
        {
            "target": "taming.second_stage.GPT",
            "params": {
                **gpt,
                "grid": list(grid),
                "parts": parts + [{"vocabulary": 8, "grid": list(g)} for g in grids[:level]],
            },
        }
        for level, grid in enumerate(grids)
    ]
    first = {"target": "taming.first_stage.pretrained", "params": {"checkpoint": str(levels)}}
    model = {
        "first_stage": first,
        "conditioner": {"target": "taming.second_stage.ClassLabel", "params": {"classes": 2}},
        "priors": priors,
    }
    plain = first_stage_plain(**short) | {
        "model": {"target": "taming.second_stage.SecondStage", "params": model}
    }
    del plain["loss"]
    plain["data"] |= dict.fromkeys(
        ("train", "validation"),
        {"target": "taming.data.ClassFolders", "params": {"root": str(root), "size": 16}},
    )
    prior = run.train(experiment_of(plain), tmp_path / "prior")
    figures = evaluate(
        tmp_path / "prior.json",
        checkpoint=str(prior),
        features=FEATURES,
        data=str(root),
        train=str(root),
    )
    assert {"used_0", "used_1", "nll_0", "nll_1", "nll", "fd", "copying", "precision"} <= set(
        figures.figures
    )
    whole = sum(figures[f"nll_{level}"] * h * w for level, (h, w) in enumerate(grids)) / sum(
        h * w for h, w in grids
    )
    assert figures["nll"] == pytest.approx(whole)
    samples = sorted((tmp_path / "prior").glob("samples-*/*.png"))
    assert len([path for path in samples if path.name != "sheet.png"]) == 6


def test_two_plain_folders_are_compared(two_folders, tmp_path):
    data, samples = two_folders
    figures = evaluate(tmp_path / "f.json", data=data, samples=samples, features=FEATURES)
    same = evaluate(tmp_path / "same.json", data=data, samples=data, features=FEATURES)
    assert figures["fd"] > 10 * same["fd"] and figures["kd"] > same["kd"]
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert figures.stamps[figures.figures["fd"].stamp]["sampling"] == {"drawn by": "unknown"}


def test_two_folders_without_any_features_are_refused_and_a_model_is_still_measured(
    models, two_folders, tmp_path, monkeypatch
):
    """Where Inception's weights can't be had."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        torch.hub,
        "download_url_to_file",
        lambda *_, **__: (_ for _ in ()).throw(OSError("no route to host")),
    )
    data, samples = two_folders
    with pytest.raises(UserError, match=r"6726825d\.pth are not in .* put the file there"):
        evaluate(tmp_path / "f.json", data=data, samples=samples)
    figures = evaluate(tmp_path / "g.json", checkpoint=models["first"])
    assert (
        "psnr" in figures
        and "rfd" not in figures
        and any("6726825d.pth" in why for why in figures.missing)
    )


def test_stored_statistics_are_used_and_refused_where_the_protocol_differs(two_folders, tmp_path):
    data, samples = two_folders
    store = str(tmp_path / "real.npz")
    whole = evaluate(
        tmp_path / "a_figures.json",
        data=data,
        samples=samples,
        features=FEATURES,
        store_reference=store,
    )
    again = evaluate(
        tmp_path / "b_figures.json", data=data, samples=samples, features=FEATURES, reference=store
    )
    assert (
        again["fd"] == pytest.approx(whole["fd"], rel=1e-9)
        and "jackknife" in again.figures["fd"].interval
    )
    other = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh())
    with pytest.raises(
        UserError, match="another protocol: features_sha256 is .* there and .* here"
    ):
        evaluate(
            tmp_path / "c_figures.json", data=data, samples=samples, features=other, reference=store
        )
    with pytest.raises(UserError, match="another protocol: feature_size is as given there"):
        evaluate(
            tmp_path / "d_figures.json",
            data=data,
            samples=samples,
            features=FEATURES,
            feature_size=(8, 8),
            reference=store,
        )


def test_copies_of_training_pictures_are_noticed(tmp_path):
    root = paint_pairs(tmp_path / "set", count=30, size=(16, 16))
    for part, numbers in (("train", range(20)), ("validation", range(20, 30))):
        (root / f"{part}.txt").write_text("\n".join(f"p{i}" for i in numbers))
    copies, fresh = tmp_path / "copies", tmp_path / "fresh"
    for folder, numbers in ((copies, range(8)), (fresh, range(20, 28))):
        folder.mkdir()
        for i in numbers:
            noise = np.random.default_rng(i).integers(-2, 3, (16, 16, 3))
            picture = np.asarray(Image.open(root / "images" / f"p{i}.png")).astype(int) + noise
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    shares = [
        evaluate(
            tmp_path / "figures" / f"{f.name}.json",
            data=str(root),
            samples=str(f),
            features=FEATURES,
            size=(16, 16),
        )["copying"]
        for f in (copies, fresh)
    ]
    assert shares[0] > 0.95 and 0.2 < shares[1] < 0.8
    assert (tmp_path / "figures" / "copies" / "nearest.png").is_file()


def test_mistakes_end_in_one_line_with_their_cure(models, two_folders, tmp_path, capsys):
    data, samples = two_folders
    vgg = tmp_path / "resnet.pth"
    from torchvision import models as networks

    torch.save(networks.resnet18().state_dict(), vgg)
    features = ["--features", f"resnet18:{vgg}"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "one" / "a.png")
    (tmp_path / "large").mkdir()
    for name in "ab":
        Image.new("RGB", (20, 24)).save(tmp_path / "large" / f"{name}.png")
    out = ["-o", str(tmp_path / "f.json")]
    for words, message in (
        ([], "evaluate needs a checkpoint, or --data DIR and --samples DIR"),
        (["--data", str(tmp_path / "none"), "--samples", samples], "does not exist"),
        (["--data", data, "--samples", str(tmp_path / "empty"), *features], "no pictures in"),
        (
            ["--data", data, "--samples", str(tmp_path / "one"), *features],
            "samples: 1 picture; distances between sets need at least two",
        ),
        ([models["masks"], "--data", data], "the model reads 'segmentation'"),
        (["--data", data, "--samples", samples, "--only", "layuot"], "did you mean 'layout'"),
        (
            ["--data", data, "--samples", samples, "--features", "nothing.safetensors"],
            "'nothing.safetensors' does not exist; give its path, or measure without it",
        ),
        (
            ["--data", data, "--samples", samples, "--reference", "no.npz", *features],
            "--reference 'no.npz' does not exist",
        ),
        (
            [models["second"], "--segmenter", models["first"]],
            "first-stage checkpoint, but a segmenter stage is needed",
        ),
        (
            [models["second"], "--batch-size", "0"],
            "--batch-size: 0 should be a whole number of at least 1",
        ),
    ):
        assert main(["evaluate", *words, *out]) == 2, words
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("taming: ") and message in error, error
    network = ["--data", data, "--samples", str(tmp_path / "large"), "--features", f"{vgg}"]
    assert main(["evaluate", *network, *out]) == 2
    with pytest.raises(
        UserError, match="are 24x20, the pictures they are compared with 16x16; give --size HxW"
    ):
        evaluate(tmp_path / "g.json", data=data, samples=str(tmp_path / "large"), features=FEATURES)
    assert not (tmp_path / "f.json").exists()


def test_figures_survive_their_file(tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps({"figures": 3}))
    with pytest.raises(UserError, match="holds no figures of taming evaluate"):
        Figures.read(tmp_path / "bad.json")
    with pytest.raises(UserError, match="does not exist; taming evaluate writes it"):
        Figures.read(tmp_path / "none.json")
