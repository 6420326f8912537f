"""VAE with the networks of VQ-VAE (Kingma and Welling 2013, arXiv 1312.6114): the contrast, a
continuous latent. It has no codes, and no prior to learn.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from taming.first_stage.inputs import check_latent
from taming.first_stage.interface import Autoencoder, Reconstruction, evaluating, in_dtype_of
from taming.first_stage.likelihood import Likelihood
from taming.first_stage.ranges import Blocks, Channels, Halvings, Width
from taming.first_stage.strided import Decoder, Encoder


@dataclass
class Posterior:
    """q(z | x): independent normal distributions."""

    mean: Tensor  # (B, D, h, w)
    log_variance: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype).to(
            self.mean.device
        )
        return self.mean + (self.log_variance / 2).exp() * noise

    def kl(self) -> Tensor:
        """KL(q || N(0, 1)) in nats, (B,)."""
        return (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).flatten(
            1
        ).sum(dim=1) / 2


class VAE(Autoencoder):
    """Images (B, in_channels, H, W) in [-1, 1] <-> latents (B, dim, H / f, W / f), f = 2^halvings;
    networks as VQVAE's.

    With LikelihoodLoss the total is the negative ELBO in nats per number of the image:
    `quantizer_loss` of a reconstruction is the KL term.

    Args:
        width: of encoder and decoder.
        residual_width: inside a residual block.
        dim: D, width of the latent.
        likelihood: what the decoder's numbers mean.
        blocks: residual blocks of encoder and decoder.
        halvings: strided convolutions of the encoder.
        in_channels: of the images.
        key: the entry of a batch that is read.
    """

    def __init__(
        self,
        width: Width,
        residual_width: Width,
        dim: Width,
        likelihood: Likelihood,
        blocks: Blocks = 2,
        halvings: Halvings = 2,
        in_channels: Channels = 3,
        key: str = "image",
    ):
        super().__init__()
        self.dim, self.stride, self.in_channels, self.key = dim, 2**halvings, in_channels, key
        self.likelihood = likelihood
        self.encoder = nn.Sequential(
            Encoder(in_channels, width, residual_width, blocks, halvings),
            nn.Conv2d(width, 2 * dim, 1),
        )
        self.decoder = Decoder(
            dim, width, residual_width, blocks, halvings, likelihood.maps * in_channels
        )

    def encode(self, image: Tensor) -> Posterior:
        return Posterior(*self.encoder(self._input(image)).chunk(2, dim=1))

    def decode(self, latent: Tensor) -> Tensor:
        """latent (B, dim, h, w) -> (B, in_channels, H, W)"""
        return self._decode(check_latent(latent, self.dim, self.last_layer))

    def forward(self, image: Tensor) -> Reconstruction:
        """In evaluation too the latent is random, as the ELBO has it, but with fixed noise."""
        posterior = self.encode(image)
        latent = posterior.sample(None if self.training else torch.Generator().manual_seed(0))
        output = self._output(latent)
        picture = self._picture(output)
        kl = posterior.kl().mean() / picture[0].numel()
        return Reconstruction(picture, output, (), kl, self.likelihood)

    @torch.no_grad()
    def reconstruct(self, image: Tensor) -> Tensor:
        with evaluating(self):
            posterior = self.encode(image)
        return in_dtype_of(image, self.decode(posterior.mean))

    @torch.no_grad()
    def sample(self, count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
        """(count, in_channels, H, W) for z ~ N(0, 1)."""
        (grid,) = self.grids(*size)
        noise = torch.randn(count, self.dim, *grid, generator=torch.Generator().manual_seed(seed))
        return self.decode(noise.to(self.last_layer.device))

    @torch.no_grad()
    def interpolate(self, first: Tensor, last: Tensor, steps: int) -> Tensor:
        """Images (steps, in_channels, H, W) on the straight line between the latents of two
        images (in_channels, H, W).
        """
        ends = self.encode(torch.stack([first, last])).mean
        shares = torch.linspace(0, 1, steps, device=ends.device)[:, None, None, None]
        return self.decode((1 - shares) * ends[0] + shares * ends[1])

    def _run_decoder(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.decoder.up[-1].get_parameter("weight")
