"""A masked prior is a prior: its chain of passes sums to one, samples follow it, a bound is one."""

import itertools

import pytest
import torch

from taming.errors import UserError
from taming.second_stage import MaskedPrior, Part, sample
from taming.second_stage.interface import RecomputingDecoder
from taming.second_stage.masked import halton_order, remaining
from taming.second_stage.parallel import _middle, tiling

CLASS = [{"vocabulary": 4, "length": 1}]
PARTS = [{"vocabulary": 5, "grid": [2, 3]}, {"vocabulary": 4, "length": 1}]


def small(codes=2, grid=(2, 2), parts=CLASS, **options):
    torch.manual_seed(0)
    prior = MaskedPrior(2, 2, 8, num_codes=codes, grid=list(grid), parts=parts, **options).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return prior.double()


def class_of(count, label=2):
    return (Part(torch.full((count, 1), label), 4),)


def every_grid(height, width):
    return torch.tensor(list(itertools.product((0, 1), repeat=height * width))).view(
        -1, height, width
    )


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_probabilities_of_all_grids_sum_to_one(steps):
    prior, grids = small(grid=(2, 3), steps=steps), every_grid(2, 3)
    with torch.no_grad():
        total = prior.log_prob(grids, class_of(len(grids))).exp().sum()
    assert abs(total.item() - 1) < 1e-5  # log_prob computes in float32


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_samples_follow_the_chain(steps):
    """1,500 samples of 2 x 2 binary codes against the enumerated distribution, by chi-square."""
    prior, grids = small(steps=4), every_grid(2, 2)
    with torch.no_grad():
        logits = prior(grids, class_of(len(grids)), steps)
        p = logits.log_softmax(-1).gather(-1, grids[..., None]).flatten(1).sum(1).exp()
    drawn = sample(prior, class_of(1_500), (2, 2), steps=steps)
    counts = torch.bincount((drawn.flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16)
    statistic = ((counts - 1_500 * p).square() / (1_500 * p)).sum()
    assert statistic < 37.7  # 99.9 % of chi-square with 15 degrees of freedom


def test_logits_see_earlier_passes_only():
    prior = small(3, (3, 4), PARTS, steps=4)
    passes, codes = prior.passes((3, 4)), torch.randint(0, 3, (1, 3, 4))
    condition = Part(torch.randint(0, 6, (1, 6)), 5, (2, 3)), Part(torch.ones(1, 1).long(), 4)
    before = prior(codes, condition)
    for place in range(12):
        changed = codes.clone()
        changed.flatten()[place] = (changed.flatten()[place] + 1) % 3
        moved = (prior(changed, condition) - before).abs().amax(-1)[0] > 1e-12
        assert torch.equal(moved, passes > passes.flatten()[place])


def test_the_decoder_is_the_chain():
    prior = small(5, (3, 4), steps=5)
    codes, condition = torch.randint(0, 5, (2, 3, 4)), class_of(2)
    chain, plain = (prior.decoder(condition, (3, 4)), RecomputingDecoder(prior, condition, (3, 4)))
    for place in prior.order((3, 4)).tolist():
        assert torch.allclose(chain.logits(), plain.logits(), atol=1e-10)
        for decoder in (chain, plain):
            decoder.extend(codes.flatten(1)[:, place : place + 1])


def test_the_bound_is_above_the_mean_over_orders():
    """For two codes there are two orders; the bound is the mean of their -log p, which by convexity
    is at least -log of the mixture.
    """
    prior = small(2, (1, 2), steps=2)
    grids = every_grid(1, 2)
    condition = class_of(4)
    nothing, first = torch.tensor([[[True, True]]]), torch.tensor([[[False, True]]])
    with torch.no_grad():
        chains = []
        for hidden in (first, ~first):
            start = prior.hidden_logits(grids, nothing.expand_as(grids), condition).log_softmax(-1)
            rest = prior.hidden_logits(grids, hidden.expand_as(grids), condition).log_softmax(-1)
            shown = (~hidden).flatten().nonzero().item()
            one = start.view(4, 2, 2)[:, shown].gather(-1, grids[:, 0, shown, None])
            other = rest.gather(-1, grids[:, 0, 1 - shown, None])
            chains.append((one + other)[:, 0])
    mean = -torch.stack(chains).mean(0)
    mixture = -torch.stack(chains).exp().mean(0).log()
    many = prior.bound(grids.repeat(600, 1, 1), class_of(2_400), draws=4)
    bound = many.view(600, 4).mean(dim=0)
    assert (bound - mean).abs().max() < 0.1
    assert (mean >= mixture - 1e-9).all()


@pytest.mark.parametrize("unmasking", ["halton", "confidence"])
@pytest.mark.parametrize("grid", [(4, 6), (7, 15)])
def test_known_codes_stay_and_the_rest_sees_them_from_all_sides(unmasking, grid):
    prior = small(5, (4, 6), unmasking=unmasking)
    known, where = torch.randint(0, 5, (2, *grid)), torch.rand(2, *grid) < 0.3
    drawn = sample(prior, class_of(2), grid, guidance=1.5, known=(known, where), steps=3)
    assert torch.equal(drawn[where], known[where])


def test_a_hidden_code_sees_what_is_known_before_and_behind_it():
    prior, codes = small(5, (4, 6)), torch.randint(0, 5, (1, 4, 6))
    hidden = torch.zeros(1, 4, 6, dtype=torch.bool)
    hidden[0, 2, 3] = True
    before = prior.hidden_logits(codes, hidden, class_of(1))
    for place in range(24):
        changed = codes.clone()
        changed.flatten()[place] = (changed.flatten()[place] + 1) % 5
        moved = (prior.hidden_logits(changed, hidden, class_of(1)) - before).abs().max() > 1e-12
        assert moved == (place != 15)


@pytest.mark.parametrize("unmasking", ["halton", "confidence"])
def test_a_picture_does_not_depend_on_its_batch_or_on_how_many_windows_run_at_once(
    unmasking, monkeypatch
):
    prior, grid = small(5, (4, 4), unmasking=unmasking), (9, 6)

    def drawn(numbers):
        generators = [torch.Generator().manual_seed(i) for i in numbers]
        return sample(prior, class_of(len(numbers)), grid, generators=generators, steps=4)

    together = drawn([3, 4, 5])
    monkeypatch.setattr("taming.second_stage.parallel.WINDOWS", 3)
    assert torch.equal(drawn([4])[0], together[1])


@pytest.mark.parametrize("grid", [(16, 16), (16, 40), (21, 33), (5, 50), (47, 32)])
@pytest.mark.parametrize("step", range(5))
def test_each_code_is_one_windows_to_draw(grid, step):
    size, owners = (16, 16), torch.zeros(grid, dtype=torch.int64)
    for window in tiling(grid, size, step):
        top, left, height, width = window
        assert top >= 0 and left >= 0 and top + height <= grid[0] and left + width <= grid[1]
        owners[top : top + height, left : left + width] += _middle(window, grid, size, step)
    assert (owners == 1).all()


def test_the_tiling_moves_so_that_no_line_is_always_a_border():
    borders = [
        {left for _, left, _, _ in tiling((64, 64), (16, 16), step)} - {0} for step in range(4)
    ]
    assert set.intersection(*borders) <= {48}  # where the last window is moved inwards


def test_every_beginning_of_the_halton_order_is_spread_evenly():
    order = halton_order(16, 16)
    assert sorted(order) == list(range(256))
    quarters = torch.zeros(2, 2)
    for place in order[:64]:
        quarters[place // 16 // 8, place % 16 // 8] += 1
    assert quarters.min() >= 12
    assert sorted(halton_order(1, 7)) == list(range(7))


@pytest.mark.parametrize("count, steps", [(256, 8), (256, 1), (4, 4), (66_560, 12), (5, 3)])
def test_few_codes_come_first_and_every_pass_draws_some(count, steps):
    drawn = [a - b for a, b in zip([count, *remaining(count, steps)], remaining(count, steps))]
    assert sum(drawn) == count and min(drawn) >= 1
    assert count < 10 * steps or drawn == sorted(drawn)


def test_it_learns_what_hides():
    """Codes that are all equal: one that is seen says what the others are."""
    prior = MaskedPrior(2, 2, 16, num_codes=4, grid=[2, 4], parts=CLASS)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    for _ in range(80):
        codes = torch.randint(0, 4, (32, 1, 1)).expand(32, 2, 4)
        optimizer.zero_grad()
        prior.loss(codes, codes, class_of(32)).backward()
        optimizer.step()
    drawn = sample(prior, class_of(64), (2, 4), steps=8)
    assert (drawn == drawn[:, :1, :1]).float().mean() > 0.8
    assert len(drawn.unique()) == 4


def test_a_smaller_grid_is_drawn_as_one_window():
    assert sample(small(5, (4, 6)), class_of(1), (3, 5), steps=4).shape == (1, 3, 5)


@pytest.mark.parametrize("steps", [0, 25])
def test_steps_are_refused_where_they_are_none_or_above_the_codes(steps):
    with pytest.raises(UserError, match=f"steps {steps}"):
        sample(small(5, (4, 6)), class_of(1), (4, 6), steps=steps)
