"""VQ-GAN's autoencoder (Esser et al. 2021, arXiv 2012.09841, section 3.1): a convolutional encoder
and decoder around a codebook; and the same on label maps.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from taming.config.ranges import Decay, Index, Range
from taming.first_stage.colour import YCbCr
from taming.first_stage.inputs import check_labels, one_hot
from taming.first_stage.interface import FirstStage, Quantizer
from taming.first_stage.ranges import Channels, Multipliers, Width
from taming.first_stage.resnet import Decoder, Encoder, Layers, Padding, Scales
from taming.images import as_labels, colour_labels


class VQGAN(FirstStage):
    """Images (B, in_channels, H, W) in [-1, 1] <-> one grid of codes (B, H / f, W / f), f =
    2^(len(multipliers) - 1).

    Args:
        channels: width of the first convolution.
        multipliers: width of each scale, fine to coarse, in units of `channels`.
        quantizer: between two convolutions.
        blocks: residual blocks per scale; the decoder has one more.
        attention: indices of scales with attention.
        latent_channels: width on the outer side of these convolutions.
        in_channels: of the images.
        dropout: probability, in residual blocks.
        key: the entry of a batch that is read.
        middle_attention: between the two middle blocks of encoder and decoder.
        quant_kernel: of the two convolutions around the quantizer.
        padding: of the 3x3 convolutions; zeros, as published, leave a frame of one pixel around
            pictures of small models.
        groups: of channels that group normalisation takes together; 32, as published, or the most
            that divide a layer. With replicate padding at least four channels should share a group.
        colour: encoder and decoder work in these colours instead of RGB.
    """

    def __init__(
        self,
        channels: Width,
        multipliers: Multipliers,
        quantizer: Quantizer,
        blocks: Annotated[int, Range(1, 128)] = 2,
        attention: Sequence[Index] = (),
        latent_channels: Width = 256,
        in_channels: Channels = 3,
        dropout: Decay = 0.0,
        key: str = "image",
        middle_attention: bool = True,
        quant_kernel: Literal[1, 3] = 1,
        padding: Padding = "zeros",
        groups: Annotated[int, Range(1, 1024)] = 32,
        colour: YCbCr | None = None,
    ):
        stride = 2 ** (len(multipliers) - 1)
        super().__init__(quantizer, quantizer.num_codes, stride, in_channels, key)
        if any(level not in range(len(multipliers)) for level in attention):
            raise ValueError(
                f"attention {list(attention)} should be indices of the {len(multipliers)} scales, 0"
                f" to {len(multipliers) - 1}, not resolutions"
            )
        scales = Scales(
            channels,
            tuple(multipliers),
            blocks,
            tuple(attention),
            latent_channels,
            middle_attention,
            Layers(dropout, padding, groups),
        )
        if colour is not None and in_channels != 3:
            raise ValueError(f"colour is of pictures with 3 channels, not {in_channels}; leave it")
        self.colour = colour
        self.encoder = Encoder(in_channels, scales)
        self.decoder = Decoder(in_channels, scales)
        width, code_width, kernel = latent_channels, quantizer.code_dim, quant_kernel
        self.quant_conv = nn.Conv2d(width, quantizer.dim, kernel, padding=kernel // 2)
        self.post_quant_conv = nn.Conv2d(code_width, width, kernel, padding=kernel // 2)

    @property
    def colours(self) -> YCbCr | None:
        return self.colour

    @property
    def last_layer(self) -> nn.Parameter:
        return self.decoder.conv_out.get_parameter("weight")

    def _run_encoder(self, x: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(x if self.colour is None else self.colour(x)))

    def _run_decoder(self, latent: Tensor) -> Tensor:
        output = self.decoder(self.post_quant_conv(latent))
        return output if self.colour is None else self.colour.inverse(output)


class MaskVQGAN(VQGAN):
    """The same on label maps: int64 (B, H, W) in [0, labels) in, one-hot inside, logits (B, labels,
    H, W) out of `decode` and in `Reconstruction.output`.

    Args:
        labels: number of classes.
        channels: width of the first convolution.
        multipliers: width of each scale, fine to coarse, in units of `channels`.
        quantizer: between two 1x1 convolutions.
        blocks: residual blocks per scale; the decoder has one more.
        attention: indices of scales with attention.
        latent_channels: width on the outer side of these 1x1 convolutions.
        dropout: probability, in residual blocks.
        key: the entry of a batch that is read.
        middle_attention: between the two middle blocks of encoder and decoder.
    """

    def __init__(
        self,
        labels: Channels,
        channels: Width,
        multipliers: Multipliers,
        quantizer: Quantizer,
        blocks: Annotated[int, Range(1, 128)] = 2,
        attention: Sequence[Index] = (),
        latent_channels: Width = 256,
        dropout: Decay = 0.0,
        key: str = "segmentation",
        middle_attention: bool = True,
    ):
        super().__init__(
            channels,
            multipliers,
            quantizer,
            blocks,
            attention,
            latent_channels,
            labels,
            dropout,
            key,
            middle_attention,
        )
        self.labels = labels

    def _batch(self, image: Any) -> Any:
        return as_labels(image)

    def _input(self, image: Tensor) -> Tensor:
        # On a CPU a look costs nothing, and a label out of range is told from all other errors
        values = not self.training or self.last_layer.device.type == "cpu"
        labels = check_labels(self._batch(image), self.in_channels, self.last_layer, values)
        self.grids(*labels.shape[-2:])
        return one_hot(labels, self.in_channels).to(self.last_layer.dtype)

    def _picture(self, output: Tensor) -> Tensor:
        return colour_labels(output.argmax(dim=1), self.in_channels)
