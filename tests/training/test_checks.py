"""What is refused before a run starts."""

import re
import subprocess
import sys

import pytest

from taming.cli.main import main
from taming.errors import UserError
from taming.training import run
from taming.training.checks import check_hardware
from tests.conftest import experiment_of, first_stage_plain, paint_pairs, write_yaml


@pytest.mark.parametrize(
    "words",
    [
        "trainer.devices=1000",
        "trainer.devices=9",
        "trainer.threads=1000000",
        "trainer.threads=1000",
        "data.workers=100000",
        "data.workers=1000",
    ],
)
def test_more_than_the_machine_has_is_refused_before_anything_is_spawned(
    tmp_path, monkeypatch, capsys, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("pytorch_lightning.Trainer", None)
    write_yaml(first_stage_plain(), tmp_path / "c.yaml")
    assert main(["train", "-b", "c.yaml", words]) == 2
    message = capsys.readouterr().err
    assert words.split("=")[0] in message and "Traceback" not in message
    assert re.search("at most|from [01] to", message)


def test_gpus_where_there_are_none_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no GPU"):
        check_hardware(experiment_of(first_stage_plain(accelerator="gpu")))


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_a_word_for_a_rank_is_one_line(name):
    code = "from taming.cli.main import main; main(['train', '-b', 'drawn_vqgan_64'])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", name: "x"},
        capture_output=True,
        text=True,
        cwd=sys.path[0] or None,
    )
    assert f"{name} is 'x', but should be a number" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda plain: plain.pop("model"), "model: missing"),
        (lambda plain: plain.pop("loss"), "loss: missing"),
        (lambda plain: plain["data"].update(train={}), "data.train: missing"),
        (lambda plain: plain.update(noise=0.5), "noise: 0.5, but a first stage has no use"),
    ],
)
def test_a_missing_section_names_what_to_write(change, message):
    plain = first_stage_plain()
    change(plain)
    with pytest.raises(UserError, match=message):
        run.prepare(experiment_of(plain))


def test_a_size_that_the_model_does_not_divide_is_refused():
    plain = first_stage_plain()
    plain["data"]["train"]["params"]["size"] = 17
    with pytest.raises(UserError, match="data.train: size"):
        run.prepare(experiment_of(plain))


def pairs_plain(root, check: str) -> dict:
    plain = first_stage_plain(max_steps=1)
    node = {"target": "taming.data.SegmentedImages", "params": {"root": str(root), "size": 16}}
    plain["data"] |= {"train": node, "validation": {}, "check": check}
    return plain


@pytest.mark.parametrize("check", ["headers", "full"])
def test_headers_are_checked_always_and_labels_on_request(tmp_path, capsys, check):
    from PIL import Image

    root = paint_pairs(tmp_path / "data")
    Image.new("L", (24, 20), 77).save(root / "segmentations" / "p2.png")
    experiment = experiment_of(pairs_plain(root, check))
    if check == "full":
        with pytest.raises(UserError, match="label 77"):
            run.prepare(experiment)
    else:
        run.prepare(experiment)
    assert "data.train: 4 pictures" in capsys.readouterr().err
