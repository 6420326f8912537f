"""A prior's num_codes, grid and parts follow from the SecondStage that it belongs to."""

import pytest
import torch

from taming.errors import UserError
from taming.first_stage import VQGAN, VQVAE2, MaskVQGAN, VectorQuantizer
from taming.second_stage import (
    GPT,
    Boxes,
    ClassLabel,
    Coordinates,
    EncodedImage,
    GatedPixelCNN,
    PixelSNAIL,
    SecondStage,
    Unconditional,
)
from taming.second_stage.interface import PartShape, current_name

PRIORS = {
    "gpt": lambda **shape: GPT(1, 2, 8, **shape),
    "gpt in another order": lambda **shape: GPT(1, 2, 8, order="shuffled", **shape),
    "pixelcnn": lambda **shape: GatedPixelCNN(2, 8, 3, **shape),
    "pixelsnail": lambda **shape: PixelSNAIL(1, 1, 8, 2, 3, **shape),
}


def images():
    return VQGAN(8, [1, 2], VectorQuantizer(7, 4), blocks=1, latent_channels=8).eval()


def masks():
    return MaskVQGAN(3, 8, [1, 1, 2], VectorQuantizer(5, 4), blocks=1, latent_channels=8).eval()


def small_images():
    return VQGAN(8, [1, 2], VectorQuantizer(5, 4), blocks=1, latent_channels=8, key="lr").eval()


SEGMENTATION = torch.zeros(2, 16, 24, dtype=torch.int64)
BATCHES = {
    "nothing": (Unconditional, {"count": 2}),
    "class": (lambda: ClassLabel(3), {"class": torch.tensor([0, 2])}),
    "mask": (lambda: EncodedImage(masks()), {"segmentation": SEGMENTATION}),
    "resized image": (
        lambda: EncodedImage(small_images(), [8, 8], [16, 16]),
        {"lr": torch.zeros(2, 3, 16, 24)},
    ),
    "coordinates": (lambda: Coordinates(9, 4), {"coordinates": torch.zeros(2, 1, 16, 24)}),
    "boxes": (lambda: Boxes(2, 30, 5), {"boxes": torch.zeros(2, 1, 5)}),
    "centres": (lambda: Boxes(2, 30, 5, True, False), {"boxes": torch.zeros(2, 1, 5)}),
}


@pytest.mark.parametrize("condition", BATCHES)
def test_parts_are_what_the_condition_turns_out_to_be(condition):
    make, batch = BATCHES[condition]
    conditioner = make()
    actual = tuple(part.shape for part in conditioner(batch))
    assert conditioner.parts((16, 24)) == actual


@pytest.mark.parametrize("condition", BATCHES)
@pytest.mark.parametrize("prior", PRIORS)
def test_a_prior_that_waits_becomes_the_one_that_was_given_all_three(prior, condition):
    """The same weights from the same seed, and it fits its condition."""
    make, batch = BATCHES[condition]
    first, conditioner = images(), make()
    torch.manual_seed(1)
    model = SecondStage(first, conditioner, PRIORS[prior](), size=[16, 24]).eval()
    torch.manual_seed(1)
    parts = list(conditioner.parts((16, 24)))
    stated = PRIORS[prior](num_codes=7, grid=[8, 12], parts=parts)
    weights = stated.state_dict()
    assert weights.keys() == model.prior.state_dict().keys()
    assert all(torch.equal(model.prior.state_dict()[name], weights[name]) for name in weights)
    codes = (torch.randint(0, 7, (2, 8, 12)),)
    assert torch.isfinite(model.log_prob(codes, model.conditioner(batch))).all()
    assert model.trained_size == (16, 24)


def test_lower_levels_read_the_levels_above():
    quantizers = [VectorQuantizer(3, 4), VectorQuantizer(5, 4)]
    first = VQVAE2(8, 4, quantizers, blocks=1, halvings=1).eval()
    model = SecondStage(first, ClassLabel(2), priors=[GPT(1, 2, 8), GatedPixelCNN(1, 8)], size=8)
    assert [prior.num_codes for prior in model.levels] == [3, 5]
    assert [prior.grid for prior in model.levels] == [(2, 2), (4, 4)]
    assert model.levels[0].parts == (PartShape(2),)
    assert model.levels[1].parts == (PartShape(2), PartShape(3, (2, 2)))


def test_a_condition_of_nothing_is_made_from_its_shape():
    model = SecondStage(images(), EncodedImage(masks()), GPT(1, 2, 8), size=16)
    batch = {"segmentation": torch.zeros(1, 16, 16, dtype=torch.int64)}
    expected = tuple(part.null() for part in model.conditioner(batch))
    (part,), (null,) = model.null_condition((16, 16)), expected
    assert torch.equal(part.tokens, null.tokens) and part.shape == null.shape


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SecondStage(images(), ClassLabel(2), GPT(1, 2, 8)), "size: missing"),
        (
            lambda: SecondStage(images(), ClassLabel(2), GPT(1, 2, 8), size=15),
            r"model\.params\.size: .*15x15",
        ),
        (
            lambda: SecondStage(
                images(),
                ClassLabel(2),
                GPT(1, 2, 8, num_codes=7, grid=[2, 2], parts=[{"vocabulary": 2, "length": 1}]),
                size=16,
            ),
            r"grid is \[2, 2\], but model\.params\.size 16x16 gives \[8, 8\]",
        ),
        (
            lambda: SecondStage(
                images(), ClassLabel(2), GPT(1, 2, 8, order="spiral_out"), size=[8, 16]
            ),
            "needs a square grid",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("prior", PRIORS)
def test_a_prior_without_a_shape_says_so(prior):
    waiting = PRIORS[prior]()
    with pytest.raises(UserError, match="no num_codes, grid and parts yet"):
        waiting(torch.zeros(1, 2, 2, dtype=torch.int64), ())
    with pytest.raises(UserError, match="no num_codes, grid and parts yet"):
        waiting.log_prob(torch.zeros(1, 2, 2, dtype=torch.int64), ())
    with pytest.raises(ValueError, match="go together"):
        PRIORS[prior](num_codes=3, grid=[2, 2])


@pytest.mark.parametrize(
    "part",
    [
        {},
        {"vocabulary": 3},
        {"length": 3},
        {"vocabulary": 0, "length": 1},
        {"vocabulary": 3, "length": -1},
        {"vocabulary": 3, "length": 2.5},
        {"vocabulary": 3, "grid": [2]},
        {"vocabulary": 3, "grid": [2, 0]},
        {"vocabulary": 3, "grid": [2, 2], "length": 4},
        {"vocabulary": True, "length": 1},
        {"vocabulary": 3, "length": 1, "depth": 2},
        "class",
        None,
    ],
)
def test_what_is_no_part_is_refused(part):
    with pytest.raises(ValueError, match="a part of the condition should be"):
        GPT(1, 2, 8, num_codes=3, grid=[2, 2], parts=[part])


@pytest.mark.parametrize("prior", ["pixelcnn", "pixelsnail"])
def test_weights_with_names_of_earlier_versions_are_read(prior):
    older = {
        "condition_map": "heard",
        "smooth": "spread",
        "condition": "hear",
        "condition_vertical": "hear_vertical",
        "condition_horizontal": "hear_horizontal",
        "beside": "left",
    }
    shape = {"num_codes": 3, "grid": [2, 2], "parts": [{"vocabulary": 3, "grid": [2, 2]}]}
    source, target = PRIORS[prior](**shape), PRIORS[prior](**shape)
    weights = {}
    for name, tensor in source.state_dict().items():
        weights[".".join(older.get(word, word) for word in name.split("."))] = tensor
    assert weights.keys() != source.state_dict().keys()
    assert [current_name(name) for name in weights] == list(source.state_dict())
    # As a part of something larger, too
    torch.nn.ModuleList([target]).load_state_dict({f"0.{name}": t for name, t in weights.items()})
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)
