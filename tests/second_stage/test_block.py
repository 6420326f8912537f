"""What the switches of the one Transformer block mean."""

import pytest
import torch

from taming.errors import UserError
from taming.first_stage import VQGAN, VectorQuantizer
from taming.second_stage import GPT, Part, SecondStage, Unconditional
from taming.second_stage.block import (
    MODERN,
    Block,
    BlockOptions,
    initialise,
    places_of,
    rotate,
    rotation_of,
    start_alike,
)
from taming.second_stage.condition_map import BESIDE_CODES

PARTS = [{"vocabulary": 5, "grid": [2, 3]}, {"vocabulary": 4, "length": 1}]


def condition(batch=2):
    mask = Part(torch.randint(0, 6, (batch, 6)), 5, (2, 3))
    return mask, Part(torch.randint(0, 5, (batch, 1)), 4)


@pytest.mark.parametrize("mlp", ["gelu", "relu2", "swiglu"])
def test_from_zero_a_block_is_the_identity_and_learns(mlp):
    block = Block(16, 2, 0.0, BlockOptions(mlp=mlp, zero_init=True)).apply(initialise)
    x = torch.randn(2, 5, 16)
    assert not torch.equal(block(x), x)
    block.start_from_zero()
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.attn.proj.weight.grad.abs().sum() > 0


def test_rotary_attention_depends_on_differences_of_places():
    """The product of two rotated vectors is the same wherever the pair lies, and another where
    their distance differs in rows or columns.
    """
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(place, other):
        turned = [
            rotate(v, rotation_of(torch.tensor([p]), 16, 100.0))
            for v, p in ((q, place), (k, other))
        ]
        return (turned[0] * turned[1]).sum()

    near = product([2.0, 3.0], [4.0, 8.0])
    assert torch.allclose(product([12.0, 7.0], [14.0, 12.0]), near, atol=1e-5)
    for other in ([4.0, 9.0], [5.0, 8.0]):
        assert (product([2.0, 3.0], other) - near).abs() > 1e-4
    assert torch.equal(rotate(q, rotation_of(torch.zeros(1, 2), 16, 100.0)), q)


def test_a_coarse_token_lies_in_the_middle_of_its_codes():
    places = places_of((2, 2), (8, 8))
    assert places.tolist() == [[1.5, 1.5], [1.5, 5.5], [5.5, 1.5], [5.5, 5.5]]
    assert torch.equal(places_of((2, 3))[4], torch.tensor([1.0, 1.0]))


def test_normalized_queries_bound_the_attention():
    """However large the input weights grow, no logit of the attention exceeds sqrt(d)."""
    block = Block(16, 2, 0.0, MODERN)
    with torch.no_grad():
        block.attn.qkv.weight.mul_(1e4)
    q = block.attn.norm_q(block.attn.qkv(torch.randn(1, 3, 16))[..., :8])
    assert torch.allclose(q.square().mean(-1), torch.ones(1, 3), atol=1e-3)


def test_all_see_all_where_not_causal():
    block, x = Block(16, 2, 0.0, MODERN, causal=False), torch.randn(1, 4, 16)
    changed = x.clone()
    changed[:, 3] += 1
    assert (block(changed) - block(x)).abs().amax(-1).gt(1e-6).all()


def test_defaults_are_the_block_of_earlier_checkpoints():
    names = {name for name, _ in Block(8, 2, 0.0).named_parameters()}
    parts = ["ln1", "ln2", "attn.qkv", "attn.proj", "mlp.0", "mlp.2"]
    assert names == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def test_an_added_condition_takes_no_tokens_and_counts_where_it_lies():
    """At first the logits of a code see the mask over it and around it; nothing is read before the
    codes but the start.
    """
    prior = GPT(3, 2, 16, condition="added", num_codes=7, grid=[3, 4], parts=PARTS).eval()
    assert prior.condition_length == 0
    assert prior.cache_bytes(1, (3, 4)) < GPT(
        3, 2, 16, num_codes=7, grid=[3, 4], parts=PARTS
    ).cache_bytes(1, (3, 4))
    codes, before = torch.randint(0, 7, (1, 3, 4)), condition(1)
    tokens = before[0].tokens.clone()
    tokens[0, -1] = (tokens[0, -1] + 1) % 5
    after = (Part(tokens, 5, (2, 3)), before[1])
    with torch.no_grad():
        moved = (prior(codes, after) - prior(codes, before)).abs().amax(-1)[0]
    assert moved[1:, 2:].min() > 2 * moved[:, :2].max() > 0


@pytest.mark.parametrize(
    "block, words",
    [
        ({"norms": "rms"}, "block.norms: unknown key; did you mean 'norm'"),
        ({"rotary": True}, "multiple of 4 numbers"),
    ],
)
def test_refusals(block, words):
    with pytest.raises((UserError, ValueError), match=words):
        GPT(1, 4, 8, block=block, num_codes=4, grid=[2, 2], parts=PARTS)


def test_numbers_are_no_prefix():
    parts = [{"vocabulary": 1, "grid": [2, 2], "features": 3}]
    with pytest.raises(ValueError, match="condition: added"):
        GPT(1, 2, 8, num_codes=4, grid=[2, 2], parts=parts)


def test_numbers_of_a_condition_count_at_their_place_and_vanish_with_it():
    parts = [{"vocabulary": 1, "grid": [2, 2], "features": 3}]
    prior = GPT(3, 2, 8, condition="added", num_codes=4, grid=[2, 2], parts=parts).eval()
    codes, values = torch.randint(0, 4, (2, 2, 2)), torch.randn(2, 4, 3)
    part = Part(torch.zeros(2, 4, dtype=torch.int64), 1, (2, 2), values=values)
    other = Part(part.tokens, 1, (2, 2), values=values + 1)
    with torch.no_grad():
        assert (prior(codes, (part,)) - prior(codes, (other,))).abs().max() > 1e-5
        assert torch.equal(prior(codes, (part.null(),)), prior(codes, (other.null(),)))
    assert torch.equal(part.crop((0, 1, 2, 1), (2, 2)).values, values[:, [1, 3]])
    assert part.join(other).shape == part.shape


def test_codes_that_look_alike_start_alike():
    """Rows of like vectors are nearer than those of others, no two are equal, and their size is
    that of a table that knows nothing.
    """
    torch.manual_seed(0)
    centres = torch.randn(8, 4)
    codebook = centres.repeat_interleave(16, 0) + 0.05 * torch.randn(128, 4)
    table = torch.nn.Embedding(129, 64).apply(initialise)
    last = table.weight[128].clone()
    start_alike(table, codebook, seed=0)
    rows = table.weight.detach()
    distances = torch.cdist(rows[:128], rows[:128]).view(8, 16, 8, 16)
    within = torch.stack([distances[i, :, i] for i in range(8)])
    assert within.sum() / (8 * 16 * 15) < 0.6 * distances.mean()
    assert within[0, 0, 1] > 0 and torch.equal(rows[128], last)
    assert 0.01 < rows[:128].std() < 0.04


def test_a_prior_learns_of_the_codebook_when_it_gets_its_shape():
    first = VQGAN(8, [1, 2, 2], VectorQuantizer(8, 4), blocks=1, latent_channels=8)
    rows = []
    for alike in (False, True):
        torch.manual_seed(0)
        model = SecondStage(first, Unconditional(), GPT(1, 2, 8, alike=alike), size=16)
        rows.append(model.prior.tok_emb.weight.detach().clone())
    assert not torch.equal(*rows)


def test_an_added_condition_never_drowns_the_codes():
    """However large its convolutions grow, it is as large as at the start beside the codes."""
    prior = GPT(3, 2, 16, condition="added", num_codes=7, grid=[3, 4], parts=PARTS).eval()
    conditioned, sizes = condition(1), []
    for _ in range(2):
        with torch.no_grad():
            sizes.append(prior.added(conditioned, (3, 4))[0].square().mean().sqrt())
            for parameter in prior.added.map.parameters():
                parameter.mul_(30)
    assert torch.allclose(sizes[0], sizes[1], rtol=0.2) and sizes[1] < 2 * BESIDE_CODES
    assert sizes[1] > 0.5 * BESIDE_CODES


@pytest.mark.parametrize("mlp", ["gelu", "relu2", "swiglu"])
def test_a_block_gives_the_same_without_gradients_and_leaves_its_input(mlp):
    """Where none are wanted, maps between its layers are overwritten; what it was given is not."""
    block = Block(16, 2, 0.0, BlockOptions(mlp=mlp))
    x = torch.randn(2, 5, 16)
    before, expected = x.clone(), block(x)
    with torch.no_grad():
        assert torch.equal(block(x), expected)
    assert torch.equal(x, before)
