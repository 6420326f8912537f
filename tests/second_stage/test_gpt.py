import itertools
import math

import pytest
import torch

from taming.errors import UserError
from taming.second_stage import GPT, MaskedPrior, Part, compiled, sample
from taming.second_stage.gpt import sine_code
from taming.second_stage.interface import RecomputingDecoder
from tests.second_stage.changes import each_token_changed

PARTS = [{"vocabulary": 5, "grid": [2, 3]}, {"vocabulary": 4, "length": 1}]


def small(num_codes=7, grid=(3, 4), parts=PARTS):
    prior = GPT(
        num_codes=num_codes, grid=list(grid), parts=parts, layers=2, heads=2, width=16
    ).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            # Far from the start, so that nothing is hidden by small numbers
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior


def condition(batch=2):
    return (
        Part(torch.randint(0, 6, (batch, 6)), 5, (2, 3)),
        Part(torch.randint(0, 5, (batch, 1)), 4),
    )


def test_changing_a_code_moves_later_logits_only():
    prior, conditioned = small(), condition(1)
    codes = torch.randint(0, 7, (1, 3, 4))
    before = prior(codes, conditioned).flatten(1, 2)
    for i in range(12):
        changed = codes.clone()
        changed.flatten()[i] = (changed.flatten()[i] + 1) % 7
        moved = (prior(changed, conditioned).flatten(1, 2) - before).abs().amax(dim=-1)[0] > 1e-6
        assert not moved[: i + 1].any() and moved[i + 1 :].all()


def test_every_condition_token_counts_everywhere():
    prior, conditioned = small(), condition(1)
    codes = torch.randint(0, 7, (1, 3, 4))
    before = prior(codes, conditioned)
    for changed in each_token_changed(conditioned):
        assert ((prior(codes, changed) - before).abs().amax(dim=-1) > 1e-6).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_cached_equals_uncached_at_every_prefix(batch):
    prior, conditioned = small(), condition(batch)
    codes = torch.randint(0, 7, (batch, 3, 4))
    with torch.no_grad():
        expected = prior(codes, conditioned).flatten(1, 2)
        for decoder in (
            prior.decoder(conditioned, (3, 4)),
            RecomputingDecoder(prior, conditioned, (3, 4)),
        ):
            for i in range(12):
                assert torch.allclose(decoder.logits(), expected[:, i], atol=1e-5)
                if i < 11:
                    decoder.extend(codes.flatten(1)[:, i : i + 1])


def test_probabilities_of_all_grids_sum_to_one():
    prior = small(num_codes=2, grid=(3, 3), parts=[{"vocabulary": 1, "length": 1}]).double()
    grids = torch.tensor(list(itertools.product((0, 1), repeat=9))).view(-1, 3, 3)
    conditioned = (Part(torch.zeros(len(grids), 1, dtype=torch.int64), 1),)
    with torch.no_grad():
        logits = prior(grids, conditioned).log_softmax(-1).gather(-1, grids[..., None])
    assert abs(logits.flatten(1).sum(1).exp().sum().item() - 1) < 1e-9


def test_log_prob_is_in_nats():
    prior, conditioned, codes = small(), condition(), torch.randint(0, 7, (2, 3, 4))
    with torch.no_grad():
        prior.head.weight.zero_()
        assert torch.allclose(
            prior.log_prob(codes, conditioned), torch.full((2,), -12 * math.log(7))
        )


def test_a_smaller_grid_is_placed_by_row_and_column():
    prior = small()
    raster = prior.pos_emb[0, 7:].view(3, 4, 16)
    assert torch.equal(prior.code_positions((2, 3))[0].view(2, 3, 16), raster[:2, :3])


def test_rasters_of_different_fineness_begin_with_agreeing_positions():
    """The code that lies over a mask token is nearer to it than to any token away from it."""
    fine, coarse = sine_code((8, 8), 64).view(8, 8, 64), sine_code((4, 4), 64).view(4, 4, 64)
    for r, c in itertools.product(range(8), range(8)):
        distances = (fine[r, c] - coarse).norm(dim=-1)
        assert distances.argmin() == (r // 2) * 4 + c // 2


def test_refusals():
    prior = small()
    with pytest.raises(UserError, match=r"another conditioner"):
        prior(torch.zeros(2, 3, 4, dtype=torch.int64), condition()[:1])
    with pytest.raises(UserError, match="4x4 codes is larger than the 3x4"):
        prior.decoder(condition(), (4, 4))
    with pytest.raises(ValueError, match="not divisible by heads"):
        GPT(1, 3, 16, num_codes=4, grid=[2, 2], parts=PARTS)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "rms", "bias": False, "mlp": "relu2"},
        {"qk_norm": True, "rotary": True},
        {"norm": "rms", "mlp": "relu2", "qk_norm": True, "rotary": True, "zero_init": True},
        {"mlp": "swiglu", "rotary": True},
    ],
)
@pytest.mark.parametrize("kind", ["prefix", "added"])
@torch.no_grad()
def test_a_step_of_few_operations_is_the_same_to_the_bit(options, kind, monkeypatch):
    """Of every kind of block but SwiGLU, whose steps go through the blocks as they are."""
    prior = GPT(2, 2, 16, block=options, condition=kind, num_codes=7, grid=[3, 4], parts=PARTS)
    for parameter in prior.eval().parameters():
        parameter.normal_(std=0.3)
    conditioned, codes, steps = condition(), torch.randint(0, 7, (2, 3, 4)), 0
    with prior.decoding():
        fast, plain = prior.decoder(conditioned, (3, 4)), prior.decoder(conditioned, (3, 4))
        for i in range(12):
            assert torch.equal(fast.logits(), without_steps(monkeypatch, plain)), i
            steps += prior.can_step(torch.zeros(1, 1, 16))
            for decoder in (fast, plain):
                decoder.extend(codes.flatten(1)[:, i : i + 1])
    assert steps == (0 if options.get("mlp") == "swiglu" else 12)
    assert not prior.can_step(torch.zeros(1, 1, 16))  # packed no more


@pytest.mark.parametrize("kind", ["prefix", "added"])
@pytest.mark.parametrize(
    "compiler", [pytest.param("inductor", marks=pytest.mark.slow), "none", "missing", "broken"]
)
@torch.no_grad()
def test_a_compiled_step_gives_the_same_logits(compiler, kind, monkeypatch):
    """For another batch, too, and after the weights have changed; without a compiler it says so."""
    if compiler != "inductor":
        monkeypatch.setattr(compiled, "compiled", lambda: failing(compiler) or compiled.one_step)
    options = {"norm": "rms", "mlp": "relu2", "qk_norm": True, "rotary": True}
    prior = GPT(2, 2, 16, block=options, condition=kind, num_codes=7, grid=[3, 4], parts=PARTS)
    for count in (2, 1):
        for parameter in prior.eval().parameters():
            parameter.normal_(std=0.3)
        conditioned = tuple(Part(p.tokens[:count], p.vocabulary, p.grid) for p in condition())
        codes = torch.randint(0, 7, (count, 3, 4))
        plain = prior.decoder(conditioned, (3, 4))
        with prior.decoding("compile"):
            ours = prior.decoder(conditioned, (3, 4))
            for i in range(12):
                if i and compiler in ("missing", "broken"):
                    with pytest.raises(UserError, match="fast compile: no C.. compiler"):
                        ours.logits()
                    return
                torch.testing.assert_close(ours.logits(), plain.logits(), atol=1e-4, rtol=1e-4)
                for decoder in (ours, plain):
                    decoder.extend(codes.flatten(1)[:, i : i + 1])
        assert not prior.steps_compiled


def failing(compiler: str):
    """What torch raises where there is no compiler, and where it can't compile."""
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    def step(*arguments):
        raise InvalidCxxCompiler if compiler == "missing" else CppCompileError(["g++"], "no")

    return None if compiler == "none" else step


@pytest.mark.parametrize("fast", ["bf16", "int8"])
def test_weights_of_fewer_bits_give_about_the_same_likelihood(fast):
    """Per code, within what rounding each of them by 1 / 256 allows; drawing leaves nothing behind,
    and priors that read all at once refuse it.
    """
    torch.manual_seed(0)
    prior = GPT(2, 2, 64, num_codes=7, grid=[3, 4], parts=PARTS).eval()
    for parameter in prior.parameters():
        parameter.data.normal_(std=0.15)
    conditioned, codes = condition(), torch.randint(0, 7, (2, 3, 4))
    exact, total = prior.log_prob(codes, conditioned) / 12, torch.zeros(2)
    with torch.no_grad(), prior.decoding(fast):
        sizes = (2, 4) if fast == "bf16" else (1,)  # 4 where a CPU has no products of 16 bits
        assert prior.blocks[0].attn.qkv.packed.element_size() in sizes
        decoder = prior.decoder(conditioned, (3, 4))
        for code in codes.flatten(1).T:
            total += decoder.logits().log_softmax(dim=-1).gather(1, code[:, None])[:, 0] / 12
            decoder.extend(code[:, None])
    assert not torch.equal(total, exact) and torch.allclose(total, exact, atol=0.02)
    assert torch.equal(prior.log_prob(codes, conditioned) / 12, exact)
    assert sample(prior, conditioned, (3, 4), fast=fast).shape == (2, 3, 4)
    masked = MaskedPrior(1, 2, 16, num_codes=7, grid=[3, 4], parts=PARTS)
    with pytest.raises(UserError, match=f"fast {fast} is of priors"):
        sample(masked, conditioned, (3, 4), fast=fast)


def without_steps(monkeypatch, decoder) -> torch.Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(GPT, "can_step", lambda prior, x: False)
        return decoder.logits()


def test_packed_weights_do_not_outlive_the_sample():
    """While a sample is drawn, the layers hold weights in another layout; a training step
    afterwards must not meet them (fused optimizers change them in place).
    """
    prior, conditioned, codes = small(), condition(), torch.randint(0, 7, (2, 3, 4))
    with torch.no_grad():
        plain = prior(codes, conditioned)
        with prior.decoding():
            assert any(
                getattr(m, "packed", None) is not None for m in prior.modules()
            ) and torch.allclose(prior(codes, conditioned), plain, atol=1e-5)
    sample(prior, conditioned, (3, 4))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.data.mul_(1.5)
        fresh = small()
        fresh.load_state_dict(prior.state_dict())
        assert torch.equal(
            prior(codes, conditioned), fresh(codes, conditioned)
        ) and not torch.allclose(prior(codes, conditioned), plain, atol=1e-2)
