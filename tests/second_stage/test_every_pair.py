"""Any first stage with any prior, through the same seams."""

import pytest
import torch

from taming.first_stage import (
    DVAE,
    FSQ,
    LFQ,
    VQGAN,
    VQVAE,
    VQVAE2,
    EMAQuantizer,
    GaussianLikelihood,
    GumbelQuantizer,
    LogitLaplaceLikelihood,
    ResidualQuantizer,
    SimVQ,
    VectorQuantizer,
)
from taming.second_stage import GPT, ClassLabel, GatedPixelCNN, PixelSNAIL, SecondStage

NETS = {"width": 8, "residual_width": 4, "blocks": 1, "likelihood": GaussianLikelihood()}
STAGES = {
    "vq-gan": lambda: VQGAN(
        8, [1, 2, 2], VectorQuantizer(8, 4, normalize=True), blocks=1, latent_channels=8
    ),
    "vq-vae, ema": lambda: VQVAE(quantizer=EMAQuantizer(8, 4), **NETS),
    "vq-vae, fsq": lambda: VQVAE(quantizer=FSQ([3, 4]), **NETS),
    "vq-vae, lfq": lambda: VQVAE(quantizer=LFQ(3), **NETS),
    "vq-vae, simvq": lambda: VQVAE(quantizer=SimVQ(8, 4), **NETS),
    "vq-vae, residual": lambda: VQVAE(
        quantizer=ResidualQuantizer([VectorQuantizer(8, 4), VectorQuantizer(6, 4)]), **NETS
    ),
    "vq-vae-2": lambda: VQVAE2(quantizers=[EMAQuantizer(6, 4), VectorQuantizer(8, 4)], **NETS),
    "dvae": lambda: DVAE(4, GumbelQuantizer(8, 32, code_dim=8), LogitLaplaceLikelihood(), blocks=1),
}
PRIORS = {
    "gpt": lambda codes, grid, parts: GPT(1, 2, 8, num_codes=codes, grid=grid, parts=parts),
    "pixelcnn": lambda codes, grid, parts: GatedPixelCNN(
        2, 8, 3, num_codes=codes, grid=grid, parts=parts
    ),
    "pixelsnail": lambda codes, grid, parts: PixelSNAIL(
        1, 1, 8, 2, 3, num_codes=codes, grid=grid, parts=parts
    ),
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("stage", STAGES)
def test_codes_have_a_probability_are_learned_and_drawn(stage, prior):
    first = STAGES[stage]().eval()
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    codes = first.encode(image)
    grids = first.grids(16, 24)
    assert [tuple(c.shape[1:]) for c in codes] == list(grids)
    start = {"vocabulary": 3, "length": 1}
    levels = [{"vocabulary": k, "grid": list(g)} for g, k in zip(grids, first.num_codes)]
    model = SecondStage(
        first,
        ClassLabel(3),
        priors=[
            PRIORS[prior](k, list(g), [start, *levels[:i]])
            for i, (g, k) in enumerate(zip(grids, first.num_codes))
        ],
    )
    condition = model.conditioner({"class": torch.tensor([0, 2])})
    optimizer = torch.optim.Adam(model.priors.parameters(), 0.02)
    before = model.log_prob(codes, condition).sum()
    for _ in range(10):
        optimizer.zero_grad()
        (-model.log_prob(codes, condition).sum()).backward()
        optimizer.step()
    assert model.log_prob(codes, condition).sum() > before
    assert not any(p.grad is not None for p in first.parameters())
    picture = model.eval().sample({"class": torch.tensor([1])}, (16, 24), guidance=1.5, top_p=0.9)
    assert picture.shape == (1, 3, 16, 24) and torch.isfinite(picture).all()
