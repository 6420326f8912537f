"""What comes in from outside is checked once: it works, or is one UserError."""

import numpy as np
import pytest
import torch
from PIL import Image

from taming.errors import UserError
from taming.second_stage import (
    GPT,
    Boxes,
    ClassLabel,
    Coordinates,
    EncodedImage,
    GatedPixelCNN,
    Part,
    PixelSNAIL,
    SecondStage,
    Unconditional,
    sample,
)
from tests.second_stage.test_shapes import images, masks, small_images

NAN = float("nan")
PRIORS = {
    "gpt": lambda: GPT(1, 2, 8),
    "pixelcnn": lambda: GatedPixelCNN(1, 8, 3),
    "pixelsnail": lambda: PixelSNAIL(1, 1, 8, 2, 3),
}


def model_of(conditioner, prior="gpt", size=16):
    model = SecondStage(images(), conditioner, PRIORS[prior](), size=size)
    with torch.no_grad():
        for parameter in model.priors.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def batch_of(kind, height, width):
    return {
        "nothing": {"count": 1},
        "class": {"class": torch.tensor([1])},
        "mask": {"segmentation": torch.zeros(1, height, width, dtype=torch.int64)},
        "resized image": {"lr": torch.zeros(1, 3, height, width)},
        "coordinates": {"coordinates": torch.zeros(1, 1, height, width)},
        "boxes": {"boxes": torch.tensor([[[1, 0.1, 0.1, 0.5, 0.5]]])},
    }[kind]


CONDITIONERS = {
    "nothing": Unconditional,
    "class": lambda: ClassLabel(3),
    "mask": lambda: EncodedImage(masks()),
    "resized image": lambda: EncodedImage(small_images(), [8, 8], [16, 16]),
    "coordinates": lambda: Coordinates(9, 4),
    "boxes": lambda: Boxes(2, 30, 5),
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("kind", CONDITIONERS)
def test_every_size_is_drawn(kind, prior):
    """Down to one pixel, and beyond the grid trained on."""
    model = model_of(CONDITIONERS[kind](), prior)
    for height, width in [(1, 1), (1, 8), (2, 3), (5, 7), (8, 8), (17, 9)]:
        picture = model.sample(batch_of(kind, height, width), (height, width))
        assert picture.shape == (1, 3, height, width) and torch.isfinite(picture).all()


LABELS = [0, 2, 1]


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor(LABELS),
        torch.tensor(LABELS, dtype=torch.uint8),
        torch.tensor(LABELS, dtype=torch.int32),
        torch.tensor(LABELS)[:, None],
        np.array(LABELS),
        LABELS,
    ],
    ids=lambda labels: type(labels).__name__ + str(getattr(labels, "dtype", "")),
)
def test_whole_numbers_of_every_kind_are_classes(labels):
    (part,) = ClassLabel(3)({"class": labels})
    assert part.tokens.tolist() == [[0], [2], [1]] and part.tokens.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64])
def test_labels_and_codes_of_every_whole_type_mean_the_same(dtype):
    model = model_of(EncodedImage(masks()))
    labels = torch.randint(0, 2, (1, 16, 16))
    condition = model.conditioner({"segmentation": labels})
    assert torch.equal(
        model.conditioner({"segmentation": labels.to(dtype)})[0].tokens, condition[0].tokens
    )
    codes = torch.randint(0, 2, (1, 8, 8))
    assert torch.equal(
        model.log_prob((codes.to(dtype),), condition), model.log_prob((codes,), condition)
    )


BOX = [1, 0.1, 0.1, 0.5, 0.5]
WRONG_BATCHES = {
    "class: missing": (ClassLabel(3), {"count": 2}, "conditioned on 'class'"),
    "class: too high": (ClassLabel(3), {"class": torch.tensor([3])}, "class 3 is unknown.*0 to 2"),
    "class: negative": (ClassLabel(3), {"class": torch.tensor([0, -1])}, "class -1 is unknown"),
    "class: float": (ClassLabel(3), {"class": torch.tensor([0.5])}, "whole numbers"),
    "class: shape": (ClassLabel(3), {"class": torch.zeros(2, 3).long()}, "whole numbers"),
    "class: word": (ClassLabel(3), {"class": "cat"}, "should be a tensor"),
    "class: ragged": (ClassLabel(3), {"class": [[1], [1, 2]]}, "should be a tensor"),
    "class: picture": (ClassLabel(3), {"class": Image.new("RGB", (4, 4))}, "should be a tensor"),
    "count: missing": (Unconditional(), {}, "how many pictures"),
    "count: zero": (Unconditional(), {"count": 0}, "at least 1"),
    "count: negative": (Unconditional(), {"count": -2}, "at least 1"),
    "count: fraction": (Unconditional(), {"count": 1.5}, "how many pictures"),
    "boxes: pixels": (Boxes(2, 30, 5), {"boxes": torch.tensor([[[1, 3, 4, 300, 40.0]]])}, "pixels"),
    "boxes: negative": (Boxes(2, 30, 5), {"boxes": torch.tensor([[[1, -0.5, 0, 1, 1.0]]])}, "-0.5"),
    "boxes: nan": (Boxes(2, 30, 5), {"boxes": torch.tensor([[[1, NAN, 0, 1, 1.0]]])}, "finite"),
    "boxes: turned": (Boxes(2, 30, 5), {"boxes": torch.tensor([[[1, 0.8, 0, 0.1, 1.0]]])}, "lies"),
    "boxes: class": (Boxes(2, 30, 5), {"boxes": torch.tensor([[[7.0, 0, 0, 1, 1]]])}, "class 7"),
    "boxes: too many": (Boxes(2, 30, 5), {"boxes": torch.tensor([[BOX] * 3])}, "3 objects"),
    "boxes: columns": (Boxes(2, 30, 5), {"boxes": torch.zeros(1, 2, 4)}, r"\(B, N, 5\)"),
    "boxes: modifiers": (Boxes(2, 30), {"boxes": torch.tensor([[[*BOX, 1]]])}, "modifiers"),
    "boxes: crop": (
        Boxes(2, 30, 5),
        {"boxes": torch.tensor([[BOX]]), "crop": torch.tensor([[0, 0, 64, 64.0]])},
        "'crop' has 64",
    ),
    "coordinates: pixels": (
        Coordinates(9, 4),
        {"coordinates": torch.full((1, 1, 16, 16), 12.0)},
        "relative to the picture",
    ),
    "coordinates: nan": (
        Coordinates(9, 4),
        {"coordinates": torch.full((1, 1, 16, 16), NAN)},
        "finite",
    ),
    "coordinates: shape": (
        Coordinates(9, 4),
        {"coordinates": torch.zeros(1, 16, 16)},
        r"\(B, 1, H, W\)",
    ),
    "image: nan": (
        EncodedImage(small_images()),
        {"lr": torch.full((1, 3, 16, 16), NAN)},
        "'lr' holds NaN",
    ),
    "image: shape": (EncodedImage(small_images()), {"lr": torch.zeros(16, 16)}, r"\(B, C, H, W\)"),
    "image: picture": (EncodedImage(small_images()), {"lr": Image.new("RGB", (4, 4))}, "a tensor"),
    "mask: label": (
        EncodedImage(masks()),
        {"segmentation": torch.full((1, 16, 16), 9)},
        "labels reach 9",
    ),
    "mask: float": (
        EncodedImage(masks()),
        {"segmentation": torch.zeros(1, 16, 16)},
        "int64 labels",
    ),
}


@pytest.mark.parametrize("name", WRONG_BATCHES)
def test_conditions_that_mean_nothing_are_refused(name):
    conditioner, batch, message = WRONG_BATCHES[name]
    with pytest.raises(UserError, match=message) as refusal:
        conditioner(batch)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", WRONG_BATCHES)
def test_samples_refuse_them_too(name):
    conditioner, batch, _ = WRONG_BATCHES[name]
    with pytest.raises(UserError):
        model_of(conditioner).sample(batch)


CODES = torch.zeros(1, 8, 8, dtype=torch.int64)


@pytest.mark.parametrize(
    "codes, message",
    [
        (CODES, "a tuple of 1"),
        ((CODES, CODES), "a tuple of 1"),
        ((CODES + 7,), "reach 7, but this prior knows 0 to 6"),
        ((CODES - 1,), "reach -1"),
        ((CODES.float(),), "whole numbers"),
        ((CODES[0],), r"whole numbers \(B, h, w\)"),
        ((CODES.numpy(),), "whole numbers"),
        ((CODES.repeat(2, 1, 1),), "codes are of 2 pictures, the condition of 1"),
        ((torch.zeros(1, 9, 8, dtype=torch.int64),), "9x8 codes is larger than the 8x8"),
    ],
)
def test_what_are_no_codes_has_no_probability(codes, message):
    model = model_of(Unconditional())
    with pytest.raises(UserError, match=message):
        model.log_prob(codes, model.conditioner({"count": 1}))


PICTURE, MASK = torch.zeros(1, 3, 16, 16), torch.ones(1, 16, 16, dtype=torch.bool)


@pytest.mark.parametrize("mask", [MASK, MASK.int(), MASK.float()])
def test_marks_of_every_kind_keep_a_picture(mask):
    model = model_of(Unconditional())
    drawn = model.sample({"count": 2}, known=(PICTURE, mask))
    expected = model.decode(model.first_stage.encode(PICTURE)).clamp(-1, 1)
    assert torch.allclose(drawn, expected.expand(2, -1, -1, -1), atol=1e-5)


@pytest.mark.parametrize(
    "known, message",
    [
        (PICTURE, "an image and a mask"),
        ((PICTURE,), "an image and a mask"),
        ((PICTURE, MASK[0]), r"mask should be bool \(B, H, W\)"),
        ((PICTURE, MASK[:, None]), r"mask should be bool \(B, H, W\)"),
        ((PICTURE, 0.5 * MASK), "mask should be bool"),
        ((PICTURE, MASK[:, :8]), "16x16, but its mask is 8x16"),
        ((PICTURE[..., :8, :], MASK[:, :8]), "is 8x16, but the picture to draw is 16x16"),
        ((PICTURE.numpy(), MASK), "known image"),
        ((PICTURE.repeat(3, 1, 1, 1), MASK), "images 3, masks 1, pictures to draw 2"),
        ((PICTURE + NAN, MASK), "finite"),
        ((PICTURE + 255, MASK), "is expected"),
    ],
)
def test_known_pictures_that_do_not_fit_are_refused(known, message):
    with pytest.raises(UserError, match=message):
        model_of(Unconditional()).sample({"count": 2}, known=known)


PART = Part(torch.zeros(2, 1, dtype=torch.int64), 1)
KNOWN = torch.zeros(2, 8, 8, dtype=torch.int64), torch.ones(2, 8, 8, dtype=torch.bool)


@pytest.mark.parametrize(
    "condition, options, message",
    [
        ((), {}, "no pictures"),
        ((Part(PART.tokens[:0], 1),), {}, "of no pictures"),
        (PART, {}, "tuple of Part"),
        (torch.zeros(2, 1), {}, "tuple of Part"),
        ((PART, Part(PART.tokens[:1], 1)), {}, r"are of \[1, 2\] pictures"),
        ((PART,), {"generators": [torch.Generator()]}, "generators: 1 for 2 pictures"),
        ((PART,), {"known": (KNOWN[0][:1], KNOWN[1])}, r"codes should have shape \(2, 8, 8\)"),
        ((PART,), {"known": (KNOWN[0], KNOWN[1][:, :4])}, r"mask should have shape \(2, 8, 8\)"),
        ((PART,), {"known": (KNOWN[0], KNOWN[0])}, "mask should be bool"),
        ((PART,), {"known": (KNOWN[0] + 7, KNOWN[1])}, "from 0 to 6"),
        ((PART,), {"known": (KNOWN[0].float(), KNOWN[1])}, "from 0 to 6"),
    ],
)
def test_the_loop_refuses_what_does_not_belong_together(condition, options, message):
    with pytest.raises(UserError, match=message):
        sample(model_of(Unconditional()).prior, condition, (8, 8), **options)


@pytest.mark.parametrize("batch", [None, [1, 2], torch.zeros(2), "landscape", 4])
def test_a_batch_is_a_dictionary(batch):
    with pytest.raises(UserError, match="a batch should be a dictionary"):
        model_of(Unconditional()).sample(batch)


def test_a_sample_has_no_dropout_and_leaves_the_modes_alone():
    model = SecondStage(images(), Unconditional(), GPT(1, 2, 8, dropout=0.5), size=16)
    expected = model.eval().sample({"count": 2}, seed=1)
    model.train()
    model.prior.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    assert torch.equal(model.sample({"count": 2}, seed=1), expected)
    condition = model.conditioner({"count": 2})
    assert torch.equal(
        sample(model.prior, condition, (8, 8)), sample(model.eval().prior, condition, (8, 8))
    )
    model.train()
    model.prior.blocks[0].eval()
    assert [module.training for module in model.modules()] == modes


def test_without_a_seed_a_fresh_one_is_drawn_and_printed(capsys):
    model = model_of(Unconditional())
    first = model.sample({"count": 1}, seed=None)
    seed = int(capsys.readouterr().err.removeprefix("seed "))
    assert torch.equal(model.sample({"count": 1}, seed=seed), first)
    model.sample({"count": 1}, seed=None)
    assert int(capsys.readouterr().err.removeprefix("seed ")) != seed
