"""YAML -> Experiment -> objects, every key checked."""

from taming.config.build import build, check, resolve
from taming.config.experiment import (
    Evaluation,
    Experiment,
    Optimizer,
    from_plain,
    load,
    plain_yaml,
    to_plain,
)

__all__ = [
    "Evaluation",
    "Experiment",
    "Optimizer",
    "build",
    "check",
    "from_plain",
    "load",
    "plain_yaml",
    "resolve",
    "to_plain",
]
