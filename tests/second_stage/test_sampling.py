import pytest
import torch

from taming.errors import UserError
from taming.second_stage import Part, filter_logits, sample
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
    assert torch.allclose(filter_logits(logits, temperature=2.0), logits / 2)


def test_ties_with_the_last_of_the_top_k_stay():
    assert filter_logits(torch.tensor([1.0, 0.0, 0.0]), top_k=2).isfinite().all()


def test_drawn_frequencies_are_the_probabilities():
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    n = 20000
    drawn = draw(probabilities.log().expand(n, 4), torch.rand(n, dtype=torch.float64), 1.0, None, None)
    counts = torch.bincount(drawn, minlength=4)
    assert counts[1] == 0
    expected = n * probabilities[[0, 2, 3]]
    assert ((counts[[0, 2, 3]] - expected) ** 2 / expected).sum() < 13.8  # chi-square, 2 degrees of freedom, p = 0.001


def test_a_sample_does_not_depend_on_its_batch():
    prior, told = small(), condition(4)
    whole = sample(prior, told, (3, 4), generators=generators(4))
    for i in range(4):
        alone = tuple(Part(p.tokens[i : i + 1], p.vocabulary, p.grid) for p in told)
        assert torch.equal(sample(prior, alone, (3, 4), generators=[torch.Generator().manual_seed(i)])[0], whole[i])


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
    doubled = sample(prior, told, (3, 4), guidance=1.0 + 1e-6, generators=generators(2))  # not 1, so both passes are run
    assert torch.equal(doubled, plain)
    assert not torch.equal(sample(prior, told, (3, 4), guidance=5.0, generators=generators(2)), plain)
    assert all(torch.equal(p.tokens, b) for p, b in zip(told, before))


def test_guidance_zero_forgets_the_condition():
    prior = small()
    a, b = (sample(prior, condition(2), (3, 4), guidance=0.0, generators=generators(2)) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("how", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 2.0}])
def test_refusals(how):
    with pytest.raises(UserError):
        sample(small(), condition(1), (3, 4), **how)
