"""VQ-GAN's autoencoder (Esser et al. 2021, arXiv 2012.09841, section 3.1): a convolutional encoder and decoder around a codebook; and the same on label
maps.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.errors import UserError
from taming.first_stage.interface import Codes, FirstStage, Quantizer, Reconstruction
from taming.first_stage.resnet import Decoder, Encoder
from taming.images import colour_labels


class VQGAN(FirstStage):
    """Images (B, in_channels, H, W) in [-1, 1] <-> one grid of codes (B, H / f, W / f), f = 2^(len(multipliers) - 1).

    channels, multipliers: width of each scale, fine to coarse. blocks: residual blocks per scale (the decoder has one more). attention: indices of scales
    with attention; middle_attention: the middle of encoder and decoder has it too. latent_channels: width on either side of the quantizer's 1x1
    convolutions. key: the entry of a batch that is read.
    """

    def __init__(
        self,
        channels: int,
        multipliers: Sequence[int],
        quantizer: Quantizer,
        blocks: int = 2,
        attention: Sequence[int] = (),
        latent_channels: int = 256,
        in_channels: int = 3,
        dropout: float = 0.0,
        key: str = "image",
        middle_attention: bool = True,
    ):
        super().__init__()
        if any(level not in range(len(multipliers)) for level in attention):
            raise ValueError(f"attention {list(attention)} should be indices of the {len(multipliers)} scales, 0 to {len(multipliers) - 1}, not resolutions")
        shape = (channels, tuple(multipliers), blocks, tuple(attention), latent_channels, dropout, middle_attention)
        self.encoder = Encoder(in_channels, *shape)
        self.decoder = Decoder(in_channels, *shape)
        self.quantizer = quantizer
        self.quant_conv = nn.Conv2d(latent_channels, quantizer.dim, 1)
        self.post_quant_conv = nn.Conv2d(quantizer.dim, latent_channels, 1)
        self.num_codes = quantizer.num_codes
        self.stride = 2 ** (len(multipliers) - 1)
        self.in_channels, self.key = in_channels, key

    def forward(self, image: Tensor) -> Reconstruction:
        quantized = self.quantizer(self.latent(image))
        output = self.decoder(self.post_quant_conv(quantized.latent))
        return Reconstruction(self._picture(output), output, quantized.codes, quantized.loss)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Codes:
        with _evaluating(self):
            return self.quantizer(self.latent(image)).codes

    def decode(self, codes: Codes) -> Tensor:
        for grid, known in zip(codes, self.num_codes, strict=True):
            if grid.numel() and not 0 <= int(grid.min()) <= int(grid.max()) < known:
                told = f"codes span {int(grid.min())} to {int(grid.max())} but this first stage knows 0 to {known - 1}"
                raise UserError(f"{told}; were they made by another one?")
        return self.decoder(self.post_quant_conv(self.quantizer.embed(codes)))

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        if height % self.stride or width % self.stride:
            raise UserError(
                f"size {height}x{width} is not divisible by the downsampling factor {self.stride}; "
                f"take {height // self.stride * self.stride}x{width // self.stride * self.stride}"
            )
        return ((height // self.stride, width // self.stride),) * len(self.num_codes)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.decoder.conv_out.weight

    def latent(self, image: Tensor) -> Tensor:
        """(B, D, h, w) before it is quantized: what latent diffusion works on."""
        return self.quant_conv(self.encoder(self._input(image)))

    def decode_latent(self, latent: Tensor) -> Tensor:
        """The picture (B, C, H, W) of a latent (B, D, h, w), which is quantized first."""
        with _evaluating(self):
            return self.decoder(self.post_quant_conv(self.quantizer(latent).latent))

    def _input(self, image: Tensor) -> Tensor:
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise UserError(f"an image batch of shape {tuple(image.shape)} was given, (B, {self.in_channels}, H, W) in [-1, 1] is wanted")
        self.grids(*image.shape[-2:])
        return image

    def _picture(self, output: Tensor) -> Tensor:
        return output


class MaskVQGAN(VQGAN):
    """The same on label maps: int64 (B, H, W) in [0, labels) in, one-hot inside, logits (B, labels, H, W) out of `decode` and in `Reconstruction.output`."""

    def __init__(
        self,
        labels: int,
        channels: int,
        multipliers: Sequence[int],
        quantizer: Quantizer,
        blocks: int = 2,
        attention: Sequence[int] = (),
        latent_channels: int = 256,
        dropout: float = 0.0,
        key: str = "segmentation",
        middle_attention: bool = True,
    ):
        super().__init__(channels, multipliers, quantizer, blocks, attention, latent_channels, labels, dropout, key, middle_attention)
        self.labels = labels

    def _input(self, labels: Tensor) -> Tensor:
        if labels.ndim != 3 or labels.is_floating_point():
            raise UserError(f"a mask batch of shape {tuple(labels.shape)} and type {labels.dtype} was given, int64 labels (B, H, W) are wanted")
        if labels.numel() and int(labels.max()) >= self.labels:
            raise UserError(f"labels reach {int(labels.max())} but this mask tokenizer knows 0 to {self.labels - 1}; was it trained on another class list?")
        self.grids(*labels.shape[-2:])
        onehot = F.one_hot(labels, self.labels).permute(0, 3, 1, 2)
        return onehot.to(self.last_layer.dtype)

    def _picture(self, output: Tensor) -> Tensor:
        return colour_labels(output.argmax(dim=1), self.labels)


class _evaluating:
    """Dropout and restarts off for a while."""

    def __init__(self, module: nn.Module):
        self.module, self.was = module, module.training

    def __enter__(self):
        self.module.eval()

    def __exit__(self, *_):
        self.module.train(self.was)
