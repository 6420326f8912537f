"""What a first stage is trained for: L1 + perceptual + adversarial with the adaptive weight (Esser
et al. 2021, eq. 4 to 7), a likelihood, and the loss of a mask tokenizer.

A loss object has two methods: `autoencoder` for the generator's step, `adversary` for the
discriminator's. Steps are batches.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.ranges import Decay, Deferred, Range, Weight
from taming.errors import UserError, did_you_mean
from taming.first_stage.discriminator import FORMS, Discriminator, Form, PatchDiscriminator
from taming.first_stage.grid import grid_contrast
from taming.first_stage.inputs import label_loss, one_hot
from taming.first_stage.interface import Reconstruction
from taming.first_stage.perceptual import perceptual_distance
from taming.first_stage.ranges import Batches
from taming.first_stage.regularization import Augmentation, LeCAM, augmented, gradient_penalty
from taming.images import IGNORE

DELTA, LARGEST = 1e-4, 1e4  # of the adaptive weight, as published (the paper has 1e-6 and no limit)
Terms = dict[str, Tensor]
"""The parts of a loss by name, each (), as they are logged."""


class FirstStageLoss(nn.Module):
    """The seam: what an autoencoder is trained for. Without a discriminator it is what
    `reconstruction` says, plus the quantizer's part.
    """

    def __init__(self):
        super().__init__()
        self.discriminator: Discriminator | None = None

    def set_length(self, max_steps: int) -> None:
        """Before training: the batches it will have, for schedules that are shares of them."""

    def set_colour(self, colour: nn.Module | None) -> None:
        """Before training: the colours that the model works in, None for RGB."""

    def adversary_weight(self, step: int) -> float:
        """Of the discriminator's part at this batch; 0 where there is none yet."""
        return 0.0

    def reconstruction(self, image: Tensor, reconstruction: Reconstruction) -> tuple[Tensor, Terms]:
        """The distance () of an image to its reconstruction, and its terms."""
        raise NotImplementedError(f"{type(self).__name__} compares nothing")

    @property
    def labels(self) -> int | None:
        """Of the label maps that it reads beside the images; None: it reads none."""
        return None if self.discriminator is None else self.discriminator.labels

    def autoencoder(
        self,
        image: Tensor,
        reconstruction: Reconstruction,
        last_layer: nn.Parameter,
        step: int,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, Terms]:
        """The generator's loss (), to call backward on once, and its terms.

        Args:
            image: (B, C, H, W).
            reconstruction: of it.
            last_layer: see Autoencoder.last_layer.
            step: batches before this one.
            labels: int64 (B, H, W), where `labels` says that they are read.
        """
        loss, terms = self.reconstruction(image, reconstruction)
        quantizer = reconstruction.quantizer_loss
        return loss + quantizer, {**terms, "quantizer": quantizer}

    def adversary(
        self, image: Tensor, output: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Terms]:
        """The discriminator's loss () on real images and (detached) reconstructions."""
        raise NotImplementedError(f"{type(self).__name__} has no discriminator")


class VQGANLoss(FirstStageLoss):
    """|x - x'| + perceptual_weight P(x, x') + adversarial * lambda * G + quantizer loss.

    Args:
        perceptual: lpips, lpips-alex, stlpips, the path of a VGG16 weights file, or none.
        perceptual_weight: of the perceptual distance P.
        perceptual_blocks: of VGG16's five blocks, where the weights are a file's.
        colour_weight: of |c(x) - c(x')|, the same in the colours c that the model works in
            (model.params.colour): brightness drowns the colour differences in |x - x'|.
        grid_weight: of the squared error of how much neighbouring pixels differ at each place
            within a code, over its mean (grid.py), which all distances above let a decoder get
            wrong.
        adversarial: weight of the generator's loss G on top of the adaptive lambda.
        adversarial_start: the first batch with a discriminator, or below 1 a share of the run.
        adversarial_ramp: over so many batches from there on, the generator's part grows from 0 to
            its weight, while the discriminator learns in full: a new one has nothing to say.
        form: of the discriminator's loss.
        lecam: weight of LeCAM's penalty on the logits.
        penalty: weight of the gradient penalty R1 on real pictures.
        augment: how pictures are changed before the discriminator sees them, real ones and
            reconstructions alike.
        discriminator: images -> logits, positive for real; by default, and where `adversarial` is
            above 0, a PatchDiscriminator.
    """

    def __init__(
        self,
        perceptual: str = "lpips",
        perceptual_weight: Weight = 1.0,
        perceptual_blocks: Annotated[int, Range(1, 5)] = 3,
        colour_weight: Weight = 0.0,
        grid_weight: Weight = 0.0,
        adversarial: Weight = 0.8,
        adversarial_start: Batches | Decay = 0,
        adversarial_ramp: Batches = 0,
        form: Form = "hinge",
        lecam: Weight = 0.0,
        penalty: Weight = 0.0,
        augment: Sequence[Augmentation] = (),
        discriminator: Discriminator | Deferred | None = None,
    ):
        super().__init__()
        if form not in FORMS:
            raise UserError(f"loss.params.form: '{form}' is unknown{did_you_mean(form, FORMS)}")
        self.perceptual_weight, self.adversarial = perceptual_weight, adversarial
        self.colour_weight, self.grid_weight = colour_weight, grid_weight
        self._colour: tuple[nn.Module | None] = (None,)  # the model's, whose weights it has
        self.start, self.ramp = adversarial_start, adversarial_ramp
        self.form: Form = form
        self.penalty, self.augment = penalty, tuple(augment)
        self.lecam_weight = lecam
        self.lecam = LeCAM() if lecam and adversarial else None
        # In a tuple, so that its weights stay out of the checkpoint and `.train()` leaves its
        # dropout alone.
        self._perceptual = (perceptual_distance(perceptual, perceptual_blocks),)
        if adversarial:  # after the perceptual network, whose first weights are random
            if isinstance(discriminator, Deferred):
                discriminator = discriminator.build()
            self.discriminator = discriminator or PatchDiscriminator()
            moving = sorted({"translation", "cutout"} & set(augment))
            if self.labels and moving:
                raise UserError(
                    f"loss.params.augment: {' and '.join(moving)} would move pictures away from the"
                    " labels that this discriminator reads; take colour alone"
                )

    def _apply(self, fn, recurse: bool = True):
        if self.perceptual is not None:
            self.perceptual._apply(fn)
        return super()._apply(fn, recurse)

    @property
    def perceptual(self) -> nn.Module | None:
        return self._perceptual[0]

    def set_length(self, max_steps: int) -> None:
        """A start that is a share of the run becomes a batch."""
        if isinstance(self.start, float) and 0 < self.start < 1:
            self.start = round(self.start * max_steps)

    def set_colour(self, colour: nn.Module | None) -> None:
        if self.colour_weight and colour is None:
            raise UserError(
                "loss.params.colour_weight: the model has no colours of its own; add"
                " model.params.colour={target: taming.first_stage.YCbCr}, or leave the weight"
            )
        self._colour = (colour,)

    def adversary_weight(self, step: int) -> float:
        """0 before the start, then the ramp to `adversarial`."""
        if self.discriminator is None or step < self.start:
            return 0.0
        return self.adversarial * min(1.0, (step - self.start + 1) / (self.ramp + 1))

    def reconstruction(self, image: Tensor, reconstruction: Reconstruction) -> tuple[Tensor, Terms]:
        return self.distance(image, reconstruction.output, stride_of(reconstruction))

    def distance(self, image: Tensor, output: Tensor, stride: int = 1) -> tuple[Tensor, Terms]:
        """L1, in the model's colours too, contrast of the grid, and perceptual part: means over
        images and pixels, in float32.
        """
        check_images(self, image)
        output = output.float()
        total = (image - output).abs().mean()
        terms = {"l1": total}
        (colour,) = self._colour
        if colour is not None and self.colour_weight:
            terms["colour"] = (colour(image) - colour(output)).abs().mean()
            total = total + self.colour_weight * terms["colour"]
        if self.grid_weight and stride > 1:
            terms["grid"] = (grid_contrast(output, stride) - grid_contrast(image, stride)).square()
            terms["grid"] = terms["grid"].mean()
            total = total + self.grid_weight * terms["grid"]
        if self.perceptual is None or not self.perceptual_weight:
            return total, terms
        if image.shape[1] == 1:
            image, output = image.expand(-1, 3, -1, -1), output.expand(-1, 3, -1, -1)
        terms["perceptual"] = self.perceptual(image, output).mean()
        return total + self.perceptual_weight * terms["perceptual"], terms

    def autoencoder(
        self,
        image: Tensor,
        reconstruction: Reconstruction,
        last_layer: nn.Parameter,
        step: int,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, Terms]:
        """The generator's loss (), to call backward on once, and its terms.

        The perceptual net and the discriminator are run backward to the reconstruction only, each
        once; both gradients at the last layer follow from there by one convolution, and their
        weighted sum is sent through the decoder in one pass. The gradient is that of the published
        total, which runs backward through everything twice.
        """
        output, quantizer = reconstruction.output, reconstruction.quantizer_loss
        weight, discriminator = self.adversary_weight(step), self.discriminator
        if discriminator is None or not weight or not output.requires_grad:
            return super().autoencoder(image, reconstruction, last_layer, step)
        # 1. gradients of both parts at the reconstruction
        leaf = output.detach().float().requires_grad_()
        nll, terms = self.distance(image, leaf, stride_of(reconstruction))
        adversarial = discriminator.generator_loss(augmented(leaf, self.augment), labels)
        nll_gradient = torch.autograd.grad(nll, leaf)[0]
        adversarial_gradient = torch.autograd.grad(adversarial, leaf)[0]
        # 2. their weighted sum, to go backward from there
        adaptive = adaptive_weight(output, nll_gradient, adversarial_gradient, last_layer)
        gradient = nll_gradient + weight * adaptive * adversarial_gradient
        value = (nll + weight * adaptive * adversarial).detach()
        total = _with_gradient(output, gradient, value) + quantizer
        terms |= {"quantizer": quantizer, "adversarial": adversarial, "adaptive_weight": adaptive}
        return total, terms

    def adversary(
        self, image: Tensor, output: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Terms]:
        if self.discriminator is None:
            return super().adversary(image, output)
        pictures = (augmented(image, self.augment), augmented(output.detach(), self.augment))
        loss, real, fake = self.discriminator.losses(*pictures, self.form, labels)
        terms = {"discriminator": loss, "real": real.mean(), "fake": fake.mean()}
        if self.lecam is not None:
            terms["lecam"] = self.lecam(real, fake)
            loss = loss + self.lecam_weight * terms["lecam"]
        if self.penalty:
            terms["penalty"] = gradient_penalty(self.discriminator, pictures[0])
            loss = loss + self.penalty * terms["penalty"]
        return loss, terms


def stride_of(reconstruction: Reconstruction) -> int:
    """Pixels a code of the finest level; 1 where there are no codes."""
    codes = reconstruction.codes
    return reconstruction.output.shape[-1] // codes[-1].shape[-1] if codes else 1


def adaptive_weight(
    output: Tensor, nll_gradient: Tensor, adversarial_gradient: Tensor, last_layer: nn.Parameter
) -> Tensor:
    """lambda = |grad nll| / (|grad adversarial| + delta) at the last layer (eq. 7), from the two
    gradients at the output; ().
    """
    norms = [
        torch.autograd.grad(output, last_layer, g.to(output.dtype), retain_graph=True)[0].norm()
        for g in (nll_gradient, adversarial_gradient)
    ]
    return (norms[0] / (norms[1] + DELTA)).clamp(0, LARGEST).detach()


def _with_gradient(output: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
    """A scalar equal to `value` whose derivative by `output` is `gradient`."""
    carrier = (output.float() * gradient.detach()).sum()
    return carrier + (value - carrier).detach()


class LikelihoodLoss(FirstStageLoss):
    """weight * -log p(x | z), nats per number of the image, + quantizer loss; the model's
    `likelihood` says what p is.

    With weight 1 this is the negative ELBO of a VAE, VQ-VAE's eq. 3 with all three terms as means
    over what they sum over, and dVAE's objective.

    Args:
        weight: of the likelihood against the quantizer loss.
    """

    def __init__(self, weight: Weight = 1.0):
        super().__init__()
        self.weight = weight

    def reconstruction(self, image: Tensor, reconstruction: Reconstruction) -> tuple[Tensor, Terms]:
        check_images(self, image)
        if reconstruction.likelihood is None:
            raise UserError(
                "loss: LikelihoodLoss reads a likelihood, and the model has none; add"
                " model.params.likelihood, or take VQGANLoss"
            )
        nll = reconstruction.likelihood.negative_log(image, reconstruction.output).mean()
        mse = (image - reconstruction.image).square().mean()
        return self.weight * nll, {"nll": nll, "mse": mse}


class MaskLoss(FirstStageLoss):
    """For a mask tokenizer; pixels without a label (IGNORE) do not count.

    Args:
        form: cross-entropy over the labels of a pixel, or `bce`, the published binary cross-entropy
            of each label by itself.
    """

    def __init__(self, form: Literal["cross_entropy", "bce"] = "cross_entropy"):
        super().__init__()
        forms = ["cross_entropy", "bce"]
        if form not in forms:
            raise UserError(f"loss.params.form: '{form}' is unknown{did_you_mean(form, forms)}")
        self.form = form

    def reconstruction(self, image: Tensor, reconstruction: Reconstruction) -> tuple[Tensor, Terms]:
        """image: labels int64 (B, H, W); of logits (B, labels, H, W)."""
        if image.is_floating_point():
            raise UserError(
                "loss: MaskLoss compares label maps, but the model reads images; take MaskVQGAN as"
                " the model, or VQGANLoss"
            )
        labels, output = image.long(), reconstruction.output
        if self.form == "bce":
            onehot, known = one_hot(labels, output.shape[1]), _known(labels, output.shape[1])
            loss = F.binary_cross_entropy_with_logits(output, onehot.to(output), reduction="none")
            loss = (loss * known).sum() / (known.sum() * output.shape[1]).clamp(min=1)
        else:
            loss = label_loss(output, labels)
        return loss, {self.form: loss}


def _known(labels: Tensor, count: int) -> Tensor:
    """Which pixels (B, 1, H, W) have a label."""
    return ((labels != IGNORE) | (count > IGNORE))[:, None]


def check_images(loss: nn.Module, image: Tensor) -> None:
    if not image.is_floating_point():
        raise UserError(
            f"loss: {type(loss).__name__} compares images, but the model reads label maps; take"
            " MaskLoss"
        )
