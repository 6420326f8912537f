"""Content -> model: built without memory, then filled tensor by tensor, so that no second copy of
the weights stands beside it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from taming.config import build
from taming.errors import UserError
from taming.first_stage.interface import Autoencoder
from taming.formats.content import Content
from taming.formats.fitting import compare
from taming.formats.mapped import MappedPages
from taming.second_stage import SecondStage
from taming.segmenter import Segmenter

KINDS = {"first": Autoencoder, "second": SecondStage, "segmenter": Segmenter}


def build_model(content: Content) -> nn.Module:
    """The model that a file describes, on the meta device. Raises UserError where its weights do
    not fit.
    """
    experiment = content.experiment()
    try:
        with without_memory():
            model = build(experiment.model, content.allow, trusted=False)
    except UserError as error:  # of tensors that told a shape which nothing can have
        if content.source == "taming":
            raise
        raise UserError(f"'{content.path}': {error}") from None
    kind = KINDS[content.stage]
    if not isinstance(model, kind):
        raise UserError(
            f"'{content.path}' says that it is a {content.stage} stage, but its model is a"
            f" {type(model).__name__}"
        )
    compare(model.state_dict(), content.weights, content.path)
    return model


def filled_model(content: Content) -> nn.Module:
    """The model with its weights, in eval mode on the CPU; `content.weights` is emptied.

    Raises:
        UserError: the weights do not fit.
    """
    weights = content.weights
    pages = MappedPages(content.path, weights.values())
    pages.release()  # what reading looked at
    model = build_model(content)
    pages.release()
    made: dict[int, Tensor] = {}  # by the tensor that they replace: modules may share one
    with torch.no_grad():
        for name, empty in model.state_dict(keep_vars=True).items():
            tensor = weights.pop(name)
            if id(empty) not in made:
                made[id(empty)] = _copied(empty, tensor)
                pages.copied(tensor)
            _set_tensor(model, name, made[id(empty)])
    pages.release()
    _compute_buffers(model, content)
    if isinstance(model, SecondStage):
        model.condition_dropout = content.config["condition_dropout"]
    if isinstance(model, SecondStage | Segmenter):
        model.card = content.card
    return model.eval()


def _compute_buffers(model: nn.Module, content: Content) -> None:
    """Those that no file holds, because constructors compute them: from a model that is built with
    memory, but whose parameters nobody touches.
    """
    waiting = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if not waiting:
        return
    with Uninitialised():
        twin = build(content.experiment().model, content.allow, trusted=False)
    computed = dict(twin.named_buffers())
    for name in waiting:
        _set_tensor(model, name, computed[name])


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules are built on the meta device, and no random numbers are asked for: there they would
    be none, but the first one loads PyTorch's compiler, two seconds.
    """
    with torch.device("meta"), Uninitialised():
        yield


class Uninitialised(TorchFunctionMode):
    """Random initial values are left out: memory that nothing is written to costs nothing."""

    RANDOM = frozenset({"uniform_", "normal_", "kaiming_uniform_", "trunc_normal_"})

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in self.RANDOM:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _copied(empty: Tensor, tensor: Tensor) -> Tensor:
    copy = torch.empty(empty.shape, dtype=empty.dtype).copy_(tensor)
    return nn.Parameter(copy, empty.requires_grad) if isinstance(empty, nn.Parameter) else copy


def _set_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    if isinstance(tensor, nn.Parameter):
        module._parameters[leaf] = tensor
    else:
        module._buffers[leaf] = tensor
