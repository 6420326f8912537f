"""p(image | latent): what a decoder's numbers mean, and how probable they make an image."""

import math

import torch
from torch import Tensor, nn

from taming.config.ranges import Positive
from taming.first_stage.inputs import precise

BIN = 1 / 255  # half the distance of two grey levels on [-1, 1]
INSET = 0.1  # of logit-Laplace: pixels are mapped to [INSET, 1 - INSET]


class Likelihood(nn.Module):
    """forward: what the decoder gives (B, maps * C, H, W) -> parameters, one tensor that the other
    methods read.
    """

    maps: int  # numbers that the decoder gives for each pixel and channel

    def picture(self, parameters: Tensor) -> Tensor:
        """(B, C, H, W): what a person would look at."""
        raise NotImplementedError(f"{type(self).__name__} shows nothing")

    def negative_log(self, image: Tensor, parameters: Tensor) -> Tensor:
        """-log p of each number of the image (B, C, H, W), nats, as a density on [-1, 1]."""
        raise NotImplementedError(f"{type(self).__name__} has no density")

    def bits(self, image: Tensor, parameters: Tensor) -> Tensor | None:
        """-log2 of the probability of each number's grey level, one of 256; None where the density
        does not stay on the picture's range.
        """
        return None


class GaussianLikelihood(Likelihood):
    """Independent normal distributions around what the decoder gives, of one variance.

    The squared error counts 1 / (2 variance) against the other terms of a loss, so with a variance
    of its own a weight such as beta means the same on any data.

    Args:
        variance: of each number of the image, in [-1, 1]; None learns it.
    """

    maps = 1

    def __init__(self, variance: Positive | None = None):
        super().__init__()
        self.log_variance = nn.Parameter(
            torch.full((), math.log(variance or 0.1)), requires_grad=variance is None
        )

    def forward(self, decoded: Tensor) -> Tensor:
        """Means and log-variances, (B, 2 C, H, W)."""
        return torch.cat([decoded, self.log_variance.to(decoded).expand_as(decoded)], dim=1)

    def picture(self, parameters: Tensor) -> Tensor:
        return parameters.chunk(2, dim=1)[0]

    def negative_log(self, image: Tensor, parameters: Tensor) -> Tensor:
        mean, log_variance = parameters.float().chunk(2, dim=1)
        return (
            (image - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)
        ) / 2

    def bits(self, image: Tensor, parameters: Tensor) -> Tensor:
        """Of the normal distribution's mass between the neighbouring levels' middles; all that lies
        beyond belongs to black and white.
        """
        dtype = precise(parameters.device)
        mean, log_variance = parameters.to(dtype).chunk(2, dim=1)
        levels, scale = ((image.to(dtype) + 1) / (2 * BIN)).round(), (log_variance / 2).exp()
        upper = torch.where(levels == 255, torch.inf, ((levels + 0.5) * 2 * BIN - 1 - mean) / scale)
        lower = torch.where(levels == 0, -torch.inf, ((levels - 0.5) * 2 * BIN - 1 - mean) / scale)
        # Far in the upper tail, differences of numbers near 1 would be lost: look from the other
        # side
        flipped = lower + upper > 0
        upper, lower = torch.where(flipped, -lower, upper), torch.where(flipped, -upper, lower)
        above, below = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
        return -(above + torch.log1p(-(below - above).exp())) / math.log(2)


class LogitLaplaceLikelihood(Likelihood):
    """The logit of a pixel in (0, 1) is Laplace distributed: no mass beyond black and white (Ramesh
    et al. 2021, arXiv 2102.12092, appendix A.3).

    Pixels are mapped to [0.1, 0.9] first, so that logits stay finite; 5 to 50 % of the mass lies
    outside of that, so bits per dimension would not compare.
    """

    maps = 2

    def forward(self, decoded: Tensor) -> Tensor:
        """Locations of the logits and the logarithms of their scales, (B, 2 C, H, W)."""
        return decoded

    def picture(self, parameters: Tensor) -> Tensor:
        x = parameters.chunk(2, dim=1)[0].sigmoid()
        return 2 * ((x - INSET) / (1 - 2 * INSET)).clamp(0, 1) - 1

    def negative_log(self, image: Tensor, parameters: Tensor) -> Tensor:
        """Of the density on the mapped range (0, 1), as the paper has it."""
        location, log_scale = parameters.float().chunk(2, dim=1)
        x = inset(image)
        return (
            (torch.logit(x) - location).abs() * (-log_scale).exp()
            + log_scale
            + math.log(2)
            + x.log()
            + torch.log1p(-x)
        )


def inset(image: Tensor) -> Tensor:
    """[-1, 1] -> [0.1, 0.9]"""
    return (1 - 2 * INSET) * (image + 1) / 2 + INSET
