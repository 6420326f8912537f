"""The command line as a user types it: the whole path, and each kind of bad input in one line with
exit code 2.
"""

import csv
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from taming.cli.main import main
from taming.files import file_hash
from taming.formats.load import load, read_checkpoint
from taming.inference.record import read_record
from tests.conftest import (
    first_stage_plain,
    mask_stage_plain,
    paint_pairs,
    second_stage_plain,
    write_yaml,
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the three trainings done through the command line."""
    import os

    root = tmp_path_factory.mktemp("project")
    before = os.getcwd()
    os.chdir(root)
    write_yaml(first_stage_plain(max_steps=2), root / "first.yaml")
    write_yaml(mask_stage_plain(max_steps=2), root / "masks.yaml")
    assert main(["train", "-b", "first.yaml"]) == 0
    assert main(["train", "-b", "masks.yaml"]) == 0
    write_yaml(
        second_stage_plain(root / "runs/first", root / "runs/masks", max_steps=2),
        root / "prior.yaml",
    )
    write_yaml(second_stage_plain(root / "runs/first", max_steps=2), root / "free.yaml")
    assert main(["train", "-b", "prior.yaml"]) == 0
    assert main(["train", "-b", "free.yaml"]) == 0
    pairs = paint_pairs(root / "pairs", 3, (24, 20))
    yield root
    os.chdir(before)
    shutil.rmtree(pairs)


@pytest.fixture
def here(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


def refused(arguments, capsys, *words):
    """Exit code 2 and one line with these words."""
    capsys.readouterr()
    code = main([str(a) for a in arguments])
    text = capsys.readouterr().err
    error = text.strip().splitlines()[-1]
    assert code == 2 and error.startswith("taming: "), text
    assert text.count("taming: ") == 1 and "Traceback" not in text, text
    for word in words:
        assert word in error, f"{word!r} not in {error!r}"
    return error


def test_sample_from_masks(here):
    assert (
        main(
            "sample runs/prior --masks pairs/segmentations --size 16x16 --temperature 0.9 --top-k"
            " 10 --top-p 0.9 --seed 3 -n 2 -o drawn".split()
        )
        == 0
    )
    names = sorted(p.name for p in (here / "drawn").glob("*.png"))
    assert names == [
        "p0-0.png",
        "p0-1.png",
        "p1-0.png",
        "p1-1.png",
        "p2-0.png",
        "p2-1.png",
        "sheet.png",
    ]
    assert Image.open(here / "drawn" / "p0-0.png").size == (16, 16)


def test_a_seed_repeats_whatever_the_batch_size(here):
    for size, out in (("1", "one"), ("5", "five")):
        assert (
            main(
                f"sample runs/prior --masks pairs/segmentations -n 2 --batch-size {size} --guidance"
                f" 2 -o {out}".split()
            )
            == 0
        )
    assert len(list((here / "one").glob("p*.png"))) == 6
    for path in (here / "one").glob("p*.png"):
        one, five = (
            np.asarray(Image.open(p)).astype(int) for p in (path, here / "five" / path.name)
        )
        # The same codes (tested exactly in test_sampling.py); decoding rounds by the batch's size
        assert np.abs(one - five).max() <= 1


def test_smaller_than_trained_and_not_square(here):
    assert main("sample runs/prior --masks pairs/segmentations --size 8x14 -o small".split()) == 0
    assert Image.open(here / "small" / "p0-0.png").size == (14, 8)


def test_results_of_like_names_do_not_overwrite_one_another(here, tmp_path):
    paint_pairs(tmp_path / "a", 1)
    (tmp_path / "a" / "images" / "sub").mkdir()
    for name in ("p0.jpg", "sub/p0.png"):
        Image.new("RGB", (16, 16), "red").save(tmp_path / "a" / "images" / name)
    assert (
        main(
            [
                "reconstruct",
                "runs/first",
                str(tmp_path / "a" / "images"),
                "-o",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    assert sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png")
    ) == ["p0.jpg.png", "p0.png.png", "sub/p0.png"]


def test_sample_without_condition(here):
    assert main("sample runs/free -n 3 -o free".split()) == 0
    assert (
        len(list((here / "free").glob("sample-*.png"))) == 3
        and (here / "free" / "sheet.png").is_file()
    )


def test_reconstruct_takes_any_size(here, capsys):
    assert main("reconstruct runs/first pairs/images -o again".split()) == 0
    assert "dB PSNR" in capsys.readouterr().out
    Image.fromarray(np.zeros((13, 17, 3), np.uint8)).save(here / "pairs" / "images" / "odd.png")
    assert main("reconstruct runs/prior pairs/images -o again".split()) == 0
    assert Image.open(here / "again" / "odd.png").size == (17, 13)
    (here / "pairs" / "images" / "odd.png").unlink()
    assert main("reconstruct runs/masks pairs/segmentations -o labels".split()) == 0
    assert Image.open(here / "labels" / "p0.png").mode == "L"


def test_inspect_says_what_a_file_is(here, capsys):
    assert main(["inspect", "runs/prior"]) == 0
    text = capsys.readouterr().out
    assert "second stage" in text and "32 codes of 4 numbers" in text and "validation nll" in text


def test_convert_halves_and_keeps(here):
    assert main("convert runs/prior half.safetensors --half".split()) == 0
    model, original = load("half.safetensors"), load("runs/prior")
    # A quarter of the precision only where no sample looks
    for name, tensor in model.state_dict().items():
        rough = name.startswith("conditioner.first_stage.decoder.")
        assert torch.allclose(
            tensor, original.state_dict()[name], atol=2e-3, rtol=0.07 if rough else 1e-2
        ), name


def test_compvis_fingers(here):
    assert (
        main(
            "--base first.yaml -t True -n fingers -s 5 model.params.channels=16"
            " trainer.max_steps=1".split()
        )
        == 0
    )
    config = read_checkpoint("runs/fingers").config
    assert config["model"]["params"]["channels"] == 16 and config["seed"] == 5


def test_from_takes_weights_and_starts_over(here):
    assert (
        main(
            "train -b first.yaml -n second --from runs/first trainer.max_steps=1"
            " optimizer.learning_rate=1e-12".split()
        )
        == 0
    )
    a, b = read_checkpoint("runs/first").weights, read_checkpoint("runs/second").weights
    assert torch.allclose(a["encoder.conv_in.weight"], b["encoder.conv_in.weight"], atol=1e-6)


def test_demo_writes_a_page_that_needs_no_network(tmp_path, monkeypatch, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--quick", "-o", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert str(out / "report.html") in capsys.readouterr().out
    assert "data:image/png;base64" in page and "://" not in page.replace("http://www.w3.org", "")
    for part in (
        "Samples",
        "Reconstructions",
        "Prior",
        "unigram",
        "perplexity",
        "max_steps",
        "seed",
        "torch",
    ):
        assert part in page


# Bad input


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["trian"], ["trian", "did you mean 'train'"]),
        (["train"], ["-b"]),
        (["train", "-b", "first.yaml", "--resum", "x"], ["--resum", "did you mean '--resume'"]),
        (["train", "-b", "nothing.yaml"], ["nothing.yaml", "does not exist"]),
        (
            ["train", "-b", "first.yaml", "-n", "z", "trainer.max_step=3"],
            ["max_step", "did you mean 'max_steps'"],
        ),
        (
            ["train", "-b", "first.yaml", "-n", "z", "trainer.max_steps=three"],
            ["trainer.max_steps", "three"],
        ),
        (
            ["train", "-b", "first.yaml", "-n", "z", "model.target=taming.first_stage.VQGAM"],
            ["did you mean 'VQGAN'"],
        ),
        (
            ["train", "-b", "first.yaml", "-n", "z", "model.target=subprocess.run"],
            ["subprocess", "allow"],
        ),
        (
            ["train", "-b", "first.yaml", "-n", "z", "--gpus", "0,"],
            ["GPU", "trainer.accelerator=cpu"],
        ),
        (["train", "-b", "first.yaml", "-t", "False"], ["taming sample"]),
        (["train", "-r", "runs/none"], ["runs/none"]),
        (
            ["train", "-b", "first.yaml", "-n", "z", "data.train.params.size=17"],
            ["17", "factor 2", "16x16"],
        ),
        (["train", "-b", "first.yaml", "-n", "z", "a=[1", "-s", "3"], ["a=[1"]),
        (["train", "-b", "first.yaml", "-n", "z", "variables.rooot=x"], ["variables.rooot"]),
        (
            ["train", "-b", "first.yaml", "-n", "z", "trainer.validate_every=0"],
            ["trainer.validate_every: 0"],
        ),
        (
            ["train", "-b", "first.yaml", "-n", "z", "trainer.precision=16-mixed"],
            ["16-mixed", "bf16-mixed"],
        ),
        (
            ["train", "-b", "first.yaml", "-n", "z", "model.params.multipliers=5"],
            ["multipliers: 5"],
        ),
        (
            ["train", "-b", "first.yaml", "-n", "z", "model.params.attention=[16]"],
            ["attention [16]", "not resolutions"],
        ),
        (
            ["train", "-b", "first.yaml", "-n", "z", "model.params.quantizer=null"],
            ["quantizer: None"],
        ),
        (
            ["train", "-b", "first.yaml", "-n", "z", "data.train.params.size=[16]"],
            ["size: [16]", "2 entries"],
        ),
        (
            ["train", "-b", "first.yaml", "-n", "z", "data.validation.params.size=17"],
            ["data.validation", "17x17", "16x16"],
        ),
        (["train", "-b", "first.yaml", "-n", "z", "noise=0.1"], ["noise", "first stage"]),
        (
            ["train", "-r", "runs/first", "model.params.channels=16"],
            ["model.params.channels=16", "keeps its model"],
        ),
        (["train", "-r", "runs/first/checkpoints/last.ckpt"], ["has finished its 2 batches"]),
        (["train", "-r", "runs/first", "trainer.max_steps=9", "trainer.ema=0.9"], ["trainer.ema"]),
        (
            ["reconstruct", "runs/first", "pairs/images", "-o", "pairs/images/out"],
            ["pairs/images/out", "overwrite"],
        ),
        (["convert", "runs/first", "first.yaml/x.safetensors"], ["'first.yaml' is a file"]),
        (["sample", "runs/none"], ["runs/none", "does not exist"]),
        (["sample", "runs/first"], ["first-stage checkpoint", "second stage is needed"]),
        (["sample", "runs/prior"], ["--masks"]),
        (["sample", "runs/free", "--classes", "1"], ["no --masks, --images or --classes"]),
        (["sample", "runs/prior", "--masks", "empty"], ["empty"]),
        (
            ["sample", "runs/prior", "--masks", "pairs/segmentations", "--size", "0x16"],
            ["0x16", "64x96"],
        ),
        (["sample", "runs/prior", "--from-png", "x.png"], ["either CKPT or --from-png"]),
        (["sample", "--from-png", "pairs/images/p0.png"], ["does not say how it was drawn"]),
        (
            [
                "sample",
                "runs/prior",
                "--masks",
                "pairs/segmentations",
                "--known",
                "pairs/images/p0.png",
            ],
            ["--known-mask"],
        ),
        (["sample", "runs/prior", "--masks", "pairs/segmentations", "--min-p", "2"], ["min_p 2"]),
        (
            [
                "sample",
                "runs/prior",
                "--masks",
                "pairs/segmentations",
                "--accept",
                "0.5",
                "--classifier",
                "resnet50",
            ],
            ["needs --classes"],
        ),
        (
            ["sample", "runs/prior", "--masks", "pairs/segmentations", "--accept", "0.5"],
            ["--classifier"],
        ),
        (
            ["sample", "runs/prior", "--masks", "pairs/segmentations", "--size", "big"],
            ["big", "64x96"],
        ),
        (["sample", "runs/prior", "--masks", "pairs/segmentations", "--top-k", "0"], ["top_k 0"]),
        (
            ["sample", "runs/prior", "--masks", "pairs/segmentations", "--top-p", "1.5"],
            ["top_p 1.5"],
        ),
        (
            ["sample", "runs/prior", "--masks", "pairs/segmentations", "--temperature", "-1"],
            ["temperature -1"],
        ),
        (["sample", "runs/prior", "--masks", "pairs/images"], ["that the legend does not have"]),
        (["reconstruct", "runs/first", "nowhere"], ["nowhere"]),
        (["reconstruct", "first.yaml", "pairs/images"], ["first.yaml", "checkpoint"]),
        (["inspect", "first.yaml"], ["first.yaml"]),
    ],
)
def test_refused(here, capsys, arguments, words):
    (here / "empty").mkdir(exist_ok=True)
    refused(arguments, capsys, *words)


def test_the_first_stage_of_a_prior_stands_for_one(here, capsys):
    write_yaml(second_stage_plain(here / "runs/prior"), here / "over.yaml")
    assert main(["train", "-b", "over.yaml", "trainer.max_steps=1"]) == 0
    source = load("runs/prior").first_stage.state_dict()
    for name, value in load("runs/over").first_stage.state_dict().items():
        assert torch.equal(value, source[name])


def test_a_prior_of_another_codebook_size(here, capsys):
    plain = second_stage_plain(here / "runs/first")
    plain["model"]["params"]["prior"]["params"]["num_codes"] = 64
    write_yaml(plain, here / "wrong.yaml")
    refused(["train", "-b", "wrong.yaml"], capsys, "num_codes is 64", "32 codes")


def test_a_prior_of_another_grid(here, capsys):
    plain = second_stage_plain(here / "runs/first")
    plain["data"]["train"]["params"]["size"] = 32
    write_yaml(plain, here / "wrong.yaml")
    refused(["train", "-b", "wrong.yaml"], capsys, "grid: [8, 8]", "[16, 16] codes")


def test_output_folder_that_cannot_be_written(here, capsys):
    (here / "file").write_text("in the way")
    refused(
        ["sample", "runs/free", "-o", "file/samples"], capsys, "file/samples", "'file' is a file"
    )


def pairs_config(root, tmp_path, **params) -> str:
    plain = mask_stage_plain(max_steps=2)
    plain["model"]["params"]["labels"] = 3
    plain["data"]["train"] = {
        "target": "taming.data.SegmentedImages",
        "params": {"root": str(root), "size": 16, **params},
    }
    plain["data"]["validation"] = {}
    return str(write_yaml(plain, tmp_path / "pairs.yaml"))


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return paint_pairs(tmp_path / "pairs", 4, (24, 20))


def test_folder_missing_or_empty_or_without_a_mask(pairs, tmp_path, capsys):
    refused(["train", "-b", pairs_config(tmp_path / "no", tmp_path)], capsys, "no' does not exist")
    (pairs / "segmentations" / "p1.png").unlink()
    refused(["train", "-b", pairs_config(pairs, tmp_path)], capsys, "p1.png", "has no mask")
    for path in (pairs / "images").iterdir():
        path.unlink()
    refused(["train", "-b", pairs_config(pairs, tmp_path)], capsys, "no pictures in")


def test_list_with_a_missing_file(pairs, tmp_path, capsys):
    (pairs / "train.txt").write_text("p0\np9\n")
    refused(
        ["train", "-b", pairs_config(pairs, tmp_path, list="train.txt")],
        capsys,
        "train.txt:2",
        "'p9'",
    )


def test_picture_smaller_than_the_crop_unless_upscaled(pairs, tmp_path, capsys):
    refused(
        ["train", "-b", pairs_config(pairs, tmp_path, size=32)],
        capsys,
        "24x20",
        "32x32",
        "upscale: true",
    )
    assert main(["train", "-b", pairs_config(pairs, tmp_path, size=32, upscale=True)]) == 0


def test_mask_of_another_size_or_with_unknown_labels(pairs, tmp_path, capsys):
    mask = pairs / "segmentations" / "p2.png"
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(mask)
    refused(["train", "-b", pairs_config(pairs, tmp_path)], capsys, "p2.png", "10x10", "24x20")
    Image.fromarray(np.full((20, 24), 7, np.uint8)).save(mask)
    refused(
        ["train", "-b", pairs_config(pairs, tmp_path), "-n", "again"],
        capsys,
        "p2.png",
        "label 7",
        "ends at 2",
    )


def test_a_mistake_that_a_worker_process_meets_is_one_line_too(pairs, tmp_path, capsys):
    Image.fromarray(np.full((20, 24), 7, np.uint8)).save(pairs / "segmentations" / "p2.png")
    error = refused(
        ["train", "-b", pairs_config(pairs, tmp_path), "data.workers=1"],
        capsys,
        "p2.png",
        "label 7",
    )
    assert "DataLoader" not in error and "Traceback" not in error


def test_one_broken_picture_in_many_is_skipped_and_named_and_many_stop_the_run(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    root = paint_pairs(tmp_path / "many", 120, (16, 16))
    config = pairs_config(root, tmp_path)
    path = root / "images" / "p7.png"
    path.write_bytes(path.read_bytes()[:100])
    assert (
        main(["train", "-b", config, "-n", "one", "data.batch_size=60", "trainer.max_steps=2"]) == 0
    )
    text = capsys.readouterr().err
    assert "skipped" in text and "p7.png" in text
    for i in (3, 5):
        (root / "images" / f"p{i}.png").write_text("no picture")
    refused(
        ["train", "-b", config, "-n", "three", "data.batch_size=60", "trainer.max_steps=3"],
        capsys,
        "2 of 120",  # whose beginning says it; p7.png is cut off later
        "p3.png",
        "p5.png",
    )


def test_figures_in_the_checkpoint_are_those_of_the_last_validation(here):
    figures = read_checkpoint("runs/first").figures
    with open(here / "runs" / "first" / "metrics.csv", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row[1].startswith("validation/")]
    last = {name.removeprefix("validation/"): float(value) for _, name, value in rows}
    assert figures.keys() == last.keys() and figures["psnr"] == pytest.approx(last["psnr"], 1e-4)


def test_a_broken_picture_is_named_when_codes_are_computed_too(here, tmp_path, capsys):
    root = paint_pairs(tmp_path / "many", 110, (16, 16))
    plain = second_stage_plain(here / "runs/first", max_steps=1)
    plain["data"] = {
        **plain["data"],
        "views": 1,
        "cache": str(tmp_path / "cache"),
        "validation": {},
    }
    plain["data"]["train"] = {
        "target": "taming.data.ImageFolder",
        "params": {"root": str(root / "images"), "size": 16},
    }
    config = str(write_yaml(plain, tmp_path / "c.yaml"))
    (root / "images" / "p9.png").write_text("no picture")
    assert main(["train", "-b", config, "-n", "skipping"]) == 0
    assert "p9.png" in capsys.readouterr().err
    (root / "images" / "p8.png").write_text("no picture either")
    refused(["train", "-b", config, "-n", "stopping"], capsys, "2 of 110", "p8.png", "p9.png")


def test_classes_go_the_whole_way(here, capsys):
    plain = second_stage_plain(here / "runs/first", max_steps=2)
    plain["model"]["params"]["conditioner"] = {
        "target": "taming.second_stage.ClassLabel",
        "params": {"classes": 6},
    }
    plain["model"]["params"]["prior"]["params"]["parts"] = [{"vocabulary": 6, "length": 1}]
    write_yaml(plain, here / "classes.yaml")
    assert main(["train", "-b", "classes.yaml"]) == 0
    assert main("sample runs/classes --classes 0,5 -n 2 -o by_class".split()) == 0
    assert sorted(p.name for p in (here / "by_class").glob("class*.png")) == [
        "class0-0.png",
        "class0-1.png",
        "class5-0.png",
        "class5-1.png",
    ]
    refused(["sample", "runs/classes", "--classes", "6"], capsys, "class 6", "0 to 5")


def test_pictures_as_conditions_go_the_whole_way(here):
    plain = second_stage_plain(here / "runs/first", here / "runs/first", max_steps=2)
    plain["model"]["params"]["prior"]["params"]["parts"] = [{"vocabulary": 32, "grid": [8, 8]}]
    write_yaml(plain, here / "pictures.yaml")
    assert main(["train", "-b", "pictures.yaml"]) == 0
    assert main("sample runs/pictures --images pairs/images -o by_picture".split()) == 0
    for path in (here / "pairs" / "images").glob("*.png"):
        record = read_record(here / "by_picture" / f"{path.stem}-0.png")
        assert record is not None
        assert record.condition == {"image": [f"pairs/images/{path.name}", file_hash(path)]}


def test_a_package_of_ones_own_is_named_by_the_caller_each_time(
    here, tmp_path, monkeypatch, capsys
):
    """Never by the file: importing it runs it."""
    (tmp_path / "ownpackage.py").write_text(
        "from taming.first_stage import VQGAN\n\n\nclass Mine(VQGAN):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plain = first_stage_plain(max_steps=1)
    plain["model"]["target"] = "ownpackage.Mine"
    write_yaml(plain, here / "own.yaml")
    refused(["train", "-b", "own.yaml"], capsys, "--allow ownpackage")
    assert main(["train", "-b", "own.yaml", "--allow", "ownpackage"]) == 0
    for words in (
        "reconstruct runs/own pairs/images -o own",
        "encode runs/own pairs/images -o own.npz",
        "train -r runs/own trainer.max_steps=2",
        "evaluate runs/own --data pairs/images --only codes -o own.json",
    ):
        refused(words.split(), capsys, "--allow ownpackage")
        assert main([*words.split(), "--allow", "ownpackage"]) == 0, words
