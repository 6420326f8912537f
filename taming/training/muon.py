"""Muon in the precision that the processor is fast at."""

import torch
from torch import Tensor

from taming.precision import fast_bfloat16


class Muon(torch.optim.Muon):
    """torch's, whose orthogonal matrices are computed in bfloat16 on every processor; here in
    float32 where that is faster: ten times so on a CPU without hardware for bfloat16, whose Muon
    took a third of a small prior's step.
    """

    @torch.no_grad()
    def step(self, closure=None):
        if all(fast_bfloat16(p.device) for group in self.param_groups for p in group["params"]):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: Tensor, group: dict) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer, momentum = state["momentum_buffer"], group["momentum"]
        buffer.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
        rate = group["lr"] * 0.2 * max(parameter.shape) ** 0.5  # match_rms_adamw
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(orthogonal(update, group["ns_coefficients"], group["ns_steps"]), alpha=rate)


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """About U V^T of a matrix U S V^T, by Newton and Schulz's iteration in the matrix's precision:
    each step maps a singular value s to a s + b s^3 + c s^5 (Jordan et al. 2024).
    """
    a, b, c = coefficients
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if matrix.shape[0] > matrix.shape[1] else x
