"""A cascade: what a level is told, how sizes follow, that light stays, and what is refused."""

import pytest
import torch

from taming.errors import UserError
from taming.first_stage import VQGAN, VectorQuantizer
from taming.second_stage import GPT, Cascade, LabelMap, MaskedPrior, SecondStage, Unconditional
from taming.second_stage.cascade import Doubling, corrected, enlarged, halved
from taming.second_stage.conditioners.label_map import label_shares


def tokenizer():
    return VQGAN(8, [1, 2, 2], VectorQuantizer(8, 4, normalize=True), blocks=1, latent_channels=8)


def small(conditioner=None, **options) -> Cascade:
    torch.manual_seed(0)
    prior = GPT(1, 2, 8, condition="added")
    base = SecondStage(tokenizer(), conditioner or LabelMap(3), prior, size=16)
    return Cascade(base, MaskedPrior(1, 2, 8, steps=3), window=16, **options).eval()


def mask(height, width, count=1):
    rows = torch.arange(height)[:, None].expand(height, width)
    return (3 * rows // height).expand(count, -1, -1)


@pytest.mark.parametrize(
    "size, doublings",
    [((16, 16), 0), ((12, 28), 0), ((16, 32), 1), ((17, 17), 1), ((64, 96), 2), ((66, 66), 3)],
)
def test_a_scene_is_as_large_as_the_base_sees(size, doublings):
    assert small().doublings(size) == doublings


def test_memory_is_estimated_for_the_scene_and_the_last_level():
    model = small()
    assert model.scene((64, 96)) == (16, 24) and model.scene((12, 28)) == (12, 28)
    assert model.level_bytes((16, 16)) == 0
    assert model.level_bytes((64, 96)) == 4 * model.level_bytes((32, 48)) > 0


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (40, 52), (37, 66)])
def test_pictures_of_any_size(size):
    model = small()
    picture = model.sample({"segmentation": mask(*size, 2)}, seed=3)
    assert picture.shape == (2, 3, *size) and picture.abs().max() <= 1
    alone = model.sample({"segmentation": mask(*size)}, seed=3, first=1)
    assert torch.allclose(alone[0], picture[1], atol=1e-5)


def test_up_to_the_trained_size_it_is_the_base():
    model, batch = small(), {"segmentation": mask(16, 16)}
    base = SecondStage(model.first_stage, model.conditioner, model.prior, size=16).eval()
    assert torch.equal(model.sample(batch, seed=1), base.sample(batch, seed=1))


def test_a_level_in_bfloat16_draws_nearly_the_same():
    """Its products are rounded, what is drawn from is float32; the scene is not touched."""
    model, batch = small(), {"segmentation": mask(32, 32)}
    exact = model.sample(batch, seed=1, temperature=0)
    rounded = model.sample(batch, seed=1, temperature=0, precision="bf16-mixed")
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact), "it is computed otherwise"
    assert (rounded - exact).abs().mean() < 0.1
    scene = {"segmentation": mask(16, 16)}
    assert torch.equal(
        model.sample(scene, seed=1, precision="bf16-mixed"), model.sample(scene, seed=1)
    )


def test_each_level_has_the_light_of_the_scene():
    """Whatever the level draws, the mean of each four pixels is near the coarser picture's, and
    without new pixels the picture is the coarser one enlarged.
    """
    coarse = torch.rand(2, 3, 8, 12) * 1.2 - 0.6
    drawn = (enlarged(coarse) + 0.3 * torch.randn(2, 3, 16, 24) + 0.2).clamp(-1, 1)
    before, after = ((halved(x) - coarse).abs().mean() for x in (drawn, corrected(drawn, coarse)))
    assert after < 0.5 * before
    smooth = torch.linspace(-0.5, 0.5, 12).expand(1, 3, 8, 12)
    shifted = corrected((enlarged(smooth) + 0.3).clamp(-1, 1), smooth)
    assert (shifted - enlarged(smooth)).abs().mean() < 0.02


def test_the_level_is_told_pixels_place_and_size():
    doubling = Doubling(stride=4, labels=3)
    coarse = torch.rand(1, 3, 8, 16) * 2 - 1
    part, shares = doubling({"coarse": coarse, "segmentation": mask(16, 32)})
    assert part.grid == (4, 8) and part.shape == doubling.parts((16, 32))[0]
    values = part.values.view(4, 8, -1)
    first = enlarged(coarse)[0, :, :4, :4].flatten()
    assert torch.equal(values[0, 0, :48], first)
    assert values[:, 0, 48].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert values[0, :, 49].diff().min() > 0
    assert torch.allclose(values[..., 50], torch.tensor(-2.0))  # 16 px: 2 octaves below 64, halved
    assert torch.equal(values[..., 51:], torch.zeros(4, 8, 2))
    assert torch.equal(
        shares.values.view(4, 8, 3).permute(2, 0, 1), label_shares(mask(16, 32), 3, (4, 8))[0]
    )


def test_a_piece_is_told_what_it_would_be_in_the_whole():
    """The parts over a piece of the whole picture are those of the piece by itself, but for the
    pixels at its rim, where the enlarged picture continues.
    """
    doubling = Doubling(stride=4)
    coarse = torch.rand(1, 3, 16, 32) * 2 - 1
    whole = doubling({"coarse": coarse})
    piece = doubling(
        {"coarse": coarse[..., 4:12, 8:24], "crop": torch.tensor([[0.25, 0.25, 0.75, 0.75]])}
    )
    inside = doubling.crop(whole, (2, 4, 4, 8), (8, 16))
    difference = (inside[0].values - piece[0].values).view(4, 8, -1).abs()
    assert difference[1:-1, 1:-1].max() < 1e-6 and difference[..., 48:].max() < 1e-6


def test_guidance_drops_the_layout_and_keeps_the_coarser_picture():
    parts = Doubling(4, 3)({"coarse": torch.rand(1, 3, 8, 8), "segmentation": mask(16, 16)})
    nulls = [part.null() for part in parts]
    assert torch.equal(nulls[0].values, parts[0].values)
    assert torch.equal(nulls[1].values, torch.zeros_like(parts[1].values))
    assert (nulls[1].tokens == 1).all()


def test_known_pixels_stay_through_all_levels():
    """Where all is known, the picture is the tokenizer's reconstruction, with the light of the
    levels before.
    """
    model = small()
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    everything = torch.ones(1, 32, 32, dtype=torch.bool)
    batch = {"segmentation": mask(32, 32)}
    drawn = [model.sample(batch, known=(image, everything), seed=seed) for seed in (1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    half = everything.clone()
    half[:, :, 16:] = False
    drawn = [model.sample(batch, known=(image, half), seed=seed) for seed in (1, 2)]
    assert not torch.equal(drawn[0], drawn[1])


def test_labels_are_guided_by_strengths_of_their_own():
    """Over the label with strength 1 the codes are those without guidance, as long as all before
    them are, too.
    """
    model = small()
    batch = {"segmentation": mask(16, 16)}

    def drawn(**changes):
        codes = []
        model.sample(batch, on_row=lambda levels, _: codes.append(levels[-1].clone()), **changes)
        return codes[-1]

    plain = drawn()
    below = drawn(guidance_labels={"2": 300.0})
    assert torch.equal(below[:, :2], plain[:, :2]) and not torch.equal(below, plain)
    assert torch.equal(drawn(guidance=1.0, guidance_labels={"0": 1.0}), plain)
    for labels, words in (({"3": 2.0}, "'3' is no label"), ({"sea": 2.0}, "'sea' is no label")):
        with pytest.raises(UserError, match=words):
            drawn(guidance_labels=labels)
    with pytest.raises(UserError, match="not conditioned on masks"):
        small(Unconditional()).sample({"count": 1}, guidance_labels={"0": 2.0})


def test_steps_of_all_levels_are_one_work():
    work, sizes = [], []
    small().sample(
        {"segmentation": mask(64, 64)},
        on_step=lambda done, total: work.append((done, total)),
        on_row=lambda codes, rows: sizes.append(tuple(codes[-1].shape[1:])),
    )
    done = [d for d, _ in work]
    assert len({total for _, total in work}) == 1 and done == sorted(done)
    assert done[0] == 0 and done[-1] < work[0][1]
    assert sizes[-2:] == [(8, 8), (16, 16)]


def test_without_a_layout():
    model = small(Unconditional())
    assert model.doubling.labels is None
    assert model.sample({"count": 2}, size=(32, 48)).shape == (2, 3, 32, 48)


def test_a_level_of_another_stride():
    coarse = VQGAN(
        8, [1, 2, 2, 2], VectorQuantizer(6, 4, normalize=True), blocks=1, latent_channels=8
    )
    model = small(first_stage=coarse)
    assert model.level.num_codes == 6 and model.level.grid == (2, 2)
    assert model.sample({"segmentation": mask(32, 48)}).shape == (1, 3, 32, 48)


@pytest.mark.parametrize(
    "batch, words",
    [
        ({}, "conditioned on 'coarse', but the batch has nothing"),
        ({"coarse": torch.zeros(1, 3, 8, 8)}, "conditioned on 'segmentation'"),
        (
            {"coarse": torch.zeros(1, 3, 8, 8), "segmentation": mask(12, 12)},
            "another level's picture",
        ),
        ({"coarse": torch.zeros(1, 1, 8, 8)}, r"float \(B, 3, h, w\)"),
        ({"coarse": torch.zeros(1, 3, 8, 8).long()}, r"float \(B, 3, h, w\)"),
        ({"coarse": torch.full((1, 3, 8, 8), torch.nan)}, "NaN or infinity"),
        ({"coarse": torch.zeros(1, 3, 7, 8)}, "multiples of 2"),
    ],
)
def test_refusals_of_a_level(batch, words):
    with pytest.raises(UserError, match=words):
        small().enlarge(batch.get("coarse"), batch) if "coarse" in batch else Doubling(4, 3)(batch)


@pytest.mark.parametrize("steps", [65, 1000])
def test_more_steps_than_codes_are_refused(steps):
    with pytest.raises(UserError, match=f"steps {steps} should be from 1 to 64"):
        small().sample({"segmentation": mask(32, 32)}, steps=steps)


def test_a_hierarchy_is_no_base():
    base = small()
    base.first_stage.in_channels = 1
    with pytest.raises(UserError, match=r"model\.params\.base: a cascade doubles RGB"):
        Cascade(base, MaskedPrior(1, 2, 8))
