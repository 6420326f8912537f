"""Training counts batches, resumes exactly, and stops with words."""

import os
import signal

import pytest
import torch

from taming.cli.main import main
from taming.config.experiment import Optimizer
from taming.errors import UserError
from taming.evaluation.metrics import read_metrics
from taming.formats.load import load, read_checkpoint
from taming.training import run
from taming.training.callbacks import SIGNALS, Checkpoints, Inputs
from taming.training.module import Training, schedule
from tests.conftest import (
    experiment_of,
    first_stage_plain,
    mask_stage_plain,
    second_stage_plain,
    write_yaml,
)


class Killed(BaseException):
    """Stands for kill -9: nothing is saved on the way out."""


def at_batch(monkeypatch, number: int, act):
    """`act()` at the beginning of the micro-batch with this number in this process."""
    seen = []
    original = Inputs.on_train_batch_start

    def hook(self, *arguments):
        seen.append(1)
        if len(seen) == number:
            act()
        original(self, *arguments)

    monkeypatch.setattr(Inputs, "on_train_batch_start", hook)


def kill():
    raise Killed


def content(folder) -> dict:
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    state["rows"] = read_metrics(folder / "metrics.csv")
    return state


def assert_same(a, b, place="state"):
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A first stage, a mask tokenizer, and priors on them, each trained for 8 batches without
    interruption.
    """
    root = tmp_path_factory.mktemp("runs")
    run.train(experiment_of(first_stage_plain(ema=0.9)), root / "first")
    run.train(experiment_of(mask_stage_plain()), root / "masks")
    plains = {
        "cached": second_stage_plain(root / "first", root / "masks", ema=0.9),
        "fly": second_stage_plain(root / "first", ema=0.9),
    }
    plains["cached"]["data"] = {
        **plains["cached"]["data"],
        "views": 2,
        "cache": str(root / "cache"),
    }
    for name, plain in plains.items():
        run.train(experiment_of(plain), root / name)
    return root, plains


@pytest.mark.parametrize("stage", ["first", "cached", "fly"])
def test_a_killed_and_resumed_run_ends_bit_identical(trained, stage, tmp_path, monkeypatch):
    root, plains = trained
    plain = first_stage_plain(ema=0.9) if stage == "first" else plains[stage]
    with monkeypatch.context() as patch:
        at_batch(patch, 6, kill)  # five batches done, the last checkpoint is at four
        with pytest.raises(Killed):
            run.train(experiment_of(plain), tmp_path / "run")
    assert content(tmp_path / "run")["taming"]["batches"] == 4
    run.train(experiment_of(plain), tmp_path / "run", resume=True)
    assert_same(content(tmp_path / "run"), content(root / stage))


def test_accumulation_resumes_exactly_too(tmp_path, monkeypatch):
    plain = first_stage_plain(accumulate_grad_batches=2, max_steps=5, checkpoint_every=2)
    run.train(experiment_of(plain), tmp_path / "whole")
    with monkeypatch.context() as patch:
        at_batch(patch, 8, kill)
        with pytest.raises(Killed):
            run.train(experiment_of(plain), tmp_path / "cut")
    run.train(experiment_of(plain), tmp_path / "cut", resume=True)
    assert_same(content(tmp_path / "cut"), content(tmp_path / "whole"))


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_resume(tmp_path, monkeypatch, capsys, number, code):
    monkeypatch.chdir(tmp_path)
    write_yaml(first_stage_plain(checkpoint_every=100), tmp_path / "c.yaml")
    with monkeypatch.context() as patch:
        at_batch(patch, 3, lambda: os.kill(os.getpid(), number))
        assert main(["train", "-b", "c.yaml", "-n", "cut"]) == code
    assert "taming train -r runs/cut" in capsys.readouterr().err
    assert content(tmp_path / "runs" / "cut")["taming"]["batches"] == 3
    assert main(["train", "-r", "runs/cut"]) == 0
    assert main(["train", "-b", "c.yaml", "-n", "whole"]) == 0
    assert_same(content(tmp_path / "runs" / "cut"), content(tmp_path / "runs" / "whole"))


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
    monkeypatch.setattr(
        Checkpoints,
        "save",
        lambda self, trainer, module, name: (
            saved.append((name, module.batches)),
            original(self, trainer, module, name),
        ),
    )
    at_batch(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    run.train(
        experiment_of(first_stage_plain(checkpoint_every=100, max_steps=5, validate_every=100)),
        tmp_path / "run",
    )
    assert [b for name, b in saved if name == "last.ckpt"] == [3, 5]


def test_a_finished_run_goes_on_with_a_larger_max_steps(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_yaml(first_stage_plain(max_steps=2), tmp_path / "c.yaml")
    assert main(["train", "-b", "c.yaml"]) == 0
    assert main(["train", "-b", "c.yaml"]) == 2 and "-r runs/c" in capsys.readouterr().err
    assert main(["train", "-r", "runs/c"]) == 2 and "trainer.max_steps=4" in capsys.readouterr().err
    assert main(["train", "-r", "c", "trainer.max_steps=4"]) == 0
    assert content(tmp_path / "runs" / "c")["taming"]["batches"] == 4


def test_a_batch_is_one_optimizer_step_with_two_optimizers_and_accumulation(tmp_path, monkeypatch):
    steps = []
    original = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self, *a, **k: (
            steps.append(len(self.param_groups[0]["params"])),
            original(self, *a, **k),
        )[1],
    )
    run.train(
        experiment_of(first_stage_plain(accumulate_grad_batches=3, max_steps=5)), tmp_path / "run"
    )
    generator = max(set(steps), key=steps.count)
    # The discriminator starts at batch 3
    assert steps.count(generator) == 5 and len(steps) == 5 + 2
    assert {
        b for b, name, _ in read_metrics(tmp_path / "run" / "metrics.csv") if name == "train/total"
    } == {1, 2, 3, 4, 5}


def test_accumulated_gradient_is_that_of_the_large_batch(tmp_path, monkeypatch):
    """Without normalisation by batch (no discriminator), 2 x 2 pictures give the gradient of 4."""
    taken = []
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self, *a, **k: taken.append(
            [p.grad.clone() for p in self.param_groups[0]["params"]]
        ),
    )
    for size, accumulate in ((4, 1), (2, 2)):
        plain = mask_stage_plain(accumulate_grad_batches=accumulate, max_steps=1)
        plain["data"] = {**plain["data"], "batch_size": size}
        run.train(experiment_of(plain), tmp_path / str(size))
    scale = max(g.abs().max() for g in taken[0])
    assert all((a - b).abs().max() < 1e-4 * scale for a, b in zip(*taken))


def test_gradients_are_clipped(tmp_path, monkeypatch):
    norms = []
    original = torch.optim.AdamW.step

    def step(self, *a, **k):
        norms.append(
            torch.stack(
                [
                    p.grad.norm()
                    for g in self.param_groups
                    for p in g["params"]
                    if p.grad is not None
                ]
            )
            .norm()
            .item()
        )
        return original(self, *a, **k)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run.train(experiment_of(first_stage_plain(gradient_clip_val=1e-3)), tmp_path / "run")
    assert norms and max(norms) <= 1.001e-3


def test_schedule_warms_up_and_falls_by_a_cosine():
    optimizer = Optimizer(warmup=10, final=0.1)
    values = [schedule(optimizer, b, 110) for b in range(111)]
    assert values[0] == 0.1 and values[9] == 1.0 and values[10] == 1.0
    assert abs(values[60] - 0.55) < 1e-9 and abs(values[110] - 0.1) < 1e-9
    assert all(a >= b for a, b in zip(values[10:], values[11:]))


def test_averaged_weights_are_what_load_gives(trained):
    root, _ = trained
    state = torch.load(root / "first" / "checkpoints" / "last.ckpt", weights_only=True)
    name = "decoder.conv_out.weight"
    averaged, raw = (
        state["taming"]["averaged"][f"averaged.{name}"],
        state["state_dict"][f"model.{name}"],
    )
    assert not torch.equal(averaged, raw)
    assert torch.equal(load(root / "first").state_dict()[name], averaged)


def test_checkpoints_are_plain_and_a_second_stage_needs_no_other_file(trained):
    root, _ = trained
    model = load(root / "cached" / "checkpoints" / "best.ckpt", stage="second")
    assert "checkpoint" not in str(read_checkpoint(root / "cached").config["model"])
    first = load(root / "first")
    assert all(
        torch.equal(v, first.state_dict()[k]) for k, v in model.first_stage.state_dict().items()
    )


def test_a_loss_that_is_not_finite_stops_with_the_term_and_the_last_good_checkpoint(
    tmp_path, monkeypatch
):
    original = Training._refuse_nonfinite
    monkeypatch.setattr(
        Training,
        "_refuse_nonfinite",
        lambda self, terms: original(
            self, {**terms, "l1": torch.tensor(float("nan"))} if self.batches == 4 else terms
        ),
    )
    with pytest.raises(UserError, match=r"l1 became nan at batch 5.*last\.ckpt"):
        run.train(experiment_of(first_stage_plain()), tmp_path / "run")
    assert content(tmp_path / "run")["taming"]["batches"] == 4


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tmp_path, monkeypatch):
    original = Training.step

    def poisoned(self, optimizer, parameters, counts):
        parameters = list(parameters)
        if self.batches == 3:
            parameters[0].grad.fill_(float("nan"))
        original(self, optimizer, parameters, counts)

    monkeypatch.setattr(Training, "step", poisoned)
    with pytest.raises(UserError, match=r"the gradient became nan at batch 4.*last\.ckpt"):
        run.train(experiment_of(first_stage_plain()), tmp_path / "run")
    assert all(v.isfinite().all() for v in content(tmp_path / "run")["state_dict"].values())


def test_a_prior_goes_on_with_its_own_first_stage_whatever_became_of_the_file(tmp_path):
    run.train(experiment_of(first_stage_plain(max_steps=2)), tmp_path / "first")
    plain = second_stage_plain(tmp_path / "first", max_steps=2)
    run.train(experiment_of(plain), tmp_path / "prior")
    before = load(tmp_path / "prior").first_stage.state_dict()
    (tmp_path / "first" / "checkpoints" / "last.ckpt").write_text("gone")
    plain["trainer"]["max_steps"] = 3
    run.train(experiment_of(plain), tmp_path / "prior", resume=True)
    after = load(tmp_path / "prior").first_stage.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


@pytest.mark.parametrize("share", [True, False])
def test_sharing_the_forward_changes_what_the_discriminator_sees_and_nothing_before_it(
    tmp_path, share, trained
):
    run.train(experiment_of(first_stage_plain(share_forward=share, ema=0.9)), tmp_path / "run")
    ours, theirs = content(tmp_path / "run")["rows"], content(trained[0] / "first")["rows"]
    early = [row for row in ours if row[0] <= 3 and row[1].startswith("train/")]
    assert early == [row for row in theirs if row[0] <= 3 and row[1].startswith("train/")]
    assert (ours == theirs) == share


def test_out_of_memory_names_the_key(tmp_path, monkeypatch):
    from taming.training.first_stage import FirstStageTraining

    def burst(*_):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you"
            " tried to allocate 9 bytes"
        )

    monkeypatch.setattr(FirstStageTraining, "micro_batch", burst)
    with pytest.raises(UserError, match="out of memory at batch 1; lower data.batch_size"):
        run.train(experiment_of(first_stage_plain()), tmp_path / "run")


def test_the_cache_is_used_again_until_something_it_depends_on_changes(
    trained, tmp_path, monkeypatch
):
    from taming.training import codes

    root, plains = trained
    calls = []
    original = codes.compute
    monkeypatch.setattr(codes, "compute", lambda *a: (calls.append(1), original(*a))[1])
    run.train(experiment_of(plains["cached"]), tmp_path / "a")
    assert not calls
    changed = {**plains["cached"], "data": {**plains["cached"]["data"], "views": 1}}
    run.train(experiment_of(changed), tmp_path / "b")
    assert len(calls) == 1


def test_loggers_need_no_account(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".netrc").write_text("machine github.com login x password y\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    plain = {
        **first_stage_plain(max_steps=2, pictures_every=2),
        "logger": {"tensorboard": True, "wandb": "online"},
    }
    run.train(experiment_of(plain), tmp_path / "run")
    assert list((tmp_path / "run" / "tensorboard").glob("events*")) and list(
        (tmp_path / "run").glob("wandb/offline-run-*")
    )
    assert (tmp_path / "run" / "pictures" / "0000002.png").is_file()
