"""VQ-VAE-2: a hierarchy of code grids, coarse to fine (Razavi et al. 2019, arXiv 1906.00446,
section 3.1).
"""

from typing import Annotated

import torch
from torch import Tensor, nn

from taming.config.ranges import Length
from taming.errors import UserError
from taming.first_stage.inputs import check_divides
from taming.first_stage.interface import Codes, FirstStage, Quantized, Quantizer
from taming.first_stage.likelihood import Likelihood
from taming.first_stage.ranges import Blocks, Channels, Halvings, Width
from taming.first_stage.strided import Decoder, Encoder


class VQVAE2(FirstStage):
    """Images (B, in_channels, H, W) in [-1, 1] <-> one grid of codes per quantizer, the finest (B,
    H / f, W / f) with f = 2^halvings, each coarser one half as high and wide.

    Each level quantizes the encoder's features together with what the coarser levels' codes say;
    the decoder reads all levels.

    Args:
        width: of all encoders and decoders; 128 in the paper.
        residual_width: inside a residual block; 64 in the paper.
        quantizers: coarse to fine, two or more.
        blocks: residual blocks of each encoder and decoder.
        halvings: strided convolutions of the first encoder.
        likelihood: what the decoder's numbers mean; None for a loss that reads the image itself.
        in_channels: of the images.
        key: the entry of a batch that is read.
    """

    def __init__(
        self,
        width: Width,
        residual_width: Width,
        quantizers: Annotated[list[Quantizer], Length(2, 6)],
        blocks: Blocks = 2,
        halvings: Halvings = 2,
        likelihood: Likelihood | None = None,
        in_channels: Channels = 3,
        key: str = "image",
    ):
        if len(quantizers) < 2:
            raise ValueError("quantizers: a hierarchy has two or more levels; VQVAE has one")
        if any(len(quantizer.num_codes) != 1 for quantizer in quantizers):
            raise ValueError(
                "quantizers with several codes per position can't be levels of a hierarchy"
            )
        # The names of the weights in checkpoints: quantizer.levels.0, ...
        shelf = nn.ModuleDict({"levels": nn.ModuleList(quantizers)})
        num_codes = tuple(quantizer.num_codes[0] for quantizer in quantizers)
        super().__init__(shelf, num_codes, 2**halvings, in_channels, key, likelihood)
        self.levels = tuple(quantizers)
        networks = (width, residual_width, blocks)
        count, maps = len(quantizers), likelihood.maps if likelihood is not None else 1
        dims = [q.code_dim for q in quantizers]
        # Fine to coarse
        self.encoders = nn.ModuleList(
            Encoder(in_channels if i == 0 else width, *networks, halvings if i == 0 else 1)
            for i in range(count)
        )
        self.project = nn.ModuleList(
            nn.Conv2d(width * (1 if i == 0 else 2), q.dim, 1) for i, q in enumerate(quantizers)
        )
        self.context = nn.ModuleList(
            Decoder(sum(dims[: i + 1]), *networks, 1, width) for i in range(count - 1)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(sum(dims[: i + 1]), sum(dims[: i + 1]), 4, stride=2, padding=1)
            for i in range(count - 1)
        )
        self.decoder = Decoder(sum(dims), *networks, halvings, maps * in_channels)

    @property
    def multiple(self) -> int:
        return self.stride * 2 ** (len(self.num_codes) - 1)

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        check_divides(height, width, self.multiple)
        finest = (height // self.stride, width // self.stride)
        shrink = [2**i for i in reversed(range(len(self.num_codes)))]
        return tuple((finest[0] // n, finest[1] // n) for n in shrink)

    def latent(self, image: Tensor) -> Tensor:
        raise UserError("a hierarchy has no latent of its own: each level is quantized in turn")

    def decode_latent(self, latent: Tensor) -> Tensor:
        raise UserError("a hierarchy has no latent of its own: decode its codes instead")

    def _quantize(self, x: Tensor) -> Quantized:
        """`latent`: all levels' vectors on the finest grid (B, D_0 + ... , h, w)."""
        features = []  # coarse to fine
        for encoder in self.encoders:
            x = encoder(x)
            features.insert(0, x)
        quantized = self.levels[0](self.project[0](features[0]))
        latent, codes, loss = quantized.latent, quantized.codes, quantized.loss
        for level in range(1, len(self.levels)):
            feature = torch.cat([features[level], self.context[level - 1](latent)], dim=1)
            quantized = self.levels[level](self.project[level](feature))
            latent = self._join(latent, quantized.latent, level)
            codes, loss = codes + quantized.codes, loss + quantized.loss
        return Quantized(latent, codes, loss)

    def _embed(self, codes: Codes) -> Tensor:
        vectors = [quantizer.embed((grid,)) for quantizer, grid in zip(self.levels, codes)]
        latent, *finer = (v.to(self.last_layer.dtype) for v in vectors)
        for level, vectors in enumerate(finer, start=1):
            latent = self._join(latent, vectors, level)
        return latent

    def _run_decoder(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)

    def _join(self, coarser: Tensor, latent: Tensor, level: int) -> Tensor:
        """The vectors of a level beside those of the coarser ones, upsampled to its grid."""
        return torch.cat([self.up[level - 1](coarser), latent], dim=1)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.decoder.up[-1].get_parameter("weight")
