"""Priors and second stages in every precision: logits, likelihoods and samples."""

import pytest
import torch

from taming.first_stage import VQGAN, VectorQuantizer
from taming.second_stage import GPT, GatedPixelCNN, PixelSNAIL, SecondStage, Unconditional

PRIORS = {
    "gpt": lambda: GPT(1, 2, 16),
    "modern gpt": lambda: GPT(1, 2, 16, block={"norm": "rms", "mlp": "swiglu", "rotary": True}),
    "pixelcnn": lambda: GatedPixelCNN(1, 8),
    "pixelsnail": lambda: PixelSNAIL(1, 1, 8),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def model_of(name: str) -> SecondStage:
    first = VQGAN(8, [1, 2], VectorQuantizer(16, 4), blocks=1, latent_channels=4)
    return SecondStage(first, Unconditional(), PRIORS[name](), size=8).eval()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PRIORS)
def test_every_door(name, dtype, device):
    model = model_of(name).to(device, dtype)
    x = (torch.rand(2, 3, 8, 8) * 2 - 1).to(device, dtype)
    codes = model.encode(x)
    condition = model.conditioner({"image": x})
    with torch.no_grad():
        logits = model.prior(codes[0], condition)
        assert logits.dtype == dtype and logits.isfinite().all()
        likelihood = model.log_prob(codes, condition)
    assert likelihood.shape == (2,) and likelihood.isfinite().all() and (likelihood < 0).all()
    picture = model.sample({"count": 2}, seed=1)
    assert picture.dtype == dtype and picture.shape == x.shape
    assert float(picture.abs().max()) <= 1  # drawn pictures are clamped, `decode` is not


def test_encode_is_the_first_stages():
    model = model_of("gpt")
    x = torch.rand(1, 3, 8, 8) * 2 - 1
    assert torch.equal(model.encode(x)[0], model.first_stage.encode(x)[0])
