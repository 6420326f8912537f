"""The seam between images and codes: what every quantizer and every first stage offers.

Letters: B batch; C, H, W image; D latent width; h, w code grid; K codes in the codebook.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from taming.errors import UserError
from taming.first_stage.inputs import check_codes, check_divides, check_image, check_latent
from taming.first_stage.inputs import precise as precise
from taming.first_stage.likelihood import Likelihood
from taming.first_stage.tiling import encode_tiled, is_large
from taming.images import as_images

_LOCK = threading.Lock()
_EVALUATING: dict[nn.Module, int] = {}
"""What is to train again -> by how many it is evaluated now."""
Codes = tuple[Tensor, ...]
"""One int64 (B, h, w) grid per level, coarse to fine; usually one."""


@dataclass
class Quantized:
    latent: Tensor  # (B, D, h, w); the gradient goes straight through to the encoder
    codes: Codes  # each in [0, K)
    loss: Tensor  # ()


class Quantizer(nn.Module):
    """Latents (B, D, h, w) -> the nearest of finitely many.

    Computes in float32 whatever autocast says, and gives latents back in the dtype they had.
    """

    num_codes: tuple[int, ...]
    dim: int
    begins_batch = ends_batch = True  # the next forward pass of training, where parts are counted

    @property
    def code_dim(self) -> int:
        """Width of the latents that come out: D, except for relaxations, which read logits."""
        return self.dim

    def forward(self, latent: Tensor) -> Quantized:
        raise NotImplementedError(f"{type(self).__name__} does not quantize")

    def embed(self, codes: Codes) -> Tensor:
        """The latents (B, D, h, w) that codes stand for."""
        raise NotImplementedError(f"{type(self).__name__} does not embed")

    def codebook(self, level: int = 0) -> Tensor:
        """The vectors (K, D) that the codes of a level stand for, float32."""
        count, *others = self.num_codes
        if others:
            raise NotImplementedError(f"{type(self).__name__} has a codebook for each level")
        every = torch.arange(count, device=self.device)
        return self.embed((every[None, None],))[0, :, 0].T.float()

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """The grid of each level's codes, for a latent of this size."""
        return ((height, width),) * len(self.num_codes)

    @property
    def device(self) -> torch.device:
        """Where its numbers are."""
        tensors = [*self.parameters(), *self.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")

    def set_step(self, batch: int, micro_batch: int = 0, micro_batches: int = 1) -> None:
        """Before each forward pass of training, for what follows a schedule or counts batches.

        Args:
            batch: number of the batch, from 0.
            micro_batch: which part of it comes next, where gradients are accumulated.
            micro_batches: number of its parts.
        """
        self.begins_batch = micro_batch == 0
        self.ends_batch = micro_batch == micro_batches - 1


@dataclass
class Reconstruction:
    image: Tensor  # (B, C, H, W), what a person would look at
    # What the loss reads: logits of a mask, parameters of a likelihood, else the image
    output: Tensor
    codes: Codes
    quantizer_loss: Tensor  # ()
    likelihood: Likelihood | None = None  # what reads `output`, where it holds parameters of one


class Autoencoder(nn.Module):
    """Images -> a latent -> images. Images are float (B, C, H, W) in [-1, 1]."""

    stride: int  # pixels per latent position, H / h of the finest level
    key: str  # which entry of a batch it reads
    in_channels: int
    labels: int | None = None  # of the label maps it reads, where it reads label maps
    num_codes: tuple[int, ...] = ()  # per level
    likelihood: Likelihood | None  # what the decoder's numbers mean; None: the image itself

    @property
    def colours(self) -> nn.Module | None:
        """The colours that the networks work in; None: those of the image."""
        return None

    @property
    def multiple(self) -> int:
        """Sides of an image are multiples of this: the stride of the coarsest level."""
        return self.stride

    def forward(self, image: Tensor) -> Reconstruction:
        raise NotImplementedError(f"{type(self).__name__} does not reconstruct")

    def reconstruct(self, image: Tensor) -> Tensor:
        """What `image` becomes, without anything random, in the dtype of `image`."""
        raise NotImplementedError(f"{type(self).__name__} does not reconstruct")

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """The grid of each level for an image of this size."""
        check_divides(height, width, self.multiple)
        return ((height // self.stride, width // self.stride),) * max(1, len(self.num_codes))

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight that the adaptive weight of the adversarial loss compares gradients at."""
        raise NotImplementedError(f"{type(self).__name__} has no last layer")

    def _batch(self, image: Any) -> Any:
        """A picture, an array or a path as a batch of one."""
        return as_images(image)

    def _input(self, image: Tensor) -> Tensor:
        """What the encoder reads, checked. Values are not looked at in training: a step should not
        wait for a GPU, and data sets are checked before.
        """
        image = self._batch(image)
        image = check_image(image, self.in_channels, self.last_layer, not self.training)
        self.grids(*image.shape[-2:])
        return image

    def _run_decoder(self, latent: Tensor) -> Tensor:
        """A latent (B, D, h, w) -> the numbers that the decoder gives for each pixel."""
        raise NotImplementedError(f"{type(self).__name__} decodes nothing")

    def _picture(self, output: Tensor) -> Tensor:
        """`Reconstruction.output` -> what a person would look at."""
        return output if self.likelihood is None else self.likelihood.picture(output)

    def _output(self, latent: Tensor) -> Tensor:
        numbers = self._run_decoder(latent)
        return numbers if self.likelihood is None else self.likelihood(numbers)

    def _decode(self, latent: Tensor) -> Tensor:
        with evaluating(self):
            output = self._output(latent)
        return output if self.likelihood is None else self.likelihood.picture(output)


class FirstStage(Autoencoder):
    """A tokenizer of images: encoder, quantizer, decoder. One of masks takes int64 labels
    (B, H, W) and one-hots inside.

    Subclasses implement `_run_encoder`, `_run_decoder` and `last_layer`; those whose quantizer does
    not simply follow the encoder also `_quantize` and `_embed`.
    """

    quantizer: Quantizer  # of the one latent; a hierarchy has several (vqvae2.py)
    decoding: tuple[str, ...] = ("decoder", "post_quant_conv")  # parts that codes don't depend on

    def __init__(
        self,
        quantizer: nn.Module,
        num_codes: tuple[int, ...],
        stride: int,
        in_channels: int,
        key: str,
        likelihood: Likelihood | None = None,
    ):
        super().__init__()
        self.add_module("quantizer", quantizer)
        self.num_codes = num_codes
        self.stride, self.in_channels, self.key = stride, in_channels, key
        self.likelihood = likelihood

    def forward(self, image: Tensor) -> Reconstruction:
        quantized = self._quantize(self._input(image))
        output = self._output(quantized.latent)
        return Reconstruction(
            self._picture(output), output, quantized.codes, quantized.loss, self.likelihood
        )

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        check_divides(height, width, self.multiple)
        return self.quantizer.grids(height // self.stride, width // self.stride)

    @torch.no_grad()
    def encode(self, image: Tensor | Any) -> Codes:
        """The codes of images, without gradient, deterministic, dropout off; large ones in tiles,
        see tiling.py. A PIL picture, an 8-bit array or a path is a batch of one.
        """
        image = self._batch(image)
        if is_large(self, image):
            return encode_tiled(self, image)
        return self.encode_piece(image)

    @torch.no_grad()
    def encode_piece(self, image: Tensor | Any) -> Codes:
        """As `encode`, whatever the size."""
        with evaluating(self):
            return self._quantize(self._input(image)).codes

    def decode(self, codes: Codes) -> Tensor:
        """The images (B, C, H, W) of codes, dropout off; of a mask tokenizer logits (B, labels, H,
        W).
        """
        return self._decode(self.embed(codes).to(self.last_layer.dtype))

    def freeze_codes(self) -> None:
        """From now on only `decoding` learns: the codes of an image stay what they are, and priors
        over them stay valid.
        """
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.split(".")[0] in self.decoding)

    def reconstruction_of(self, codes: Codes) -> Reconstruction:
        """As `forward` gives it, from codes that are there already; the gradient reaches the
        decoder.
        """
        latent = self.embed(codes).detach().to(self.last_layer.dtype)
        output = self._output(latent)
        loss = output.new_zeros((), dtype=torch.float32)
        return Reconstruction(self._picture(output), output, codes, loss, self.likelihood)

    def perturbed_reconstruction(
        self, image: Tensor, perturb: Callable[[Codes], Codes]
    ) -> Reconstruction:
        """As `forward` gives it, but the decoder reads other codes; the gradient goes straight
        through to the encoder, as if they were its own.
        """
        quantized = self._quantize(self._input(image))
        other = self._embed(perturb(quantized.codes)).to(quantized.latent.dtype)
        output = self._output(quantized.latent + (other - quantized.latent).detach())
        return Reconstruction(
            self._picture(output), output, quantized.codes, quantized.loss, self.likelihood
        )

    def reconstruct(self, image: Tensor) -> Tensor:
        return in_dtype_of(image, self.decode(self.encode(image)))

    def latent(self, image: Tensor) -> Tensor:
        """(B, D, h, w) before it is quantized, in the dtype of the image: what latent diffusion
        works on.
        """
        latent = self._run_encoder(self._input(image))
        return latent.to(image.dtype) if image.is_floating_point() else latent

    def decode_latent(self, latent: Tensor) -> Tensor:
        """The image (B, C, H, W) of a latent (B, D, h, w), which is quantized first;
        differentiable in the latent; in the latent's dtype.
        """
        checked = check_latent(latent, self.quantizer.dim, self.last_layer)
        with evaluating(self):
            return self._decode(self.quantizer(checked).latent).to(latent.dtype)

    def embed(self, codes: Codes) -> Tensor:
        """The latent (B, D, h, w) that codes stand for."""
        codes = check_codes(codes, self.num_codes, self.last_layer)
        self._check_grids(codes)
        return self._embed(codes)

    # What subclasses fill in

    def _run_encoder(self, x: Tensor) -> Tensor:
        """What `_input` gives -> the latent (B, D, h, w) before it is quantized."""
        raise NotImplementedError(f"{type(self).__name__} has no latent")

    def _quantize(self, x: Tensor) -> Quantized:
        return self.quantizer(self._run_encoder(x))

    def _embed(self, codes: Codes) -> Tensor:
        return self.quantizer.embed(codes)

    # Details

    def _check_grids(self, codes: Codes) -> None:
        height, width = (side * self.stride for side in codes[-1].shape[1:])
        shapes = [tuple(grid.shape) for grid in codes]
        expected = [(len(codes[-1]), *grid) for grid in self.grids(height, width)]
        if shapes != expected:
            raise UserError(
                f"the levels' grids of codes have shapes {shapes}, but {expected} are expected"
            )


def in_dtype_of(image: object, decoded: Tensor) -> Tensor:
    """A reconstruction in the dtype of what it is of, where that is a tensor of floats."""
    floats = isinstance(image, Tensor) and image.is_floating_point()
    return decoded.to(image.dtype) if floats else decoded


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeats the last row and column of an image (B, C, H, W) or of labels (B, H, W) until both
    sides are divisible.
    """
    height, width = image.shape[-2:]
    rows = torch.arange(height + -height % multiple, device=image.device).clamp(max=height - 1)
    columns = torch.arange(width + -width % multiple, device=image.device).clamp(max=width - 1)
    return image[..., rows, :][..., columns]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every submodule has the mode of its own again. A
    model may be evaluated from several threads at once: the last one to leave brings the mode back.
    """
    parts = [part for module in modules for part in module.modules()]
    with _LOCK:
        switched = [part for part in parts if part.training or part in _EVALUATING]
        for part in switched:
            _EVALUATING[part] = _EVALUATING.get(part, 0) + 1
            part.training = False
    try:
        yield
    finally:
        with _LOCK:
            for part in switched:
                _EVALUATING[part] -= 1
                if not _EVALUATING[part]:
                    del _EVALUATING[part]
                    part.training = True
