"""The doors of first stages: what fits is taken, what is harmless is cast, all else is one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from taming.errors import UserError
from taming.first_stage import (
    DVAE,
    VAE,
    VQGAN,
    VQVAE2,
    FirstStage,
    GaussianLikelihood,
    GumbelQuantizer,
    MaskVQGAN,
    ResidualQuantizer,
    VectorQuantizer,
    inputs,
)

SIZES = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "latent_channels": 8}
NETS = {"width": 8, "residual_width": 4, "blocks": 1}


def vector(count=16):
    return VectorQuantizer(count, 4)


MODELS = {
    "vq-gan": lambda: VQGAN(quantizer=vector(), dropout=0.5, **SIZES),
    "residual": lambda: VQGAN(quantizer=ResidualQuantizer([vector(), vector(8)]), **SIZES),
    "vq-vae-2": lambda: VQVAE2(**NETS, quantizers=[vector(8), vector()]),
    "dvae": lambda: DVAE(16, GumbelQuantizer(16, 128, code_dim=8), blocks=1),
    "vae": lambda: VAE(**NETS, dim=4, likelihood=GaussianLikelihood()),
}
DOORS = ["encode", "forward", "reconstruct"]


def images(*shape):
    return torch.rand(shape or (2, 3, 16, 24)) * 2 - 1


def refused(act, words):
    with pytest.raises(UserError, match=words) as error:
        act()
    assert "\n" not in str(error.value)


BAD_IMAGES = {
    "numpy": (lambda: images(2, 4, 16, 16).numpy(), r"shape \(2, 4, 16, 16\)"),
    "PIL": (lambda: Image.new("RGBA", (16, 16)), "mode RGBA: read it with taming.read_image"),
    "list": (lambda: [images()], "should be a tensor .* not a builtins.list"),
    "none": (lambda: None, "should be a tensor"),
    "sparse": (lambda: images().to_sparse(), "nested or sparse"),
    "nested": (lambda: torch.nested.nested_tensor([images(3, 16, 16)]), "nested or sparse"),
    "one image": (lambda: images(3, 16, 16), r"shape \(3, 16, 16\)"),
    "four channels": (lambda: images(2, 4, 16, 16), r"\(B, 3, H, W\)"),
    "channels last": (lambda: images(2, 16, 16, 3), r"\(B, 3, H, W\)"),
    "bytes": (lambda: torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "127.5 - 1"),
    "int64": (lambda: torch.zeros(2, 3, 16, 16, dtype=torch.int64), "127.5 - 1"),
    "bool": (lambda: torch.zeros(2, 3, 16, 16, dtype=torch.bool), "127.5 - 1"),
    "0 to 255": (lambda: torch.rand(2, 3, 16, 16) * 255, r"spans .* but \[-1, 1\] is expected"),
    "nan": (lambda: images() * torch.nan, "not finite"),
    "infinite": (lambda: images() / 0, "not finite"),
    "no multiple": (lambda: images(1, 3, 17, 24), "not divisible .* pad"),
    "small": (lambda: images(1, 3, 1, 1), "smaller than .* pad"),
    "empty": (lambda: images(1, 3, 0, 0), "smaller than"),
    "on another device": (lambda: images().to("meta"), "is on meta, but the model on cpu"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", BAD_IMAGES)
def test_what_is_no_image_batch_is_refused_at_each_door(name, door):
    value, words = BAD_IMAGES[name]
    for model in MODELS.values():
        refused(lambda: getattr(model().eval(), door)(value()), words)  # noqa: B023


@pytest.mark.parametrize("door", DOORS)
def test_a_picture_or_an_array_is_a_batch_at_each_door(door):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    for model in MODELS.values():
        act = getattr(model().eval(), door)
        torch.manual_seed(0)
        expected = as_tensors(act(image))
        for value in (pixels, Image.fromarray(pixels), image.numpy()):
            torch.manual_seed(0)
            assert all(map(torch.equal, as_tensors(act(value)), expected))


def as_tensors(result) -> list[torch.Tensor]:
    """Of a reconstruction, codes or a posterior."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, tuple):
        return list(result)
    return [result.image] if hasattr(result, "image") else [result.mean]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("model_dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_floats_of_any_precision_go_in_and_come_back_as_they_were(name, model_dtype, dtype):
    model, image = MODELS[name]().eval().to(model_dtype), images()
    assert model.reconstruct(image.to(dtype)).dtype == dtype
    assert model(image.to(dtype)).image.dtype == model_dtype
    if isinstance(model, FirstStage):
        codes = model.encode(image.to(dtype))
        assert all(a.equal(b) for a, b in zip(codes, model.encode(image.to(dtype).to(model_dtype))))
        assert model.decode(codes).dtype == model_dtype


def test_values_are_not_looked_at_in_training():
    """A step should not wait for a GPU; the loss sees what is not finite."""
    model = MODELS["vq-gan"]()
    assert not model.train()(images() * torch.nan).image.isfinite().all()


@pytest.mark.parametrize(
    "image, warned",
    [
        (torch.linspace(0, 1, 768).view(1, 3, 16, 16), True),
        (torch.linspace(-1, 1, 768).view(1, 3, 16, 16), False),
        (torch.linspace(-0.5, 1.2, 768).view(1, 3, 16, 16), False),
        (torch.zeros(1, 3, 16, 16), False),  # grey
    ],
)
def test_images_that_are_likely_in_another_range_are_pointed_out_once(image, warned, capsys):
    inputs._warn_once.cache_clear()
    model = MODELS["vq-gan"]().eval()
    model.encode(image), model.encode(image)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == warned and all("within [0, 1]" in line for line in lines)


LABELS = torch.arange(5).repeat(2, 8, 4)[:, :, :16]


def masks():
    return MaskVQGAN(5, quantizer=vector(), **SIZES)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_are_taken(dtype):
    model = masks().eval()
    assert torch.equal(model.encode(LABELS.to(dtype))[0], model.encode(LABELS)[0])
    assert torch.equal(model(LABELS.to(dtype)).output, model(LABELS).output)
    two = LABELS > 2
    assert torch.equal(model.encode(two)[0], model.encode(two.long())[0])


@pytest.mark.parametrize(
    "labels, words",
    [
        (lambda: LABELS.numpy() + 0.5, "int64 labels"),
        (lambda: LABELS.tolist(), "should be a tensor"),
        (lambda: LABELS + 0.5, "int64 labels"),
        (lambda: LABELS.float(), "int64 labels"),
        (lambda: images(), "int64 labels"),
        (lambda: LABELS[0], "int64 labels"),
        (lambda: LABELS + 1, "labels reach 5 .* knows 0 to 4"),
        (lambda: LABELS - 1, "labels begin at -1"),
        (lambda: LABELS[:, :7], "not divisible"),
    ],
)
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("training", [False, True])
def test_what_is_no_mask_batch_is_refused_at_each_door(door, labels, words, training):
    refused(lambda: getattr(masks().train(training), door)(labels()), words)


def grids(*shape, levels=1, dtype=torch.int64):
    return tuple(torch.zeros(shape, dtype=dtype) for _ in range(levels))


@pytest.mark.parametrize(
    "name, codes, words",
    [
        ("vq-gan", grids(1, 4, 4)[0], r"pass \(codes,\)"),
        ("vq-gan", None, "should be a tuple"),
        ("vq-gan", (np.zeros((1, 4, 4), int),), "not a numpy.ndarray"),
        ("vq-gan", grids(1, 4, 4, levels=2), "2 grids of codes are given, .* has 1"),
        ("vq-gan", grids(4, 4), r"shape \(4, 4\)"),
        ("vq-gan", grids(1, 4, 4, dtype=torch.float32), "type float32"),
        ("vq-gan", grids(1, 4, 4, dtype=torch.bool), "type bool"),
        ("vq-gan", grids(1, 0, 4), "smaller than"),
        ("vq-gan", (torch.full((1, 4, 4), 16),), "codes span 16 to 16"),
        ("vq-gan", (torch.full((1, 4, 4), -1),), "codes span -1 to -1"),
        ("residual", grids(1, 4, 4), "1 grids? of codes"),
        ("residual", (*grids(1, 4, 4), *grids(1, 4, 5)), r"shapes \[\(1, 4, 4\), \(1, 4, 5\)\]"),
        ("residual", (*grids(1, 4, 4), *grids(2, 4, 4)), "shapes"),
        ("vq-vae-2", grids(1, 4, 4, levels=2), r"\[\(1, 2, 2\), \(1, 4, 4\)\] are expected"),
        ("vq-vae-2", (*grids(1, 2, 2), torch.full((1, 4, 4), 16)), "codes span 16"),
    ],
)
@pytest.mark.parametrize("door", ["decode", "embed"])
def test_what_are_no_codes_is_refused(name, codes, words, door):
    refused(lambda: getattr(MODELS[name](), door)(codes), words)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_codes_of_any_integer_type_are_taken(dtype):
    model = MODELS["vq-gan"]().eval()
    codes = model.encode(images())
    assert torch.equal(model.decode((codes[0].to(dtype),)), model.decode(codes))
    assert torch.equal(model.decode(list(codes)), model.decode(codes))


@pytest.mark.parametrize(
    "latent, words",
    [
        (lambda: np.zeros((1, 4, 8, 8)), "should be a tensor"),
        (lambda: torch.zeros(1, 5, 8, 8), r"\(B, 4, h, w\)"),
        (lambda: torch.zeros(4, 8, 8), r"\(B, 4, h, w\)"),
        (lambda: torch.zeros(1, 4, 8, 8, dtype=torch.int64), "type int64"),
        (lambda: torch.full((1, 4, 8, 8), torch.nan), "not finite"),
    ],
)
def test_what_is_no_latent_is_refused(latent, words):
    refused(lambda: MODELS["vq-gan"]().decode_latent(latent()), words)
    refused(lambda: MODELS["vae"]().decode(latent()), words)


def test_a_hierarchy_has_no_single_latent():
    model = MODELS["vq-vae-2"]()
    refused(lambda: model.latent(images()), "hierarchy")
    refused(lambda: model.decode_latent(torch.zeros(1, 8, 4, 4)), "hierarchy")


@pytest.mark.parametrize("name", ["vq-gan", "residual", "dvae"])
def test_decoding_a_latent_is_decoding_its_codes_and_differentiable(name):
    model, image = MODELS[name]().train(), images()
    with torch.no_grad():
        latent = model.eval().latent(image)
    latent = latent.requires_grad_()
    decoded = model.train().decode_latent(latent)
    assert torch.equal(decoded, model.decode(model.encode(image)))  # no dropout, no noise
    decoded.square().sum().backward()
    assert latent.grad.isfinite().all() and latent.grad.any() and model.training
