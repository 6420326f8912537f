import itertools

import pytest
import torch

from taming.errors import UserError
from taming.second_stage import GPT, Part, Sampling, filter_logits, sample
from taming.second_stage.interface import RecomputingDecoder
from taming.second_stage.sampling import draw
from tests.second_stage.test_gpt import condition, small


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def test_filters_against_their_definitions():
    logits = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    kept = lambda **how: filter_logits(logits, **how).isfinite().tolist()  # noqa: E731
    assert kept(top_k=2) == [True, True, False, False]
    assert kept(top_k=99) == [True] * 4
    assert kept(top_p=0.5) == [True, True, False, False]
    assert kept(top_p=0.4) == [True, False, False, False]
    assert kept(top_p=1e-9) == [True, False, False, False]
    assert kept(top_k=3, top_p=0.6) == [True, True, False, False]
    assert kept(min_p=0.6) == [True, True, False, False]
    assert kept(min_p=1.0) == [True, False, False, False]
    assert kept(top_p=0.95, min_p=0.4) == [True, True, True, False]
    assert torch.allclose(filter_logits(logits, temperature=2.0), logits / 2)


def test_ties_with_the_last_of_the_top_k_stay():
    assert filter_logits(torch.tensor([1.0, 0.0, 0.0]), top_k=2).isfinite().all()


def test_drawn_frequencies_are_the_probabilities():
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    n = 20000
    drawn = draw(probabilities.log().expand(n, 4), torch.rand(n, dtype=torch.float64), Sampling())
    counts = torch.bincount(drawn, minlength=4)
    assert counts[1] == 0
    expected = n * probabilities[[0, 2, 3]]
    # Chi-square, 2 degrees of freedom, p = 0.001
    assert ((counts[[0, 2, 3]] - expected) ** 2 / expected).sum() < 13.8


def test_a_sample_does_not_depend_on_its_batch():
    prior, told = small(), condition(4)
    whole = sample(prior, told, (3, 4), generators=generators(4))
    for i in range(4):
        alone = tuple(Part(p.tokens[i : i + 1], p.vocabulary, p.grid) for p in told)
        assert torch.equal(
            sample(prior, alone, (3, 4), generators=[torch.Generator().manual_seed(i)])[0], whole[i]
        )


def test_greedy_takes_the_most_probable_given_what_was_taken():
    prior, told = small(), condition(2)
    codes = sample(prior, told, (3, 4), temperature=0)
    with torch.no_grad():
        assert torch.equal(prior(codes, told).argmax(-1), codes)


def test_known_codes_are_kept_and_seen():
    prior, told = small(), condition(2)
    known, where = torch.randint(0, 7, (2, 3, 4)), torch.zeros(2, 3, 4, dtype=torch.bool)
    where[:, 0] = True
    codes = sample(prior, told, (3, 4), temperature=0, known=(known, where))
    assert torch.equal(codes[:, 0], known[:, 0])
    with torch.no_grad():
        assert torch.equal(prior(codes, told).argmax(-1)[:, 1:], codes[:, 1:])


def test_guidance_one_changes_nothing_and_inputs_stay_untouched():
    prior, told = small(), condition(2)
    before = [p.tokens.clone() for p in told]
    plain = sample(prior, told, (3, 4), generators=generators(2))
    # Not 1, so both passes are run
    doubled = sample(prior, told, (3, 4), guidance=1.0 + 1e-6, generators=generators(2))
    assert torch.equal(doubled, plain)
    assert not torch.equal(
        sample(prior, told, (3, 4), guidance=5.0, generators=generators(2)), plain
    )
    assert all(torch.equal(p.tokens, b) for p, b in zip(told, before))


def test_guidance_zero_forgets_the_condition():
    prior = small()
    a, b = (
        sample(prior, condition(2), (3, 4), guidance=0.0, generators=generators(2))
        for _ in range(2)
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("how", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 2.0}])
def test_refusals(how):
    with pytest.raises(UserError):
        sample(small(), condition(1), (3, 4), **how)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"recompute": True},
        {"guidance": 1.7},
        {"temperature": 1.6, "top_p": 0.8},
        {"min_p": 0.5},
    ],
    ids=lambda how: " ".join(how) or "plain",
)
def test_frequencies_of_whole_grids_are_their_probabilities(how, monkeypatch):
    """20,000 samples of a prior over 2 x 2 grids of 2 codes against the enumerated distribution,
    filters and guidance included (chi-square, p = 0.001).
    """
    how = dict(how)
    prior = small(num_codes=2, grid=(2, 2), parts=[{"vocabulary": 3, "length": 1}])
    if how.pop("recompute", False):
        monkeypatch.setattr(
            GPT, "decoder", lambda self, condition, grid: RecomputingDecoder(self, condition, grid)
        )
    count, grids = 20000, torch.tensor(list(itertools.product((0, 1), repeat=4)))
    told = lambda n: (Part(torch.ones(n, 1, dtype=torch.int64), 3),)  # noqa: E731
    with torch.no_grad():
        logits = prior(grids.view(-1, 2, 2), told(16)).flatten(1, 2)
        silent = prior(grids.view(-1, 2, 2), tuple(p.null() for p in told(16))).flatten(1, 2)
    guidance = how.get("guidance", 1.0)
    logits = filter_logits(
        silent + guidance * (logits - silent), **{k: v for k, v in how.items() if k != "guidance"}
    )
    expected = logits.softmax(-1).gather(-1, grids[..., None])[..., 0].prod(1).double() * count
    drawn = sample(prior, told(count), (2, 2), generators=generators(count), **how).flatten(1)
    seen = torch.bincount((drawn * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16).double()
    possible = expected > 0
    assert seen[~possible].sum() == 0
    statistic, freedom = (
        ((seen - expected)[possible] ** 2 / expected[possible]).sum(),
        torch.tensor(float(possible.sum() - 1)),
    )
    assert (
        1 < possible.sum() and torch.special.gammaincc(freedom / 2, statistic.float() / 2) > 0.001
    )
