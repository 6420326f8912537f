import itertools

import pytest
import torch

from taming.errors import UserError
from taming.second_stage import GatedPixelCNN, Part, sample

PARTS = [{"vocabulary": 5, "grid": [2, 3]}, {"vocabulary": 4, "length": 2}]


def small(num_codes=5, parts=PARTS, layers=6, kernel=3):
    prior = GatedPixelCNN(num_codes, [4, 6], parts, layers, 12, kernel).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return prior.double()


def condition(batch=1):
    return (Part(torch.randint(0, 6, (batch, 6)), 5, (2, 3)), Part(torch.randint(0, 5, (batch, 2)), 4))


@pytest.mark.parametrize("grid", [(4, 6), (6, 4), (5, 5), (1, 7), (7, 1)])
def test_each_code_moves_all_later_logits_and_no_others(grid):
    """Causal, and without a blind spot: with enough layers everything before is seen."""
    prior, told = small(), condition()
    codes = torch.randint(0, 5, (1, *grid))
    count = grid[0] * grid[1]
    with torch.no_grad():
        before = prior(codes, told).flatten(1, 2)
        for i in range(count):
            changed = codes.clone()
            changed.view(-1)[i] = (changed.view(-1)[i] + 1) % 5
            moved = (prior(changed, told).flatten(1, 2) - before).abs().amax(-1)[0] > 1e-13
            assert not moved[: i + 1].any() and moved[i + 1 :].all()


@pytest.mark.parametrize("parts", [[{"vocabulary": 1, "length": 1}], [{"vocabulary": 3, "grid": [3, 3]}]])
def test_probabilities_of_all_grids_sum_to_one(parts):
    prior = small(2, parts, layers=3)
    grids = torch.tensor(list(itertools.product((0, 1), repeat=9))).view(-1, 3, 3)
    raster = parts[0].get("grid")
    tokens = torch.randint(0, parts[0]["vocabulary"], (1, 9 if raster else 1)).expand(len(grids), -1)
    told = (Part(tokens, parts[0]["vocabulary"], (3, 3) if raster else None),)
    with torch.no_grad():
        logits = prior(grids, told).log_softmax(-1).gather(-1, grids[..., None])
    assert abs(logits.flatten(1).sum(1).exp().sum().item() - 1) < 1e-9


def test_every_condition_token_is_heard():
    prior, told = small(), condition()
    codes = torch.randint(0, 5, (1, 4, 6))
    with torch.no_grad():
        before = prior(codes, told)
        for p, part in enumerate(told):
            for i in range(part.tokens.shape[1]):
                tokens = part.tokens.clone()
                tokens[0, i] = (tokens[0, i] + 1) % (part.vocabulary + 1)
                changed = told[:p] + (Part(tokens, part.vocabulary, part.grid),) + told[p + 1 :]
                assert ((prior(codes, changed) - before).abs().amax() > 1e-9).all()


def test_sampling_is_ancestral_with_guidance_and_known_codes():
    prior, told = small(), condition(2)
    greedy = sample(prior, told, (4, 6), temperature=0)
    with torch.no_grad():
        assert torch.equal(prior(greedy, told).argmax(-1), greedy)
    known, where = torch.randint(0, 5, (2, 4, 6)), torch.rand(2, 4, 6) < 0.3
    drawn = sample(prior, told, (4, 6), guidance=1.5, known=(known, where))
    assert torch.equal(drawn[where], known[where])


def test_refusals():
    with pytest.raises(UserError, match="another conditioner"):
        small()(torch.zeros(1, 4, 6, dtype=torch.int64), condition()[:1])
    with pytest.raises(ValueError, match="odd"):
        GatedPixelCNN(4, [2, 2], PARTS, 1, 8, kernel=4)
