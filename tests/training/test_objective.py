"""What else a prior may learn: each term means what it says, and resumes exactly."""

import pytest
import torch
import torch.nn.functional as F

from taming.config.experiment import Objective
from taming.errors import UserError
from taming.first_stage import VQGAN, VectorQuantizer
from taming.second_stage import GPT, GatedPixelCNN, Part, sample
from taming.training.objective import (
    Objectives,
    cluster_loss,
    embeddings_of,
    losses_of,
    nearest_means,
)
from tests.conftest import second_stage_plain
from tests.training.conftest import assert_resumes_exactly

PARTS = [{"vocabulary": 3, "grid": [3, 4]}]


def prior(**options) -> GPT:
    torch.manual_seed(0)
    return GPT(4, 2, 16, condition="added", num_codes=8, grid=[3, 4], parts=PARTS, **options)


def tokenizer():
    return VQGAN(8, [1, 2, 2], VectorQuantizer(8, 4), blocks=1, latent_channels=8)


def batch(count=4):
    codes = torch.randint(0, 8, (count, 3, 4))
    return codes, (Part(torch.randint(0, 4, (count, 12)), 3, (3, 4)),)


def test_without_weights_it_is_the_prior_s_loss():
    model, (codes, condition) = prior(), batch()
    objective = Objectives(Objective(), model, tokenizer(), 0)
    assert torch.equal(
        objective(model, codes, codes, condition, 0.5), model.loss(codes, codes, condition)
    )
    assert not list(objective.state_dict())


def test_the_loss_of_a_cluster_is_that_of_the_sum_of_its_codes():
    logits, codes = torch.randn(2, 3, 4, 8), torch.randint(0, 8, (2, 3, 4))
    clusters = torch.arange(8) // 4
    p = logits.softmax(-1)
    halves = torch.stack([p[..., :4].sum(-1), p[..., 4:].sum(-1)], -1).log()
    expected = F.nll_loss(halves.flatten(0, 2), clusters[codes].flatten())
    assert torch.allclose(cluster_loss(logits, codes, clusters), expected, atol=1e-6)
    assert torch.allclose(
        cluster_loss(logits, codes, torch.arange(8)),
        F.cross_entropy(logits.flatten(0, 2), codes.flatten()),
        atol=1e-6,
    )


def test_clusters_are_of_like_codes_and_the_same_for_a_seed():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    vectors = centres.repeat_interleave(20, 0) + torch.randn(60, 2)
    for seed in range(20):  # k-means may end elsewhere from an unlucky start
        groups = nearest_means(vectors, 3, seed)
        assert torch.equal(groups, nearest_means(vectors, 3, seed))
        if all(len(groups[i : i + 20].unique()) == 1 for i in (0, 20, 40)):
            break
    else:
        raise AssertionError("no seed finds three clear clusters")


def test_embeddings_are_the_codebook():
    first = tokenizer()
    codes = torch.randint(0, 8, (1, 2, 3))
    assert torch.allclose(
        first.embed((codes,))[0, :, 1, 2], embeddings_of(first)[codes[0, 1, 2]], atol=1e-6
    )


def test_hidden_states_learn_the_code_that_was_read_and_the_next():
    """The shallow regression can be solved, since the code is in what is read; gradients reach the
    blocks below.
    """
    model, (codes, condition) = prior(), batch(16)
    objective = Objectives(Objective(regression=1.0), model, tokenizer(), 0)
    _, states = model.logits_and_states(codes, condition, None, [0, 2])
    assert [tuple(state.shape) for state in states] == [(16, 12, 16)] * 2
    optimizer = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective(model, codes, codes, condition, 0.0)
        loss.backward()
        optimizer.step()
        losses.append(float(loss - model.loss(codes, codes, condition)))
    assert losses[-1] < 0.7 * losses[0]


def test_a_random_order_sees_the_codes_read_before_only():
    model, (codes, condition) = prior().eval(), batch(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    order = torch.randperm(12)
    before, _ = model.logits_and_states(codes, condition, order)
    for step, place in enumerate(order.tolist()):
        changed = codes.clone()
        changed.flatten()[place] = (changed.flatten()[place] + 1) % 8
        after, _ = model.logits_and_states(changed, condition, order)
        moved = (after - before).abs().amax(-1).flatten()[order] > 1e-6
        assert not moved[: step + 1].any() and moved[step + 1 :].all()
    decoder = model.decoder(condition, (3, 4), order)
    for place in order.tolist():
        assert torch.allclose(decoder.logits()[0], before.flatten(1, 2)[0, place], atol=1e-5)
        decoder.extend(codes.flatten(1)[:, place : place + 1])


def test_the_prior_s_own_order_is_one_of_them():
    model, (codes, condition) = prior().eval(), batch(2)
    raster = torch.arange(12)
    assert torch.allclose(
        model.logits_and_states(codes, condition, raster)[0], model(codes, condition), atol=1e-6
    )


def test_random_orders_become_raster():
    objective = Objectives(Objective(random_order=1.0), prior(), tokenizer(), 0)
    codes = torch.zeros(1, 3, 4)
    counts = []
    for progress in (0.0, 0.5, 1.0):
        orders = [objective.order(codes, progress) for _ in range(200)]
        counts.append(sum(order is not None for order in orders))
    assert counts[0] == 200 and 60 < counts[1] < 140 and counts[2] == 0


def test_alignment_prefers_the_own_condition():
    """After a few steps codes are likelier under their condition than under another picture's, and
    at the start the loss is 2 log 2.
    """
    model, (codes, condition) = prior(), batch(8)
    objective = Objectives(Objective(alignment=0.1), model, tokenizer(), 0)
    start = objective(model, codes, codes, condition, 0.0)
    assert torch.allclose(start, torch.tensor(2.0).log() * 2, atol=1e-4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        objective(model, codes, codes, condition, 0.0).backward()
        optimizer.step()
    wrong = tuple(part.rolled() for part in condition)
    with torch.no_grad():
        assert (losses_of(model, codes, condition) < losses_of(model, codes, wrong)).all()


@pytest.mark.parametrize(
    "objective",
    [
        {"regression": 0.5, "cluster_weight": 0.2, "clusters": 4, "random_order": 1.0},
        pytest.param({"noise_end": 0.3}, marks=pytest.mark.slow),
        pytest.param({"alignment": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_a_run_resumes_bit_identical(trained, objective, tmp_path, monkeypatch):
    root, _ = trained
    plain = second_stage_plain(root / "first", max_steps=5, checkpoint_every=2)
    plain["model"]["params"]["prior"]["params"] |= {"condition": "added"}
    plain["objective"] = objective
    assert_resumes_exactly(monkeypatch, plain, tmp_path, micro_batch=4)


@pytest.mark.parametrize(
    "objective, words",
    [
        ({"regression": 1.0}, "for a GPT, not a GatedPixelCNN"),
        ({"cluster_weight": 1.0}, "for a GPT, not a GatedPixelCNN"),
        ({"random_order": 1.0}, "for a GPT, not a GatedPixelCNN"),
    ],
)
def test_what_a_prior_can_t_learn_is_refused(objective, words):
    model = GatedPixelCNN(1, 8, num_codes=8, grid=[3, 4], parts=PARTS)
    with pytest.raises(UserError, match=words):
        Objectives(Objective(**objective), model, tokenizer(), 0)


def test_random_orders_need_to_know_the_next_place():
    model = GPT(1, 2, 8, num_codes=8, grid=[3, 4], parts=PARTS)
    with pytest.raises(UserError, match="condition: added"):
        Objectives(Objective(random_order=0.5), model, tokenizer(), 0)


def test_a_hole_is_filled_seeing_all_sides_where_the_order_says_so():
    model, (_, condition) = prior().eval(), batch(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    hole = torch.zeros(1, 3, 4, dtype=torch.bool)
    hole[0, 1, 1] = True
    order = (~hole).flatten().long().argsort(descending=True, stable=True)
    drawn = set()
    for last in range(8):
        known = torch.zeros(1, 3, 4, dtype=torch.int64)
        known[0, 2, 3] = last
        codes = sample(model, condition, (3, 4), temperature=0, known=(known, ~hole), order=order)
        drawn.add(int(codes[0, 1, 1]))
    assert len(drawn) > 1
