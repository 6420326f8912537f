"""A step of decoding as one compiled function (torch.compile), over caches of full length: what a
step costs beside reading the weights is the overhead of its many small operations, and most of that
goes away. Needs a C++ compiler, on a GPU Triton, and some ten seconds at first.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taming.errors import UserError, first_line
from taming.second_stage.block import LayerCache

if TYPE_CHECKING:
    from taming.second_stage.transformer import Transformer


class FullCache(LayerCache):
    """Keys and values of one layer for a single token, whose place is a tensor: shapes stay the
    same from step to step. Places after it are hidden, not left out.

    Args:
        keys: (B, heads, T, d), finite everywhere; the token's own are written into it.
        values: likewise.
        place: int64 (1,), of the token.
    """

    def __init__(self, keys: Tensor, values: Tensor, place: Tensor):
        self.keys, self.values, self.place = keys, values, place
        self.visible = torch.arange(keys.shape[2], device=keys.device)[None, None, None] <= place

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.place, k)
        self.values.index_copy_(2, self.place, v)
        return self.keys, self.values


def one_step(
    prior: "Transformer",
    x: Tensor,
    added: Sequence[Tensor],
    rotation: Tensor | None,
    place: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
) -> Tensor:
    """`Transformer.run_blocks` for the token x (B, 1, width) at `place`."""
    caches: list[LayerCache] = [FullCache(k, v, place) for k, v in zip(keys, values)]
    return prior.run_blocks(x, added, rotation, caches)


@cache
def compiled() -> Callable[..., Tensor]:
    """`one_step`; the modules and shapes it was compiled for are remembered as long as the process
    lasts.
    """
    return torch.compile(one_step, fullgraph=True)


def step(
    prior: "Transformer",
    x: Tensor,
    added: Sequence[Tensor],
    rotation: Tensor | None,
    caches: Sequence[LayerCache],
) -> Tensor:
    """`one_step` after what these caches hold, which they hold, too, then.

    Raises:
        UserError: there is no compiler.
    """
    from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

    place = torch.tensor([caches[0].filled], device=x.device)
    keys, values = [one.keys for one in caches], [one.values for one in caches]
    try:
        x = compiled()(prior, x, added, rotation, place, keys, values)
    except (CppCompileError, InductorError, InvalidCxxCompiler) as error:
        raise UserError(
            f"fast compile: no C++ compiler works here ({first_line(error)}); install g++ or"
            " clang++, on a GPU Triton, or leave fast off"
        ) from None
    for one in caches:
        one.filled += 1
    return x
