"""Each diagnosis on a run that was made sick on purpose, and none on a healthy one."""

import pytest
import torch

from taming.cli.main import main
from taming.errors import UserError
from taming.evaluation import doctor
from taming.training import run
from tests.conftest import experiment_of, first_stage_plain, second_stage_plain

LONG = {"max_steps": 60, "validate_every": 20, "checkpoint_every": 60, "pictures_every": 60}


def first(
    tmp_path,
    loss: dict | None = None,
    quantizer: dict | None = None,
    optimizer: dict | None = None,
    **trainer,
):
    """A run of a first stage; the arguments differ from a sensible one."""
    plain = first_stage_plain(**{**LONG, **trainer})
    plain["loss"]["params"].update({"adversarial": 0.05, "adversarial_start": 10, **(loss or {})})
    if quantizer:
        plain["model"]["params"]["quantizer"]["params"] = quantizer
    plain["optimizer"].update(
        {"learning_rate": 2e-3, "discriminator_learning_rate": 1e-4, **(optimizer or {})}
    )
    return run.train(experiment_of(plain), tmp_path / "run").parent.parent


def second(
    tmp_path,
    prior: dict | None = None,
    train: dict | None = None,
    optimizer: dict | None = None,
    noise: float = 0.1,
    **trainer,
):
    tokenizer = first(tmp_path / "first")
    plain = second_stage_plain(tokenizer / "checkpoints" / "last.ckpt", **{**LONG, **trainer})
    plain["model"]["params"]["prior"]["params"].update(prior or {})
    plain["data"]["train"]["params"].update(train or {})
    plain["optimizer"].update({"learning_rate": 3e-3, **(optimizer or {})})
    return run.train(
        experiment_of({**plain, "noise": noise, "condition_dropout": 0.0}), tmp_path / "run"
    ).parent.parent


def problems(folder) -> list[str]:
    return [diagnosis.problem for diagnosis in doctor.examine(folder)]


def test_a_healthy_run_has_nothing(tmp_path, capsys):
    folder = first(tmp_path)
    assert problems(folder) == []
    assert main(["doctor", str(folder)]) == 0
    assert "nothing wrong was found (looked for: " in capsys.readouterr().out


def test_a_collapsed_codebook(tmp_path):
    diagnoses = doctor.examine(
        first(tmp_path, quantizer={"num_codes": 512, "dim": 8}, loss={"adversarial": 0.0})
    )
    assert [one.problem for one in diagnoses] == ["The codebook has collapsed"]
    assert "of 512 codes" in diagnoses[0].evidence and "restart" in diagnoses[0].cure


def test_a_discriminator_that_wins(tmp_path):
    rates = {"learning_rate": 1e-5, "discriminator_learning_rate": 1e-2}
    assert "The discriminator wins" in problems(
        first(tmp_path, optimizer=rates, loss={"adversarial_start": 1})
    )


def test_a_dead_discriminator(tmp_path):
    names = problems(
        first(
            tmp_path,
            optimizer={"discriminator_learning_rate": 1e-12},
            loss={"adversarial_start": 1},
        )
    )
    assert names == ["The discriminator is dead"]


def test_a_discriminator_that_never_starts(tmp_path):
    assert problems(first(tmp_path, loss={"adversarial_start": 1000})) == [
        "The discriminator never starts"
    ]


def test_an_adaptive_weight_at_its_clamp(tmp_path):
    """A discriminator that sees nothing: its last layer is zero, and learns nothing any more."""
    rates = {"learning_rate": 1e-6, "discriminator_learning_rate": 1e-12}
    folder = first(
        tmp_path, loss={"adversarial_start": 1}, optimizer=rates, max_steps=2, validate_every=2
    )
    last = folder / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    layers = [
        name
        for name in state["state_dict"]
        if name.startswith("loss.discriminator") and name.endswith("weight")
    ]
    state["state_dict"][layers[-1]].zero_()
    # All too bright, so that the gradients of all pixels agree
    state["state_dict"]["model.decoder.conv_out.bias"].add_(5)
    state["state_dict"]["model.decoder.norm_out.weight"].mul_(30)
    torch.save(state, last)
    plain = state["taming"]["config"]
    plain["trainer"]["max_steps"] = 62
    run.train(experiment_of(plain), folder, resume=True)
    diagnoses = {diagnosis.problem: diagnosis for diagnosis in doctor.examine(folder)}
    assert "its largest, 10000" in diagnoses["The adaptive weight is at its clamp"].evidence


@pytest.mark.parametrize("rate, word", [(0.02, "too high"), (1e-7, "too low")])
def test_an_absurd_learning_rate(tmp_path, rate, word):
    folder = first(
        tmp_path,
        optimizer={"learning_rate": rate, "warmup": 0},
        loss={"adversarial": 0.0},
        max_steps=2,
        validate_every=2,
    )
    assert problems(folder) == [
        f"The learning rate is {word} {'for Adam' if word == 'too high' else 'to learn anything'}"
    ]


def test_a_loss_that_runs_away(tmp_path):
    names = problems(
        first(
            tmp_path,
            optimizer={"learning_rate": 0.5, "warmup": 40, "final": 1.0},
            loss={"adversarial": 0.0},
        )
    )
    assert "Training diverges" in names


def test_a_prior_that_knows_no_more_than_frequencies(tmp_path):
    assert "The prior is no better than the codes' frequencies" in problems(
        second(tmp_path, optimizer={"learning_rate": 2e-6})
    )


def test_a_prior_that_overfits(tmp_path):
    folder = second(
        tmp_path,
        {"width": 64, "layers": 2, "dropout": 0.0},
        {"count": 3},
        {"learning_rate": 5e-3},
        noise=0.0,
        max_steps=160,
        validate_every=20,
    )
    cures = {diagnosis.problem: diagnosis.cure for diagnosis in doctor.examine(folder)}
    assert "best.ckpt" in cures["The prior overfits"]


def test_averaged_weights_that_remember_too_long(tmp_path):
    assert problems(first(tmp_path, ema=0.999)) == ["The averaged weights lag behind"]


def test_broken_weights(tmp_path):
    folder = first(tmp_path)
    last = folder / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    state["state_dict"]["model.decoder.conv_out.bias"][0] = torch.nan
    torch.save(state, last)
    assert problems(folder)[0] == "The weights are broken"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no metrics.csv; give the folder of a run"):
        doctor.examine(tmp_path)
