import itertools
import json
from dataclasses import asdict, fields

import numpy as np
import pytest
import torch

from taming.errors import UserError
from taming.second_stage import GPT, Part, Sampling, filter_logits, sample
from taming.second_stage.filters import combined, schedule
from taming.second_stage.interface import RecomputingDecoder
from taming.second_stage.sampling import draw
from tests.second_stage.test_gpt import condition, small


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def test_filters_against_their_definitions():
    logits = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1]))

    def possible(**options):
        return filter_logits(logits, **options).isfinite().tolist()

    assert possible(top_k=2) == [True, True, False, False]
    assert possible(top_k=99) == [True] * 4
    assert possible(top_p=0.5) == [True, True, False, False]
    assert possible(top_p=0.4) == [True, False, False, False]
    assert possible(top_p=1e-9) == [True, False, False, False]
    assert possible(top_k=3, top_p=0.6) == [True, True, False, False]
    assert possible(min_p=0.6) == [True, True, False, False]
    assert possible(min_p=1.0) == [True, False, False, False]
    assert possible(top_p=0.95, min_p=0.4) == [True, True, True, False]
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
    prior, conditioned = small(), condition(4)
    together = sample(prior, conditioned, (3, 4), generators=generators(4))
    for i in range(4):
        alone = tuple(Part(p.tokens[i : i + 1], p.vocabulary, p.grid) for p in conditioned)
        assert torch.equal(
            sample(prior, alone, (3, 4), generators=[torch.Generator().manual_seed(i)])[0],
            together[i],
        )


def test_greedy_takes_the_most_probable_given_what_was_taken():
    prior, conditioned = small(), condition(2)
    codes = sample(prior, conditioned, (3, 4), temperature=0)
    with torch.no_grad():
        assert torch.equal(prior(codes, conditioned).argmax(-1), codes)


def test_known_codes_stay_and_are_read():
    prior, conditioned = small(), condition(2)
    known, where = torch.randint(0, 7, (2, 3, 4)), torch.zeros(2, 3, 4, dtype=torch.bool)
    where[:, 0] = True
    codes = sample(prior, conditioned, (3, 4), temperature=0, known=(known, where))
    assert torch.equal(codes[:, 0], known[:, 0])
    with torch.no_grad():
        assert torch.equal(prior(codes, conditioned).argmax(-1)[:, 1:], codes[:, 1:])


def test_guidance_one_changes_nothing_and_inputs_stay_untouched():
    prior, conditioned = small(), condition(2)
    before = [p.tokens.clone() for p in conditioned]
    plain = sample(prior, conditioned, (3, 4), generators=generators(2))
    # Not 1, so both passes are run
    doubled = sample(prior, conditioned, (3, 4), guidance=1.0 + 1e-6, generators=generators(2))
    assert torch.equal(doubled, plain)
    assert not torch.equal(
        sample(prior, conditioned, (3, 4), guidance=5.0, generators=generators(2)), plain
    )
    assert all(torch.equal(p.tokens, b) for p, b in zip(conditioned, before))


def test_guidance_zero_forgets_the_condition():
    prior = small()
    a, b = (
        sample(prior, condition(2), (3, 4), guidance=0.0, generators=generators(2))
        for _ in range(2)
    )
    assert torch.equal(a, b)


WRONG = {
    "temperature": (-1, float("nan"), float("inf"), "warm", None, True),
    "top_k": (0, -3, 2.5, "all"),
    "top_p": (0.0, 2.0, -1, float("nan"), "p"),
    "min_p": (-0.1, 1.5, float("nan")),
    "guidance": (float("nan"), float("inf"), None, "strong"),
    "hop": (0, -1, 1.5, None),
    "accept": (0.0, 1.5, float("nan")),
    "seed": (1.5, "one", 2**70, 10**400),
    "size": ((0, 4), (4,), (4, 4, 4), "8x8", (4.5, 4), -1),
    "classifier": (3,),
    "steps": (0, -1, 1.5),
    "precision": ("half", "16", None, 32),
    "fast": ("int4", None, 8, True),
    "guidance_second": (float("nan"), "strong"),
    "guidance_schedule": ("steep", None, 1),
    "guidance_power": (0, -1.0, float("nan")),
    "guidance_from": (-0.1, 1.1, None),
    "guidance_to": (-0.1, 1.1, "end"),
    "guidance_labels": (3.0, {"sky": "much"}, {"sky": float("nan")}, ["sky"]),
}


def test_every_field_is_tried():
    assert WRONG.keys() == {field.name for field in fields(Sampling)}


@pytest.mark.parametrize(
    "name, value", [(name, value) for name, values in WRONG.items() for value in values]
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(UserError, match=f"^{name} .* should be "):
        Sampling(**{name: value}).check()
    with pytest.raises(UserError, match=f"^{name} "):
        sample(small(), condition(1), (3, 4), **{name: value})


def test_fields_that_do_not_exist_are_refused():
    with pytest.raises(UserError, match="no 'temprature'; did you mean 'temperature'"):
        sample(small(), condition(1), (3, 4), temprature=1.0)


def test_filters_of_nothing_are_refused():
    with pytest.raises(UserError, match="temperature 0 is greedy"):
        filter_logits(torch.zeros(3), temperature=0)


def test_settings_go_through_json_and_numpy():
    settings = Sampling(
        (np.int64(3), 4),
        np.int64(7),
        np.float32(0.5),
        np.int32(4),
        0.5,
        0.25,
        2,
        3,
        0.5,
        "resnet50",
    )
    settings.check()
    assert Sampling(**json.loads(json.dumps(asdict(settings)))) == settings
    assert Sampling(size=5).size == (5, 5)


def test_changes_are_made_on_a_copy():
    settings = Sampling(top_k=3)
    assert Sampling.of(settings, seed=4) == Sampling(top_k=3, seed=4)
    assert settings == Sampling(top_k=3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"recompute": True},
        {"guidance": 1.7},
        {"temperature": 1.6, "top_p": 0.8},
        {"min_p": 0.5},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_frequencies_of_whole_grids_are_their_probabilities(options, monkeypatch):
    """20,000 samples of a prior over 2 x 2 grids of 2 codes against the enumerated distribution,
    filters and guidance included (chi-square, p = 0.001).
    """
    options = dict(options)
    prior = small(num_codes=2, grid=(2, 2), parts=[{"vocabulary": 3, "length": 1}])
    if options.pop("recompute", False):
        monkeypatch.setattr(
            GPT, "decoder", lambda self, condition, grid: RecomputingDecoder(self, condition, grid)
        )
    count, grids = 20000, torch.tensor(list(itertools.product((0, 1), repeat=4)))

    def conditioned(n):
        return (Part(torch.ones(n, 1, dtype=torch.int64), 3),)

    with torch.no_grad():
        logits = prior(grids.view(-1, 2, 2), conditioned(16)).flatten(1, 2)
        null = prior(grids.view(-1, 2, 2), tuple(p.null() for p in conditioned(16))).flatten(1, 2)
    guidance = options.get("guidance", 1.0)
    logits = filter_logits(
        null + guidance * (logits - null), **{k: v for k, v in options.items() if k != "guidance"}
    )
    expected = logits.softmax(-1).gather(-1, grids[..., None])[..., 0].prod(1).double() * count
    drawn = sample(
        prior, conditioned(count), (2, 2), generators=generators(count), **options
    ).flatten(1)
    counts = torch.bincount((drawn * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16).double()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    statistic, freedom = (
        ((counts - expected)[possible] ** 2 / expected[possible]).sum(),
        torch.tensor(float(possible.sum() - 1)),
    )
    assert (
        1 < possible.sum() and torch.special.gammaincc(freedom / 2, statistic.float() / 2) > 0.001
    )


def test_each_step_is_announced_and_may_end_the_drawing():
    steps = []
    sample(small(), condition(1), (2, 3), on_step=lambda done, total: steps.append((done, total)))
    assert steps == [(i, 6) for i in range(6)]

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(small(), condition(1), (2, 3), on_step=stop)


def test_guidance_follows_its_schedule():
    def strengths(**changes):
        sampling = Sampling(guidance=5.0, **changes)
        shares = [schedule(sampling, progress) for progress in (0, 0.25, 0.5, 1)]
        return [round(1 + 4 * share, 6) for share in shares]

    assert strengths() == [5, 5, 5, 5]
    assert strengths(guidance_schedule="linear") == [1, 2, 3, 5]
    assert strengths(guidance_schedule="cosine") == [1, 1.585786, 3, 5]
    late = strengths(guidance_schedule="cosine", guidance_power=2.75)
    assert late[0] == 1 and late[-1] == 5 and late[2] < 1.5
    assert strengths(guidance_from=0.2, guidance_to=0.5) == [1, 5, 5, 1]


def test_guidance_of_an_interval_leaves_the_codes_before_it_alone():
    prior, conditioned = small(), condition(2)
    plain = sample(prior, conditioned, (3, 4), generators=generators(2))
    late = sample(
        prior, conditioned, (3, 4), guidance=8.0, guidance_from=0.5, generators=generators(2)
    )
    assert torch.equal(late.flatten(1)[:, :6], plain.flatten(1)[:, :6])
    assert not torch.equal(late, plain)


def test_codes_may_be_guided_each_by_its_own_strength():
    logits = torch.randn(4, 5)  # two pictures, and their null conditions
    conditioned, null = logits.chunk(2)
    mixed = combined(logits, Sampling(guidance=2.0), 1.0, torch.tensor([3.0, 1.0]))
    assert torch.allclose(mixed[0], null[0] + 3 * (conditioned[0] - null[0]))
    assert torch.allclose(mixed[1], conditioned[1])
