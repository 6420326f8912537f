"""VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937): -log p(x | z_q) + |sg[z_e] - e|^2 + beta
|z_e - sg[e]|^2 (eq. 3).

The first term is the likelihood's (likelihood.py, through LikelihoodLoss), the other two the
quantizer's.
"""

from torch import Tensor, nn

from taming.first_stage.interface import FirstStage, Quantizer
from taming.first_stage.likelihood import Likelihood
from taming.first_stage.ranges import Blocks, Channels, Halvings, Width
from taming.first_stage.strided import Decoder, Encoder


class VQVAE(FirstStage):
    """Images (B, in_channels, H, W) in [-1, 1] <-> codes (B, H / f, W / f), f = 2^halvings.

    Args:
        width: of encoder and decoder; 256 in the paper.
        residual_width: inside a residual block; 256 in the paper.
        quantizer: of the encoder's features, after a 1x1 convolution.
        blocks: residual blocks of encoder and decoder.
        halvings: strided convolutions of the encoder.
        likelihood: what the decoder's numbers mean; None for a loss that reads the image itself.
        in_channels: of the images.
        key: the entry of a batch that is read.
    """

    def __init__(
        self,
        width: Width,
        residual_width: Width,
        quantizer: Quantizer,
        blocks: Blocks = 2,
        halvings: Halvings = 2,
        likelihood: Likelihood | None = None,
        in_channels: Channels = 3,
        key: str = "image",
    ):
        super().__init__(quantizer, quantizer.num_codes, 2**halvings, in_channels, key, likelihood)
        maps = likelihood.maps if likelihood is not None else 1
        self.encoder = nn.Sequential(
            Encoder(in_channels, width, residual_width, blocks, halvings),
            nn.Conv2d(width, quantizer.dim, 1),
        )
        self.decoder = Decoder(
            quantizer.code_dim, width, residual_width, blocks, halvings, maps * in_channels
        )

    def _run_encoder(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def _run_decoder(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.decoder.up[-1].get_parameter("weight")
