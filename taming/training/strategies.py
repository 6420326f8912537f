"""Which processes train together, and what each holds: all weights (DDP) or a share of them
(FSDP2); activations that are computed again instead of held.
"""

import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from taming.config.experiment import Experiment
from taming.errors import UserError

TIMEOUT = timedelta(minutes=10)  # for a process that is alive and does not come


def adopt_processes(experiment: Experiment) -> None:
    """Takes trainer.devices and trainer.nodes from torchrun, where it started this process.

    Raises:
        UserError: what the environment says is no number of processes.
    """
    trainer, environment = experiment.trainer, os.environ
    if "TORCHELASTIC_RUN_ID" not in environment:
        return
    try:
        here, world = int(environment["LOCAL_WORLD_SIZE"]), int(environment["WORLD_SIZE"])
    except (KeyError, ValueError):
        raise UserError(
            "the environment has TORCHELASTIC_RUN_ID, but no LOCAL_WORLD_SIZE and WORLD_SIZE; start"
            " with torchrun, or unset it"
        ) from None
    if (trainer.devices, trainer.nodes) not in ((1, 1), (here, world // here)):
        if environment.get("RANK") == "0":
            print(
                f"torchrun started {here} processes on each of {world // here} nodes;"
                f" trainer.devices {trainer.devices} and trainer.nodes {trainer.nodes} give way",
                file=sys.stderr,
            )
    trainer.devices, trainer.nodes = here, world // here


def check_strategy(experiment: Experiment, stage: str) -> None:
    """Raises UserError for what does not go together."""
    trainer = experiment.trainer
    if trainer.strategy != "fsdp":
        return
    if stage != "second":
        raise UserError(
            "trainer.strategy: fsdp is for priors; a first stage has two optimizers and fits into"
            " each device: leave it out, and DDP is used"
        )
    for key, value in (
        ("evaluation.every", experiment.evaluation.every),
        ("optimizer.algorithm", "muon" * (experiment.optimizer.algorithm == "muon")),
    ):
        if value:
            raise UserError(
                f"{key}: {value} needs whole matrices, which no process has with trainer.strategy:"
                " fsdp; leave one of them out"
            )


def strategy_of(experiment: Experiment, stage: str) -> Strategy | str:
    """Lightning's strategy. A discriminator that is not used yet would make plain DDP wait for its
    gradients.
    """
    trainer = experiment.trainer
    if trainer.strategy == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=trainer.devices * trainer.nodes,
            tensor_parallel_size=1,
            timeout=TIMEOUT,
        )
    if trainer.devices * trainer.nodes == 1:
        return "auto"
    return DDPStrategy(find_unused_parameters=stage == "first", timeout=TIMEOUT)


def rank() -> int:
    """Of this process; 0 where there is only one."""
    return getattr(rank_zero_only, "rank", 0)


def layers_of(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that a network repeats: the members of its lists, the outermost ones."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            yield from (layer for layer in child if any(True for _ in layer.parameters()))
        else:
            yield from layers_of(child)


def shard_weights(networks: nn.Module, mesh: DeviceMesh) -> None:
    """Each layer's weights in as many parts as there are processes, gathered while it computes."""
    for network in networks.children():
        for layer in layers_of(network):
            fully_shard(layer, mesh=mesh)
        fully_shard(network, mesh=mesh)


def checkpoint_activations(module: nn.Module) -> None:
    """Layers hold their inputs only, and compute the rest again in the backward pass."""
    for layer in layers_of(module):
        layer.forward = _Recomputed(layer.forward)


class _Recomputed:
    def __init__(self, forward: Any):
        self.forward = forward

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*arguments, **options)
        return checkpoint(self.forward, *arguments, use_reentrant=False, **options)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process may hold a part; every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
