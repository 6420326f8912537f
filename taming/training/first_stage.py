"""Training a first stage: autoencoder and discriminator in turn, one forward of the autoencoder for
both.
"""

import math

import torch
from torch import Tensor

from taming.config.experiment import Experiment
from taming.first_stage.interface import Autoencoder, Quantizer, Reconstruction
from taming.first_stage.losses import LikelihoodLoss, MaskLoss, VQGANLoss
from taming.images import colour_labels, montage
from taming.training.module import Training, adam


class FirstStageTraining(Training):
    """share_forward (trainer key): the discriminator sees the reconstruction from before the
    generator's step instead of a new one: see docs/measurements.md.
    """

    stage = "first"

    def __init__(
        self,
        experiment: Experiment,
        model: Autoencoder,
        loss: VQGANLoss | LikelihoodLoss | MaskLoss,
    ):
        super().__init__(experiment, model)
        self.loss = loss
        loss.set_length(experiment.trainer.max_steps)
        self.monitor = "loss"

    def configure_optimizers(self):
        optimizer = self.experiment.optimizer
        made = [
            adam([{"params": list(self.model.parameters())}], optimizer, optimizer.learning_rate)
        ]
        if self.loss.discriminator is not None:
            made.append(
                adam(
                    [{"params": list(self.loss.discriminator.parameters())}],
                    optimizer,
                    optimizer.discriminator_learning_rate or optimizer.learning_rate,
                )
            )
        return made

    def micro_batch(self, batch: dict, last: bool) -> dict[str, Tensor]:
        image = self.to_device(batch)[self.model.key]
        share = 1 / self.experiment.trainer.accumulate_grad_batches
        optimizers = self.optimizers()
        generator, *others = optimizers if isinstance(optimizers, list) else [optimizers]
        for quantizer in self._quantizers():
            quantizer.set_step(self.batches)
        reconstruction = self.model(image)
        total, terms = self.loss.autoencoder(
            image, reconstruction, self.model.last_layer, self.batches
        )
        self.manual_backward(total * share)
        if last:
            self.step(generator, self.model.parameters(), counts=True)
        if self.loss.adversary_weight(self.batches):
            output = reconstruction.output
            if not self.experiment.trainer.share_forward:
                output = self._again(image)
            adversary, more = self.loss.adversary(image, output)
            self.manual_backward(adversary * share)
            if last:
                self.step(others[0], self.loss.discriminator.parameters(), counts=False)
            terms.update(more)
        terms = {k: v.detach() for k, v in terms.items()}
        if self.model.num_codes:
            terms["used"] = (
                sum(len(c.unique()) for c in reconstruction.codes)
                / sum(self.model.num_codes)
                * torch.ones(())
            )
        return {"total": total.detach(), **terms}

    @torch.no_grad()
    def _again(self, image: Tensor) -> Tensor:
        """The reconstruction by the updated generator, as published; the quantizer's counts of the
        batch stay as they are.
        """
        for quantizer in self._quantizers():
            quantizer.eval()
        output = self.model(image).output
        for quantizer in self._quantizers():
            quantizer.train()
        return output

    def _quantizers(self) -> list[Quantizer]:
        return [module for module in self.model.modules() if isinstance(module, Quantizer)]

    def validation_sums(self, batch: dict) -> dict[str, Tensor]:
        model, image = self.evaluated(), batch[self.evaluated().key]
        reconstruction = model(image)
        count = torch.tensor(float(len(image)), device=image.device)
        loss, terms = self.loss.reconstruction(image, reconstruction)
        sums = {
            "count": count,
            "loss": loss * count,
            "quantizer": reconstruction.quantizer_loss * count,
            **{f"term/{k}": v * count for k, v in terms.items()},
        }
        if image.is_floating_point():
            error = (image - reconstruction.image.clamp(-1, 1)).square().flatten(1).mean(dim=1)
            sums["psnr"] = (10 * torch.log10(4 / error.clamp(min=1e-10))).sum()
        else:
            sums["accuracy"] = (reconstruction.output.argmax(dim=1) == image).float().mean() * count
        bits = reconstruction.likelihood and reconstruction.likelihood.bits(
            image, reconstruction.output
        )
        if bits is not None:
            sums["bits_per_dim"] = (bits.mean() + self._rate_per_dim(reconstruction, image)) * count
        for level, (codes, size) in enumerate(zip(reconstruction.codes, model.num_codes)):
            sums[f"codes/{level}"] = torch.bincount(codes.flatten(), minlength=size).double()
        return sums

    def _rate_per_dim(self, reconstruction: Reconstruction, image: Tensor) -> Tensor:
        """Bits that the latent takes, per number of the image: log2 K for each code, as under a
        uniform prior; without codes the KL term.
        """
        if not reconstruction.codes:
            return reconstruction.quantizer_loss / math.log(2)
        return torch.tensor(
            sum(
                c[0].numel() * math.log2(k)
                for c, k in zip(reconstruction.codes, self.model.num_codes)
            )
            / image[0].numel()
        )

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """psnr in dB (mean over pictures, range 2), bits_per_dim: an upper bound on -log2 p of
        8-bit images, where the likelihood has one, used: share of codes seen in the whole
        validation set, perplexity: exp of their entropy.
        """
        count = sums["count"]
        found = {
            k.removeprefix("term/"): float(v / count)
            for k, v in sums.items()
            if k != "count" and not k.startswith("codes/")
        }
        for key, counts in sums.items():
            if key.startswith("codes/"):
                suffix = "" if key == "codes/0" else f"_{key.removeprefix('codes/')}"
                found[f"used{suffix}"] = float((counts > 0).double().mean())
                found[f"perplexity{suffix}"] = float(
                    torch.special.entr(counts / counts.sum()).sum().exp()
                )
        return found

    def draw(self, batch: dict) -> Tensor:
        """Input and reconstruction, side by side."""
        model = self.evaluated()
        image = batch[model.key]
        shown = image if image.is_floating_point() else colour_labels(image, model.labels)
        return montage([shown, model(image).image.clamp(-1, 1)])
