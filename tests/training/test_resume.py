"""A resumed run is the run that was not interrupted; what can't stay as it was is refused or
printed.
"""

import copy
import shutil

import pytest
import torch
from pytorch_lightning.utilities import rank_zero_only

from taming.cli.main import main
from taming.errors import UserError
from taming.formats.load import load
from taming.training import run
from taming.training.resume import read_run, take_over
from tests.conftest import (
    experiment_of,
    first_stage_plain,
    second_stage_plain,
    write_vgg,
    write_yaml,
)
from tests.training.conftest import (
    assert_resumes_exactly,
    assert_same,
    content,
    resume,
    temporaries,
    train_until_killed,
)


def rewritten(folder, change) -> None:
    """The last checkpoint with `change` applied to its state."""
    path = folder / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize("stage", ["first", "cached", "fly"])
def test_a_killed_and_resumed_run_ends_bit_identical(trained, stage, tmp_path, monkeypatch):
    root, plains = trained
    plain = first_stage_plain(ema=0.9) if stage == "first" else plains[stage]
    train_until_killed(monkeypatch, plain, tmp_path / "run", 6)
    assert content(tmp_path / "run")["taming"]["batches"] == 4, "the last checkpoint's"
    assert_same(resume(plain, tmp_path / "run"), content(root / stage))


@pytest.mark.parametrize("name", ["ProjectedDiscriminator", "SegmentingDiscriminator"])
def test_a_run_with_any_discriminator_is_saved_and_resumes_bit_identical(
    name, tmp_path, monkeypatch
):
    """Its parametrized weights, too: spectral norms were taken for low-rank updates."""
    params = {"width": 4}
    if name == "ProjectedDiscriminator":
        params |= {"blocks": 2, "features": str(write_vgg(tmp_path / "vgg.safetensors", blocks=2))}
    else:
        params |= {"labels": 10, "layers": 2}
    plain = first_stage_plain(ema=0.9, max_steps=6, pictures_every=6)
    target = f"taming.first_stage.{name}"
    plain["loss"]["params"]["discriminator"] = {"target": target, "params": params}
    assert_resumes_exactly(monkeypatch, plain, tmp_path, micro_batch=6)
    load(tmp_path / "whole")


def test_accumulation_resumes_exactly_too(tmp_path, monkeypatch):
    plain = first_stage_plain(accumulate_grad_batches=2, max_steps=5, checkpoint_every=2)
    run.train(experiment_of(plain), tmp_path / "whole")
    train_until_killed(monkeypatch, plain, tmp_path / "cut", 8)
    assert_same(resume(plain, tmp_path / "cut"), content(tmp_path / "whole"))


def test_a_run_of_an_earlier_version_resumes_bit_identical(trained, tmp_path, monkeypatch):
    """Its checkpoints count no images, know no files, and their schema is the old one."""
    root, _ = trained

    def older(state):
        state["taming"].pop("images")
        state["taming"].pop("data")
        trainer, loss = state["taming"]["config"]["trainer"], state["taming"]["config"]["loss"]
        trainer["strategy"] = "auto"
        loss["params"].pop("discriminator", None)
        loss["params"] |= {"width": 8, "layers": 2}

    plain = first_stage_plain(ema=0.9)
    train_until_killed(monkeypatch, plain, tmp_path / "run", 6)
    rewritten(tmp_path / "run", older)
    ours, other = resume(plain, tmp_path / "run"), content(root / "first")
    for part in ("state_dict", "optimizers", "rows"):
        assert_same(ours[part], other[part])


def test_a_finished_run_resumes_with_a_larger_max_steps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_yaml(first_stage_plain(max_steps=2), tmp_path / "c.yaml")
    assert main(["train", "-b", "c.yaml"]) == 0
    assert main(["train", "-b", "c.yaml"]) == 2 and "-r runs/c" in capsys.readouterr().err
    assert main(["train", "-r", "runs/c"]) == 2 and "trainer.max_steps=4" in capsys.readouterr().err
    assert main(["train", "-r", "c", "trainer.max_steps=4"]) == 0
    assert content(tmp_path / "runs" / "c")["taming"]["batches"] == 4


def test_a_share_as_adversarial_start_stays_the_batch_that_it_was(tmp_path, capsys):
    """Of a longer run it would be a later batch, and switch a running discriminator off."""
    plain = first_stage_plain(max_steps=4)
    plain["loss"]["params"]["adversarial_start"] = 0.5
    run.train(experiment_of(plain), tmp_path / "run")
    longer = first_stage_plain(max_steps=8)
    longer["loss"]["params"]["adversarial_start"] = 0.5
    run.train(experiment_of(longer), tmp_path / "run", resume=True)
    assert "adversarial_start: stays batch 2" in capsys.readouterr().err
    state = content(tmp_path / "run")
    batches = {b for b, name, _ in state["rows"] if name == "train/discriminator"}
    assert batches == {3, 4, 5, 6, 7, 8}
    assert state["taming"]["config"]["loss"]["params"]["adversarial_start"] == 2


def test_a_share_of_an_earlier_version_is_of_the_length_that_the_run_had(tmp_path):
    plain = first_stage_plain(max_steps=4)
    plain["loss"]["params"]["adversarial_start"] = 0.5
    run.train(experiment_of(plain), tmp_path / "run")

    def older(state):
        state["taming"]["config"]["loss"]["params"]["adversarial_start"] = 0.5

    rewritten(tmp_path / "run", older)
    plain["trainer"]["max_steps"] = 8
    run.train(experiment_of(plain), tmp_path / "run", resume=True)
    rows = content(tmp_path / "run")["rows"]
    assert {b for b, name, _ in rows if name == "train/discriminator"} == {3, 4, 5, 6, 7, 8}


def test_another_model_is_refused_and_not_ignored(trained, tmp_path, monkeypatch, capsys):
    root, _ = trained
    shutil.copytree(root / "first", tmp_path / "runs" / "first")
    other = first_stage_plain(max_steps=9)
    other["model"]["params"]["channels"] = 16
    monkeypatch.chdir(tmp_path)
    write_yaml(other, tmp_path / "other.yaml")
    assert main(["train", "-b", "other.yaml", "-r", "runs/first"]) == 2
    message = capsys.readouterr().err
    assert "keeps its model" in message and "--from" in message
    assert "Traceback" not in message
    write_yaml({"trainer": {"max_steps": 9}}, tmp_path / "longer.yaml")
    assert main(["train", "-b", "longer.yaml", "-r", "runs/first"]) == 0


def test_only_the_first_process_compares_models(trained, monkeypatch):
    """It writes config.yaml anew as soon as it has; another process that had read the one before
    saw a model in it that was not its own, and ended the run.
    """
    root, _ = trained
    saved = read_run(root / "first" / "checkpoints" / "last.ckpt", [])
    experiment = copy.deepcopy(saved.experiment)
    experiment.trainer.max_steps = 1000
    experiment.model["params"]["channels"] = 16
    with pytest.raises(UserError, match="keeps its model"):
        take_over(copy.deepcopy(experiment), saved, root / "first")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    take_over(experiment, saved, root / "first")
    assert experiment.model == saved.experiment.model


def test_another_batch_size_skips_no_picture(tmp_path, capsys):
    """Two batches of 2, then batches of 3: the third begins with the fifth picture."""
    plain = first_stage_plain(max_steps=2, validate_every=100)
    run.train(experiment_of(plain), tmp_path / "run")
    capsys.readouterr()
    plain["data"]["batch_size"] = 3
    plain["trainer"]["max_steps"] = 3
    run.train(experiment_of(plain), tmp_path / "run", resume=True)
    assert "a batch is 3 pictures from here on, and was 2" in capsys.readouterr().err
    assert content(tmp_path / "run")["taming"]["images"] == 2 * 2 + 3


def test_half_the_batch_size_with_accumulation_is_the_same_run(tmp_path, capsys):
    """What the message on memory advises."""
    plain = first_stage_plain(max_steps=2, validate_every=100)
    run.train(experiment_of(plain), tmp_path / "run")
    capsys.readouterr()
    plain["data"]["batch_size"] = 1
    plain["trainer"] |= {"max_steps": 3, "accumulate_grad_batches": 2}
    run.train(experiment_of(plain), tmp_path / "run", resume=True)
    assert "a batch is" not in capsys.readouterr().err
    assert content(tmp_path / "run")["taming"]["images"] == 6


@pytest.mark.parametrize("key, value", [("learning_rate", 5e-4), ("weight_decay", 0.1)])
def test_the_optimizer_of_a_resumed_run_has_the_new_options(tmp_path, key, value):
    plain = first_stage_plain(max_steps=2)
    run.train(experiment_of(plain), tmp_path / "run")
    plain["trainer"]["max_steps"] = 4
    plain["optimizer"][key] = value
    run.train(experiment_of(plain), tmp_path / "run", resume=True)
    groups = content(tmp_path / "run")["optimizers"][0]["param_groups"]
    assert {group["peak" if key == "learning_rate" else key] for group in groups} == {value}


def painted(root, count: int):
    from PIL import Image

    root.mkdir(exist_ok=True)
    for number in range(count):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(root / f"{number:03d}.png")
    return root


def folder_plain(root, split: bool) -> dict:
    plain = first_stage_plain(max_steps=2, validate_every=100, pictures_every=100)
    node = {"target": "taming.data.ImageFolder", "params": {"root": str(root), "size": 16}}
    plain["data"] |= {"train": node, "validation": {}}
    if split:
        node["params"]["split"] = ["train", 0.5]
    return plain


def test_new_files_are_said(tmp_path, capsys):
    plain = folder_plain(painted(tmp_path / "data", 6), split=False)
    run.train(experiment_of(plain), tmp_path / "run")
    painted(tmp_path / "data", 8)
    plain["trainer"]["max_steps"] = 3
    run.train(experiment_of(plain), tmp_path / "run", resume=True)
    assert "data.train: 6 pictures in the run so far, 8 pictures now" in capsys.readouterr().err


def test_files_that_move_a_split_are_refused(tmp_path):
    plain = folder_plain(painted(tmp_path / "data", 6), split=True)
    run.train(experiment_of(plain), tmp_path / "run")
    painted(tmp_path / "data", 8)
    plain["trainer"]["max_steps"] = 3
    with pytest.raises(UserError, match="its split would move.*--from"):
        run.train(experiment_of(plain), tmp_path / "run", resume=True)


def test_a_prior_resumes_with_its_own_first_stage_whatever_became_of_the_file(tmp_path):
    run.train(experiment_of(first_stage_plain(max_steps=2)), tmp_path / "first")
    plain = second_stage_plain(tmp_path / "first", max_steps=2)
    run.train(experiment_of(plain), tmp_path / "prior")
    before = load(tmp_path / "prior").first_stage.state_dict()
    (tmp_path / "first" / "checkpoints" / "last.ckpt").write_text("gone")
    plain["trainer"]["max_steps"] = 3
    run.train(experiment_of(plain), tmp_path / "prior", resume=True)
    after = load(tmp_path / "prior").first_stage.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_checkpoint_names_the_best_one_which_resumes(
    trained, tmp_path, monkeypatch, capsys, damage
):
    shutil.copytree(trained[0] / "first", tmp_path / "runs" / "first")
    last = tmp_path / "runs" / "first" / "checkpoints" / "last.ckpt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    cases = {"cut": data[:-3000], "flipped": data, "empty": b"", "text": b"no checkpoint"}
    last.write_bytes(cases[damage])
    monkeypatch.chdir(tmp_path)
    more = "trainer.max_steps=9"
    assert main(["train", "-r", "runs/first", more]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert "taming train -r runs/first/checkpoints/best.ckpt" in message
    assert main(["train", "-r", "runs/first/checkpoints/best.ckpt", more]) == 0
    assert content(tmp_path / "runs" / "first")["taming"]["batches"] == 9


def test_what_a_kill_cut_short_is_removed(trained, tmp_path):
    shutil.copytree(trained[0] / "first", tmp_path / "run")
    for name in (".metrics.csv.123-4.tmp", "checkpoints/.last.ckpt.123-4.tmp"):
        (tmp_path / "run" / name).write_bytes(b"half")
    run.train(experiment_of(first_stage_plain(ema=0.9, max_steps=9)), tmp_path / "run", resume=True)
    assert not temporaries(tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("optimizers"),
        lambda state: state["taming"].pop("averaged"),
        lambda state: state["taming"].update(batches="many"),
        lambda state: state["taming"].update(config=None),
        lambda state: state.update(taming=3),
    ],
)
def test_a_checkpoint_without_the_state_of_a_training_is_refused(trained, tmp_path, change):
    shutil.copytree(trained[0] / "first", tmp_path / "run")
    rewritten(tmp_path / "run", change)
    with pytest.raises(UserError, match=r"last\.ckpt"):
        plain = first_stage_plain(ema=0.9, max_steps=9)
        run.train(experiment_of(plain), tmp_path / "run", resume=True)
