"""Which numbers to compute with: bfloat16 where the processor has hardware for it, else float32.

Weights stay float32; products and convolutions read them rounded (autocast). Quantizers and losses
compute in float32 whatever is chosen here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "32-true", "bf16-mixed"]


def fast_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether bfloat16 is faster than float32 there: AMX or AVX-512-BF16 of a CPU, tensor cores of
    a GPU. Without them a CPU takes longer (0.6x was measured).
    """
    import torch  # a configuration is read without it

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)
    if kind != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def resolved(precision: Precision, device: torch.device | str) -> Literal["32-true", "bf16-mixed"]:
    """What `auto` means on this device."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if fast_bfloat16(device) else "32-true"


def autocast(precision: Precision, device: torch.device | str) -> torch.autocast:
    """A context in which networks compute as `precision` says."""
    import torch

    enabled = resolved(precision, device) == "bf16-mixed"
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)
