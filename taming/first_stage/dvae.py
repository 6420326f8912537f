"""The discrete VAE of DALL-E: a Gumbel-softmax relaxation over picture tokens (Ramesh et al. 2021,
arXiv 2102.12092, section 2.1 and appendix A).
"""

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.ranges import Range
from taming.first_stage.interface import FirstStage, Quantized, Quantizer
from taming.first_stage.likelihood import Likelihood, inset
from taming.first_stage.ranges import Channels


class DVAE(FirstStage):
    """Images (B, in_channels, H, W) in [-1, 1] <-> codes (B, H / 8, W / 8).

    The KL term counts once per position and is divided by the numbers of the image, as the
    likelihood is: a kl_weight of 6.6 means the paper's beta.

    Args:
        width: of the finest scale; the three coarser ones have 2, 4 and 8 times as much.
        quantizer: its `dim` must be 8 width (its 1x1 convolution makes the logits); its `code_dim`
            is what the decoder begins with.
        likelihood: what the decoder's numbers mean; None for a loss that reads the image itself.
        blocks: bottleneck blocks per scale.
        inset: the encoder reads pixels in [0.1, 0.9], as published; else in [-1, 1].
        in_channels: of the images.
        key: the entry of a batch that is read.
    """

    def __init__(
        self,
        width: Annotated[int, Range(4, 2**12)],
        quantizer: Quantizer,
        likelihood: Likelihood | None = None,
        blocks: Annotated[int, Range(1, 128)] = 2,
        in_channels: Channels = 3,
        key: str = "image",
        inset: bool = False,
    ):
        super().__init__(quantizer, quantizer.num_codes, 8, in_channels, key, likelihood)
        if quantizer.dim != 8 * width:
            raise ValueError(
                f"the quantizer's dim is {quantizer.dim}, but the encoder gives 8 x width ="
                f" {8 * width} numbers; make them equal"
            )
        self.inset = inset
        maps = likelihood.maps if likelihood is not None else 1
        widths, layers = [width * 2**i for i in range(4)], 4 * blocks
        self.encoder = nn.ModuleList([nn.Conv2d(in_channels, width, 7, padding=3)])
        self.encoder.extend(
            _scale(before, after, blocks, layers, (3, 3, 3, 1))
            for before, after in zip([width, *widths], widths)
        )
        coarse = widths[::-1]
        self.decoder = nn.ModuleList(
            _scale(before, after, blocks, layers, (1, 3, 3, 3))
            for before, after in zip([quantizer.code_dim, *coarse], coarse)
        )
        self.decoder.append(nn.Conv2d(width, maps * in_channels, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                nn.init.zeros_(module.get_parameter("bias"))

    def _run_encoder(self, x: Tensor) -> Tensor:
        first, *scales = self.encoder
        x = first(inset(x) if self.inset else x)
        for i, scale in enumerate(scales):
            x = scale(F.max_pool2d(x, 2) if i else x)
        return F.relu(x)

    def _quantize(self, x: Tensor) -> Quantized:
        quantized = super()._quantize(x)
        positions = quantized.codes[0][0].numel()
        quantized.loss = quantized.loss * positions / x[0].numel()
        return quantized

    def _run_decoder(self, latent: Tensor) -> Tensor:
        *scales, last = self.decoder
        x = latent
        for i, scale in enumerate(scales):
            x = scale(F.interpolate(x, scale_factor=2.0, mode="nearest") if i else x)
        return last(F.relu(x))

    @property
    def last_layer(self) -> nn.Parameter:
        return self.decoder[-1].get_parameter("weight")


class BottleneckBlock(nn.Module):
    """x + gain * (ReLU and convolution, four times), a quarter as wide inside; the gain keeps a
    deep stack near the identity at first.
    """

    def __init__(self, before: int, after: int, kernels: tuple[int, ...], gain: float):
        super().__init__()
        inner = after // 4
        widths = [before, inner, inner, inner, after]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, k, padding=k // 2) for a, b, k in zip(widths, widths[1:], kernels)
        )
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for conv in self.convs:
            h = conv(F.relu(h))
        return self.shortcut(x) + self.gain * h


def _scale(
    before: int, after: int, blocks: int, layers: int, kernels: tuple[int, ...]
) -> nn.Sequential:
    return nn.Sequential(
        *(
            BottleneckBlock(before if i == 0 else after, after, kernels, layers**-2)
            for i in range(blocks)
        )
    )
