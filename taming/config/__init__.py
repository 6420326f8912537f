"""YAML -> Experiment -> objects, every key checked."""

from taming.config.build import build, check
from taming.config.experiment import Evaluation, Experiment, Optimizer, from_plain, load, to_plain
from taming.config.merge import plain_yaml
from taming.config.names import file_classes, resolve
from taming.config.older import upgrade
from taming.config.shipped import find_config, shipped_configs

__all__ = [
    "Evaluation",
    "Experiment",
    "Optimizer",
    "build",
    "check",
    "file_classes",
    "find_config",
    "from_plain",
    "load",
    "plain_yaml",
    "resolve",
    "shipped_configs",
    "to_plain",
    "upgrade",
]
