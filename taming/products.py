"""Linear layers on a CPU in float32, by the library whose products are faster there.

torch multiplies by MKL, which leaves half of the arithmetic of AMD's processors with AVX-512 unused
(210 of 480 GF/s, docs/measurements.md, "Products in float32"). oneDNN, which torch has for
convolutions, does not.
"""

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MANY = 16  # rows, from which on a product is not bound by reading its weights
_ONEDNN = torch.ops.mkldnn._linear_pointwise.default


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, as F.linear has it.

    Args:
        x: (..., columns).
        weight: (rows, columns).
        bias: (rows,).
    """
    if _fits(x, weight, bias) and onednn_is_faster() and not _watched():
        return _Linear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Many rows of float32 on a CPU; what does not fit at all gets torch's error."""
    parts = [x, weight] if bias is None else [x, weight, bias]
    if any(part.dtype != torch.float32 or part.device.type != "cpu" for part in parts):
        return False
    if x.ndim < 2 or weight.ndim != 2 or x.shape[-1] != weight.shape[1] or not weight.numel():
        return False
    same = bias is None or bias.shape == weight.shape[:1]
    return same and x.numel() >= MANY * x.shape[-1]


@cache
def onednn_is_faster() -> bool:
    """On AMD's processors with AVX-512."""
    if not torch.backends.mkldnn.is_available():
        return False
    name, path = platform.processor(), Path("/proc/cpuinfo")
    if path.is_file():
        name += path.read_text(errors="replace")[:10_000]
    return "AuthenticAMD" in name and bool(torch.cpu.get_capabilities().get("avx512_f"))


def _watched() -> bool:
    """Autocast computes in other numbers; a program that is recorded runs elsewhere; transforms of
    torch.func want rules of their own; who counts operations knows torch's.
    """
    return (
        torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch.onnx.is_in_onnx_export()
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x_learns, weight_learns, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if weight_learns else None, weight if x_learns else None)
        ctx.shape = x.shape
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore
        x, weight = ctx.saved_tensors
        gradient, of_x, of_weight, of_bias = gradients[0], None, None, None
        # Gradients of gradients are wanted where they are recorded, and torch's have some
        product = F.linear if torch.is_grad_enabled() else _product
        rows = gradient.reshape(-1, gradient.shape[-1])
        if ctx.needs_input_grad[0]:
            of_x = product(rows, weight.t()).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            of_weight = product(rows.t(), x.reshape(-1, x.shape[-1]).t())
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(dim=0)
        return of_x, of_weight, of_bias


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Transposed views cost nothing: oneDNN reads them where they are."""
    return _ONEDNN(x, weight, bias, "none", [], "")
