"""Training a first stage: autoencoder and discriminator in turn, one forward of the autoencoder for
both.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from taming.config.experiment import Experiment
from taming.errors import UserError
from taming.first_stage.colour import YCbCr
from taming.first_stage.interface import (
    Autoencoder,
    Codes,
    FirstStage,
    Quantizer,
    Reconstruction,
    evaluating,
    precise,
)
from taming.first_stage.losses import FirstStageLoss, VQGANLoss
from taming.first_stage.perturbation import neighbours, perturbed
from taming.images import IGNORE, colour_labels, montage, psnr
from taming.training.module import Training, adam
from taming.training.tuning import frozen_quantizers

FRESH = 50  # batches, after which the codes' neighbours are looked for anew
COLOUR_PICTURES = 256  # whose colours are measured; the deviations of so many differ by about 4 %


class FirstStageTraining(Training):
    """With trainer.share_forward the discriminator sees the reconstruction from before the
    generator's step, else a new one: see docs/measurements.md.
    """

    stage = "first"
    monitor = "loss"
    model: Autoencoder

    def __init__(self, experiment: Experiment, model: Autoencoder, loss: FirstStageLoss):
        super().__init__(experiment, model)
        self.loss = loss
        loss.set_length(experiment.trainer.max_steps)
        loss.set_colour(model.colours)
        self.frozen = experiment.trainer.freeze_codes
        if self.frozen:
            if not isinstance(model, FirstStage):
                raise UserError(
                    f"trainer.freeze_codes: a {type(model).__name__} has no codes; leave it out"
                )
            model.freeze_codes()
        self.perturb = experiment.trainer.perturb_codes
        if self.perturb:
            if not isinstance(model, FirstStage):
                raise UserError(
                    f"trainer.perturb_codes: a {type(model).__name__} has no codes; leave it out"
                )
            self.nearest = neighbours(model)
        # In batches from now on: a resumed run may be longer, and its discriminator stays on
        params = (experiment.loss or {}).get("params", {})
        if "adversarial_start" in params and isinstance(loss, VQGANLoss):
            params["adversarial_start"] = loss.start

    def on_train_start(self) -> None:
        """Colours without statistics of their own take those of the first training pictures; every
        process reads the same ones.
        """
        super().on_train_start()
        colours = self.model.colours
        if isinstance(colours, YCbCr) and not colours.fitted:
            pictures = self.data_module.train
            count = min(COLOUR_PICTURES, len(pictures))
            images = [pictures[round(i * len(pictures) / count), None] for i in range(count)]
            colours.fit(torch.stack([item[self.model.key] for item in images]).to(self.device))
            if self.averaged is not None:
                self.averaged.load_state_dict(self.model.state_dict())

    def configure_optimizers(self):
        optimizer, discriminator = self.experiment.optimizer, self.loss.discriminator
        groups = [{"params": list(self.model.parameters())}]
        optimizers = [adam(groups, optimizer, optimizer.learning_rate)]
        if discriminator is not None:
            groups = [{"params": list(discriminator.parameters())}]
            rate = optimizer.discriminator_learning_rate or optimizer.learning_rate
            optimizers.append(adam(groups, optimizer, rate))
        return optimizers

    def micro_batch(self, batch: dict, last: bool) -> dict[str, Tensor]:
        batch = self.to_device(batch)
        image, labels = batch[self.model.key], self._labels(batch)
        parts = self.experiment.trainer.accumulate_grad_batches
        share = 1 / parts
        optimizers = self.optimizers()
        generator, *rest = optimizers if isinstance(optimizers, list) else [optimizers]
        discriminator = self.loss.discriminator
        for quantizer in frozen_quantizers(self.model):
            quantizer.eval()
        # 1. the autoencoder
        for quantizer in self._quantizers():
            quantizer.set_step(self.batches, self.micro, parts)
        reconstruction = self._reconstruction(image)
        total, terms = self.loss.autoencoder(
            image, reconstruction, self.model.last_layer, self.batches, labels
        )
        self.manual_backward(total * share)
        if last:
            self.step(generator, self.model.parameters(), counts=True)
        # 2. the discriminator, once it has started
        if discriminator is not None and self.loss.adversary_weight(self.batches):
            output = reconstruction.output
            if not self.experiment.trainer.share_forward:
                output = self._again(image)
            adversary, more = self.loss.adversary(image, output, labels)
            self.manual_backward(adversary * share)
            if last:
                self.step(rest[0], discriminator.parameters(), counts=False)
            terms.update(more)
        # 3. what to log
        terms = {name: value.detach() for name, value in terms.items()}
        if self.model.num_codes:
            terms["used"] = share_in_use(reconstruction.codes, self.model.num_codes)
        return {"total": total.detach(), **terms}

    def _labels(self, batch: dict) -> Tensor | None:
        """What the loss reads beside the images."""
        if self.loss.labels is None:
            return None
        labels = batch.get("segmentation")
        if labels is None:
            raise UserError(
                "loss: its discriminator reads 'segmentation', which these pictures come without;"
                " take SegmentedImages as data.train, or PatchDiscriminator"
            )
        return labels

    def _reconstruction(self, image: Tensor) -> Reconstruction:
        if not isinstance(self.model, FirstStage) or not (self.frozen or self.perturb):
            return self.model(image)
        if self.frozen:
            return self.model.reconstruction_of(self._perturbed(self.model.encode(image)))
        return self.model.perturbed_reconstruction(image, self._perturbed)

    def _perturbed(self, codes: Codes) -> Codes:
        """With the share of this batch replaced by near ones."""
        if not self.perturb:
            return codes
        assert isinstance(self.model, FirstStage)
        left = 1 - self.batches / self.experiment.trainer.max_steps
        share = self.perturb if self.frozen else self.perturb * left
        if not self.frozen and self.batches % FRESH == 0 and self.micro == 0:
            self.nearest = neighbours(self.model)  # codes move
        return tuple(perturbed(grid, self.nearest.to(grid.device), share) for grid in codes)

    @torch.no_grad()
    def _again(self, image: Tensor) -> Tensor:
        """The reconstruction by the updated generator, as published; the quantizer's counts of the
        batch stay as they are.
        """
        with evaluating(*self._quantizers()):
            return self.model(image).output

    def evaluated(self) -> Autoencoder:
        model = super().evaluated()
        assert isinstance(model, Autoencoder)
        return model

    def _quantizers(self) -> list[Quantizer]:
        return [module for module in self.model.modules() if isinstance(module, Quantizer)]

    def validation_sums(self, batch: dict) -> dict[str, Tensor]:
        model = self.evaluated()
        image = batch[model.key]
        reconstruction = model(image)
        count = torch.tensor(float(len(image)), device=image.device)
        loss, terms = self.loss.reconstruction(image, reconstruction)
        sums = {
            "count": count,
            "loss": loss * count,
            "quantizer": reconstruction.quantizer_loss * count,
            **{f"term/{name}": value * count for name, value in terms.items()},
        }
        if image.is_floating_point():
            sums["psnr"] = psnr(image, reconstruction.image.clamp(-1, 1)).sum()
        else:
            known = (image != IGNORE) | (reconstruction.output.shape[1] > IGNORE)
            right = (reconstruction.output.argmax(dim=1) == image)[known].float().sum()
            sums["accuracy"] = right / known.sum().clamp(min=1) * count
        bits = reconstruction.likelihood and reconstruction.likelihood.bits(
            image, reconstruction.output
        )
        if bits is not None:
            sums["bits_per_dim"] = (bits.mean() + self._rate_per_dim(reconstruction, image)) * count
        for level, (codes, size) in enumerate(zip(reconstruction.codes, model.num_codes)):
            sums[f"codes/{level}"] = torch.bincount(codes.flatten(), minlength=size).to(
                precise(codes.device)
            )
        return sums

    def _rate_per_dim(self, reconstruction: Reconstruction, image: Tensor) -> Tensor:
        """Bits that the latent takes, per number of the image: log2 K for each code, as under a
        uniform prior; without codes the KL term.
        """
        if not reconstruction.codes:
            return reconstruction.quantizer_loss / math.log(2)
        levels = zip(reconstruction.codes, self.model.num_codes)
        bits = sum(codes[0].numel() * math.log2(size) for codes, size in levels)
        return torch.tensor(bits / image[0].numel())

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """psnr in dB (mean over pictures, range 2), bits_per_dim: an upper bound on -log2 p of
        8-bit images, where the likelihood has one, used: share of codes seen in the whole
        validation set, perplexity: exp of their entropy.
        """
        figures = {}
        for key, value in sums.items():
            if key.startswith("codes/"):
                suffix = "" if key == "codes/0" else f"_{key.removeprefix('codes/')}"
                entropy = torch.special.entr(value / value.sum()).sum()
                figures[f"used{suffix}"] = float((value > 0).float().mean())
                figures[f"perplexity{suffix}"] = float(entropy.exp())
            elif key != "count":
                figures[key.removeprefix("term/")] = float(value / sums["count"])
        return figures

    def draw(self, batch: dict) -> Tensor:
        """Input and reconstruction, side by side."""
        model = self.evaluated()
        image = batch[model.key]
        output = model(image).image.clamp(-1, 1)
        if not image.is_floating_point():
            image = colour_labels(image, model.labels or int(image.max()) + 1)
        return montage([image, output])


def share_in_use(codes: Codes, num_codes: Sequence[int]) -> Tensor:
    """Of the codes of all levels, () float: how many a batch uses. Nothing waits for the device."""
    used = [
        torch.zeros(count, device=level.device).index_fill_(0, level.flatten(), 1.0).sum()
        for level, count in zip(codes, num_codes, strict=True)
    ]
    return torch.stack(used).sum() / sum(num_codes)
