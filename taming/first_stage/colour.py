"""Brightness and two colour differences, each with mean 0 and deviation 1, instead of red, green
and blue.

Red against green has about a twentieth of the variance of brightness in photographs of landscapes,
and a network fed RGB learns that direction last. A fixed linear map gives every direction the same
variance, and its inverse stands behind the decoder, so that images stay RGB outside.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from taming.config.ranges import Length, Number, Positive

# Y, Cb and Cr of RGB (ITU-R BT.601), each from -1 to 1 for RGB in [-1, 1]
BT601 = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
LEAST_DEVIATION = 0.01  # of a channel: grey pictures have no colour differences to divide by


class YCbCr(nn.Module):
    """Images (B, 3, H, W), RGB in [-1, 1] -> (brightness, blue difference, red difference) as ITU-R
    BT.601 weighs them, less their mean, divided by their deviation.

    Args:
        mean: of the three over pixels; null: of the training pictures, when training starts.
        deviation: of the three over pixels; null: likewise.
    """

    matrix: Tensor
    mean: Tensor
    deviation: Tensor
    fitted: Tensor

    def __init__(
        self,
        mean: Annotated[Sequence[Number], Length(3, 3)] | None = None,
        deviation: Annotated[Sequence[Positive], Length(3, 3)] | None = None,
    ):
        super().__init__()
        if (mean is None) != (deviation is None):
            raise ValueError(
                "mean and deviation belong together; give both, or neither, to take them from the"
                " training pictures"
            )
        self.register_buffer("matrix", torch.tensor(BT601), persistent=False)
        self.register_buffer("mean", torch.tensor(mean or (0.0, 0.0, 0.0)))
        self.register_buffer("deviation", torch.tensor(deviation or (1.0, 1.0, 1.0)))
        self.register_buffer("fitted", torch.tensor(mean is not None))

    def forward(self, image: Tensor) -> Tensor:
        mean, deviation = self.mean.float(), self.deviation.float()
        return _mapped(image, self.matrix.float() / deviation[:, None], -mean / deviation)

    def inverse(self, colours: Tensor) -> Tensor:
        """The image of what `forward` gives."""
        inverse = _inverse(self.matrix.float())
        offset = (inverse * self.mean.float()).sum(dim=1)
        return _mapped(colours, inverse * self.deviation.float(), offset)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Mean and deviation become those of images (N, 3, H, W)."""
        colours = _mapped(images.float(), self.matrix, torch.zeros_like(self.mean))
        self.mean.copy_(colours.mean(dim=(0, 2, 3)))
        deviation = colours.std(dim=(0, 2, 3), correction=0)
        self.deviation.copy_(deviation.clamp(min=LEAST_DEVIATION))
        self.fitted.fill_(True)


def _inverse(matrix: Tensor) -> Tensor:
    """Of 3 x 3 numbers, by cofactors: what half precision and ONNX have, too."""
    a, b, c = matrix.unbind()
    columns = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], dim=1)
    return columns / (a * columns[:, 0]).sum()


def _cross(u: Tensor, v: Tensor) -> Tensor:
    (u0, u1, u2), (v0, v1, v2) = u.unbind(), v.unbind()
    return torch.stack([u1 * v2 - u2 * v1, u2 * v0 - u0 * v2, u0 * v1 - u1 * v0])


def _mapped(image: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """matrix @ x + offset at each pixel; in the precision of the image, whatever autocast says: a
    difference of colours is small beside the colours.
    """
    with torch.autocast(image.device.type, enabled=False):
        mapped = torch.nn.functional.conv2d(image.float(), matrix[:, :, None, None], offset)
    return mapped if image.dtype == torch.float32 else mapped.to(image.dtype)
