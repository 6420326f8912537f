"""Networks that are chains of steps, so that a very large picture can be halfway through them."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class Steps(nn.Module):
    """A network whose output is that of its last step, each of which reads only the one before."""

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        raise NotImplementedError(f"{type(self).__name__} has no steps")

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps():
            x = step(x)
        return x
