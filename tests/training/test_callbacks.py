"""Signals, errors and full disks: what is learned is saved before a run stops."""

import errno
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from taming import images
from taming.cli.main import main
from taming.data import DrawnLandscapes
from taming.data.reading import CorruptImage
from taming.errors import UserError
from taming.training import callbacks, run
from taming.training.callbacks import SIGNALS, Checkpoints, evenly_spaced
from taming.training.datamodule import collate_or_error
from tests.conftest import experiment_of, first_stage_plain, mask_stage_plain, write_yaml
from tests.training.conftest import assert_same, at_batch, content, temporaries


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_save_and_say_how_to_resume(tmp_path, monkeypatch, capfd, number, code):
    monkeypatch.chdir(tmp_path)
    write_yaml(first_stage_plain(checkpoint_every=100), tmp_path / "c.yaml")
    with monkeypatch.context() as patch:
        at_batch(patch, 3, lambda: os.kill(os.getpid(), number))
        assert main(["train", "-b", "c.yaml", "-n", "cut"]) == code
    message = capfd.readouterr().err
    assert "taming train -r runs/cut" in message
    assert ("Ctrl-C again stops at once" in message) == (number == signal.SIGINT)
    assert content(tmp_path / "runs" / "cut")["taming"]["batches"] == 3
    assert main(["train", "-r", "runs/cut"]) == 0
    assert main(["train", "-b", "c.yaml", "-n", "whole"]) == 0
    assert_same(content(tmp_path / "runs" / "cut"), content(tmp_path / "runs" / "whole"))


def test_a_second_interrupt_says_what_it_does(monkeypatch, tmp_path, capfd):
    kills = []
    monkeypatch.setattr(callbacks.os, "kill", lambda process, number: kills.append(number))
    monkeypatch.setattr(callbacks.signal, "signal", lambda *_: None)
    checkpoints = Checkpoints(tmp_path)
    checkpoints._note(signal.SIGINT, None)
    assert not kills and "saving after this batch" in capfd.readouterr().err
    checkpoints._note(signal.SIGINT, None)
    assert (
        kills == [signal.SIGINT] and "after the last checkpoint is lost" in capfd.readouterr().err
    )


def two_processes() -> tuple[SimpleNamespace, SimpleNamespace]:
    """What `after_batch` looks at of a trainer and its module, in the middle of a run."""
    settings = SimpleNamespace(max_steps=9, checkpoint_every=9, validate_every=9)
    module = SimpleNamespace(
        batches=1,
        experiment=SimpleNamespace(trainer=settings),
        data_module=SimpleNamespace(validation=None),
    )
    strategy = SimpleNamespace(root_device="cpu")
    return SimpleNamespace(world_size=2, is_global_zero=True, strategy=strategy), module


@pytest.mark.parametrize("where", ["while they agree", "while one saves"])
def test_a_signal_is_never_lost(monkeypatch, tmp_path, where):
    """Nor is it for one process alone: what arrives late waits for the next batch."""
    checkpoints, saved = Checkpoints(tmp_path), []
    trainer, module = two_processes()

    rest = ["it arrives"]

    def arrive() -> None:
        if rest:
            checkpoints._note(signal.SIGTERM, rest.pop())

    def save(*_) -> None:
        saved.append(module.batches)
        arrive()

    monkeypatch.setattr(checkpoints, "save", save)
    agreeing = where == "while they agree"
    monkeypatch.setattr(callbacks.dist, "all_reduce", lambda *_, **__: agreeing and arrive())
    module.experiment.trainer.checkpoint_every = 9 if agreeing else 1
    checkpoints.after_batch(trainer, module)
    assert len(saved) == (not agreeing) and not rest, "this batch goes on"
    module.batches += 1
    with pytest.raises(UserError, match="stopped by SIGTERM"):
        checkpoints.after_batch(trainer, module)
    assert saved[-1] == module.batches and not checkpoints.signals


def test_of_two_signals_in_two_processes_the_one_that_stops_counts(monkeypatch, tmp_path):
    """SIGHUP has the smaller number."""
    checkpoints, (trainer, module) = Checkpoints(tmp_path), two_processes()
    monkeypatch.setattr(checkpoints, "save", lambda *_: None)

    def reduce(tensor, **_):
        tensor.clamp_(min=int(signal.SIGUSR1))  # the other process

    monkeypatch.setattr(callbacks.dist, "all_reduce", reduce)
    checkpoints._note(signal.SIGHUP, None)
    with pytest.raises(UserError, match="stopped by SIGHUP"):
        checkpoints.after_batch(trainer, module)


def test_a_hang_up_that_nohup_ignores_stays_ignored(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_batch(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGHUP))
        run.train(experiment_of(mask_stage_plain(max_steps=3)), tmp_path / "run")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert content(tmp_path / "run")["taming"]["batches"] == 3


def test_signals_mean_what_they_did_once_a_run_is_over(tmp_path):
    """Lightning leaves a handler that swallows SIGTERM: the demo, between its trainings, could not
    be stopped.
    """
    before = [signal.getsignal(number) for number in SIGNALS]
    run.train(experiment_of(mask_stage_plain(max_steps=1)), tmp_path / "run")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_sigusr1_saves_and_goes_on(tmp_path, monkeypatch):
    saved = []
    original = Checkpoints.save

    def save(self, trainer, module, name):
        saved.append((name, module.batches))
        original(self, trainer, module, name)

    monkeypatch.setattr(Checkpoints, "save", save)
    at_batch(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    plain = first_stage_plain(checkpoint_every=100, max_steps=5, validate_every=100)
    run.train(experiment_of(plain), tmp_path / "run")
    assert [batch for name, batch in saved if name == "last.ckpt"] == [3, 5]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_users_error_in_the_data_saves_before_it_stops(tmp_path, monkeypatch, workers, part):
    """A label out of range, a vanished file: one item of the set raises once training is on."""
    original = DrawnLandscapes.__getitem__
    marker = tmp_path / "begun"

    def getitem(self, key):
        length = {"train": 7, "validation": 3}[part]
        if marker.is_file() and len(self) == length:
            raise UserError("mask 'm.png' has label 99")
        return original(self, key)

    monkeypatch.setattr(DrawnLandscapes, "__getitem__", getitem)
    at_batch(monkeypatch, 3, marker.touch)
    plain = mask_stage_plain(checkpoint_every=100)
    plain["data"]["workers"] = workers
    with pytest.raises(
        UserError, match="label 99; the run is saved up to batch [0-9].*taming train -r"
    ):
        run.train(experiment_of(plain), tmp_path / "run")
    assert 3 <= content(tmp_path / "run")["taming"]["batches"] < 8


def test_too_many_broken_pictures_save_before_they_stop(tmp_path, monkeypatch):
    original = DrawnLandscapes.__getitem__
    broken = []

    def getitem(self, key):
        if broken and len(self) == 7 and key[0] == 4:
            raise CorruptImage("'p.png' is not a readable picture")
        return original(self, key)

    monkeypatch.setattr(DrawnLandscapes, "__getitem__", getitem)
    at_batch(monkeypatch, 2, lambda: broken.append(1))
    with pytest.raises(UserError, match="can't be used, more than 1 %.*saved up to batch"):
        run.train(experiment_of(mask_stage_plain(checkpoint_every=100)), tmp_path / "run")


def test_any_error_saves_before_it_stops(tmp_path, monkeypatch):
    def fail():
        raise ZeroDivisionError

    at_batch(monkeypatch, 4, fail)
    with pytest.raises(ZeroDivisionError):
        run.train(experiment_of(mask_stage_plain(checkpoint_every=100)), tmp_path / "run")
    assert content(tmp_path / "run")["taming"]["batches"] == 3


def test_half_a_batch_of_two_optimizers_is_not_saved(tmp_path, monkeypatch):
    from taming.first_stage.losses import VQGANLoss

    def fail(*_):
        raise UserError("after the generator's step")

    monkeypatch.setattr(VQGANLoss, "adversary", fail)
    with pytest.raises(UserError, match="after the generator's step; no checkpoint was saved"):
        run.train(experiment_of(first_stage_plain(checkpoint_every=100)), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_full_disk_leaves_the_last_good_checkpoint_and_says_how_to_resume(
    tmp_path, monkeypatch, name
):
    original = torch.save

    def save(state, file):
        if state["taming"]["batches"] >= 4 and name in str(file):
            with open(file, "wb") as stream:
                stream.write(b"half")
            full()
        original(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.torch, "save", save)
        with pytest.raises(UserError, match=rf"{name}' can't be written \(No space.*-r .*run"):
            run.train(experiment_of(first_stage_plain()), tmp_path / "run")
    batches = content(tmp_path / "run")["taming"]["batches"]
    assert batches == {"last.ckpt": 2, "best.ckpt": 4}[name]
    assert not temporaries(tmp_path / "run")
    run.train(experiment_of(first_stage_plain()), tmp_path / "run", resume=True)
    run.train(experiment_of(first_stage_plain()), tmp_path / "whole")
    assert_same(content(tmp_path / "run"), content(tmp_path / "whole"))


def test_pictures_that_cant_be_written_stop_nothing(tmp_path, monkeypatch, capsys):
    def save(*_):
        raise UserError("'p.png' can't be written (No space left on device)")

    monkeypatch.setattr(images, "save", save)
    run.train(experiment_of(mask_stage_plain(pictures_every=1)), tmp_path / "run")
    message = capsys.readouterr().err
    assert message.count("can't be written") == 2 and "training continues" in message, "said once"
    assert content(tmp_path / "run")["taming"]["batches"] == 8


def test_indices_of_pictures_are_spread_evenly_and_repeat():
    assert evenly_spaced(12, 6) == [0, 2, 4, 6, 8, 10]
    assert evenly_spaced(2, 6) == [0, 1]


def test_an_error_item_stands_for_its_batch():
    good = {"image": torch.zeros(1), "skipped": []}
    assert collate_or_error([good, {"error": "no"}]) == {"error": "no"}
    assert collate_or_error([good, good])["image"].shape == (2, 1)
