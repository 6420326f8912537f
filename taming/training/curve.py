"""The training curve of the metrics: the same figures on the same few pictures every so many
batches, logged beside the losses.
"""

import time

import pytorch_lightning as pl
import torch
from torch import Tensor

from taming.config.experiment import Experiment
from taming.errors import UserError
from taming.evaluation import generation
from taming.evaluation.features import FeatureNetwork, feature_network
from taming.evaluation.frechet import frechet_distance, moments
from taming.evaluation.kernel import kernel_distance
from taming.evaluation.pictures import Subset
from taming.evaluation.reconstruction import compared
from taming.evaluation.rows import together
from taming.training.module import Training


class Curve(pl.Callback):
    """`evaluation/...` in metrics.csv: of a first stage psnr, ssim and the distances of
    reconstructions to originals; of a second stage the distances of samples, drawn with fixed seeds
    from the pictures' conditions, to the pictures. With so few pictures the Frechet distance is
    biased upwards, the same way at each batch; the kernel distance is not. seconds: what it took;
    share: of all time since the start of training.
    """

    def __init__(self, experiment: Experiment):
        self.settings = experiment.evaluation
        self.network: FeatureNetwork | None = (
            feature_network(self.settings.features) if self.settings.features else None
        )
        self.real: Tensor | None = None

    def on_train_start(self, trainer, module: Training) -> None:
        if module.stage == "segmenter" or (module.stage == "second" and self.network is None):
            raise UserError(
                "evaluation.every: measures reconstructions, or with evaluation.features samples;"
                " this model has neither"
            )
        if trainer.datamodule.validation is None:
            raise UserError(
                "evaluation.every: there are no validation pictures; give data.validation"
            )
        self.clock, self.spent = time.monotonic(), 0.0

    def on_train_batch_end(self, trainer, module: Training, *_) -> None:
        if module.micro or module.batches % self.settings.every:
            return
        started = time.monotonic()
        if trainer.is_global_zero:
            modes = [(m, m.training) for m in module.modules()]
            module.eval()
            figures = self.measured(trainer, module)
            for part, mode in modes:
                part.training = mode
            self.spent += time.monotonic() - started
            figures |= {
                "seconds": time.monotonic() - started,
                "share": self.spent / (time.monotonic() - self.clock),
            }
            module.write({f"evaluation/{name}": value for name, value in figures.items()})
        trainer.strategy.barrier()

    @torch.no_grad()
    def measured(self, trainer, module: Training) -> dict[str, float]:
        dataset = trainer.datamodule.validation
        chosen = Subset(getattr(dataset, "source", dataset), self.settings.pictures)
        model, size = module.evaluated(), module.experiment.data.batch_size * 4
        first = getattr(model, "first_stage", model)
        if first.key != "image":
            raise UserError(
                f"evaluation.every: measures pictures, and this model reads '{first.key}'; leave"
                " it out"
            )
        sums, fake, real = {}, [], []
        for start in range(0, len(chosen), size):
            batch = module.to_device(
                together([chosen[i] for i in range(start, min(start + size, len(chosen)))])
            )
            image = batch["image"]
            made = (
                model.reconstruct(image)
                if model is first
                else model.sample(batch, tuple(image.shape[-2:]), first=start)
            ).clamp(-1, 1)
            if model is first:
                for name, value in compared(image, made, {}).items():
                    sums[name] = sums.get(name, 0.0) + float(value.sum())
            if self.network is not None:
                self.network.to(image.device)
                fake.append(self.network(made)["features"].cpu())
                if self.real is None:
                    real.append(self.network(image)["features"].cpu())
        figures = {name: value / len(chosen) for name, value in sums.items()}
        if self.network is None:
            return figures
        if self.real is None:
            self.real = torch.cat(real)
        called = generation.names(self.network)
        theirs, ours = self.real.numpy(), torch.cat(fake).numpy()
        prefix = "r" if model is first else ""
        figures[prefix + called["fd"]] = frechet_distance(moments(theirs), moments(ours))
        figures[prefix + called["kd"]] = kernel_distance(theirs, ours).value
        return figures
