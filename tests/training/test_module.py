"""All counts are batches; clipping, accumulation, averages and schedule do what they say."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from taming.config.experiment import Optimizer
from taming.errors import UserError
from taming.evaluation.metrics import read_metrics
from taming.first_stage import VQGANLoss
from taming.formats.load import load
from taming.training import run
from taming.training.first_stage import FirstStageTraining
from taming.training.module import Training, schedule
from tests.conftest import experiment_of, first_stage_plain, mask_stage_plain
from tests.training.conftest import content


def test_a_batch_is_one_optimizer_step_with_two_optimizers_and_accumulation(tmp_path, monkeypatch):
    steps = []
    original = torch.optim.AdamW.step

    def step(self, *a, **k):
        steps.append(len(self.param_groups[0]["params"]))
        return original(self, *a, **k)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    plain = first_stage_plain(accumulate_grad_batches=3, max_steps=5)
    run.train(experiment_of(plain), tmp_path / "run")
    generator = max(set(steps), key=steps.count)
    # The discriminator starts at batch 3
    assert steps.count(generator) == 5 and len(steps) == 5 + 2
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert {batch for batch, name, _ in rows if name == "train/total"} == {1, 2, 3, 4, 5}


def test_accumulated_gradient_is_that_of_the_large_batch(tmp_path, monkeypatch):
    """Without normalisation by batch (no discriminator), 2 x 2 pictures give the gradient of 4."""
    gradients = []

    def step(self, *a, **k):
        gradients.append([p.grad.clone() for p in self.param_groups[0]["params"]])

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    for size, accumulate in ((4, 1), (2, 2)):
        plain = mask_stage_plain(accumulate_grad_batches=accumulate, max_steps=1)
        plain["data"] |= {"batch_size": size}
        run.train(experiment_of(plain), tmp_path / str(size))
    scale = max(g.abs().max() for g in gradients[0])
    assert all((a - b).abs().max() < 1e-4 * scale for a, b in zip(*gradients))


def test_a_codebook_counts_batches_and_not_their_parts(tmp_path):
    """`restart: 2` acts every second batch with any accumulation."""
    for accumulate in (1, 4):
        plain = first_stage_plain(accumulate_grad_batches=accumulate, max_steps=3)
        run.train(experiment_of(plain), tmp_path / str(accumulate))
    counts = [content(tmp_path / name)["state_dict"]["model.quantizer.batches"] for name in "14"]
    assert int(counts[0]) == int(counts[1])


def test_gradients_are_clipped(tmp_path, monkeypatch):
    norms = []
    original = torch.optim.AdamW.step

    def step(self, *a, **k):
        parameters = [p for group in self.param_groups for p in group["params"]]
        parts = [p.grad.norm() for p in parameters if p.grad is not None]
        norms.append(torch.stack(parts).norm().item())
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
    averaged = state["taming"]["averaged"][f"averaged.{name}"]
    assert not torch.equal(averaged, state["state_dict"][f"model.{name}"])
    assert torch.equal(load(root / "first").state_dict()[name], averaged)


def test_a_loss_that_is_not_finite_stops_with_the_term_and_the_last_good_checkpoint(
    tmp_path, monkeypatch
):
    original = Training._refuse_nonfinite

    def poisoned(self, terms):
        original(self, {**terms, "l1": torch.tensor(torch.nan)} if self.batches == 5 else terms)

    monkeypatch.setattr(Training, "_refuse_nonfinite", poisoned)
    with pytest.raises(UserError, match=r"l1 became nan at batch 6.*last\.ckpt"):
        run.train(experiment_of(first_stage_plain()), tmp_path / "run")
    assert content(tmp_path / "run")["taming"]["batches"] == 4, "the doubtful one is not saved"


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


@pytest.mark.parametrize("share", [True, False])
def test_sharing_the_forward_changes_what_the_discriminator_sees_and_nothing_before_it(
    tmp_path, share, trained
):
    run.train(experiment_of(first_stage_plain(share_forward=share, ema=0.9)), tmp_path / "run")
    rows, others = content(tmp_path / "run")["rows"], content(trained[0] / "first")["rows"]

    def early(rows):
        return [row for row in rows if row[0] <= 3 and row[1].startswith("train/")]

    assert early(rows) == early(others)
    assert (rows == others) == share


def test_frozen_codes_stay_while_the_decoder_learns(tmp_path):
    run.train(experiment_of(first_stage_plain(ema=0.9)), tmp_path / "first")
    before = load(tmp_path / "first")
    plain = first_stage_plain(ema=0.9, freeze_codes=True)
    run.train(experiment_of(plain), tmp_path / "again", start_from=tmp_path / "first")
    after = load(tmp_path / "again")
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    codes = before.encode(image)[0]
    assert torch.equal(codes, after.encode(image)[0])
    assert not torch.equal(before.decode((codes,)), after.decode((codes,)))
    weights = before.state_dict()
    changed = {name for name, value in after.state_dict().items() if not value.equal(weights[name])}
    assert changed and {name.split(".")[0] for name in changed} <= {"decoder", "post_quant_conv"}


def test_a_decoder_learns_from_disturbed_codes_and_the_codes_stay(tmp_path):
    run.train(experiment_of(first_stage_plain(ema=0.9)), tmp_path / "first")
    outcomes = {}
    for share in (0.0, 0.5):
        plain = first_stage_plain(freeze_codes=True, perturb_codes=share)
        folder = tmp_path / str(share)
        run.train(experiment_of(plain), folder, start_from=tmp_path / "first")
        outcomes[share] = load(folder)
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    codes = [model.encode(image)[0] for model in outcomes.values()]
    assert torch.equal(*codes)
    plain, disturbed = (model.decode((codes[0],)) for model in outcomes.values())
    assert not torch.equal(plain, disturbed)


def test_disturbing_a_whole_first_stage_is_over_when_training_ends(tmp_path):
    """The share falls to 0: in the last of many batches as good as nothing is disturbed."""
    run.train(experiment_of(first_stage_plain(perturb_codes=0.5)), tmp_path / "run")
    training = FirstStageTraining(
        experiment_of(first_stage_plain(perturb_codes=0.5, max_steps=100)),
        load(tmp_path / "run"),
        VQGANLoss("none", adversarial=0),
    )
    codes = torch.randint(training.model.num_codes[0], (64, 16, 16))
    shares = []
    for batch in (0, 50, 99):
        training.batches = batch
        (other,) = training._perturbed((codes,))
        shares.append(float((other != codes).float().mean()))
    assert shares == pytest.approx([0.5, 0.25, 0.005], abs=0.01)


def test_a_model_without_codes_has_none_to_freeze(tmp_path):
    plain = first_stage_plain(freeze_codes=True)
    likelihood = {"target": "taming.first_stage.GaussianLikelihood"}
    params = {"width": 8, "residual_width": 8, "dim": 4, "likelihood": likelihood}
    plain["model"] = {"target": "taming.first_stage.VAE", "params": params}
    plain["loss"] = {"target": "taming.first_stage.LikelihoodLoss"}
    with pytest.raises(UserError, match=r"trainer\.freeze_codes: a VAE has no codes"):
        run.train(experiment_of(plain), tmp_path / "run")
    plain["trainer"] |= {"freeze_codes": False, "perturb_codes": 0.5}
    with pytest.raises(UserError, match=r"trainer\.perturb_codes: a VAE has no codes"):
        run.train(experiment_of(plain), tmp_path / "run")


def test_one_look_at_all_terms_of_a_batch():
    """Whether numbers are finite is asked of the device once for all, not once for each: on a GPU
    each question waits for all work that was begun.
    """
    looks = []

    class Looks(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            if function is torch.ops.aten._local_scalar_dense.default:
                looks.append(function)
            return function(*arguments, **(keywords or {}))

    terms = {f"term {i}": torch.tensor(float(i)) for i in range(9)}
    with Looks():
        Training._refuse_nonfinite(Training.__new__(Training), terms)
    assert len(looks) == 1
