"""A model that the machine can't hold is refused before its numbers are drawn: else the system
kills the process, or it swaps for hours.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taming.allocator import give_back_memory
from taming.errors import UserError

MEMORY, LIMIT, USED = "/proc/meminfo", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"
SMALL = 2**28  # bytes of weights, which take about a second to draw


def free_memory() -> float:
    """Bytes that this process may still take, of the machine's and of its container's; infinity
    where the system does not say.
    """
    free = float("inf")
    give_back_memory()
    try:
        lines = Path(MEMORY).read_text(encoding="ascii").splitlines()
        free = min(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
        limit = Path(LIMIT).read_text(encoding="ascii").strip()
        if limit.isdecimal():
            # Cached files count as used, and make room when asked
            used = int(Path(USED).read_text(encoding="ascii")) - _cached_files()
            free = min(free, int(limit) - used)
    except (OSError, ValueError):
        pass
    return free


def _cached_files() -> int:
    lines = Path(USED).with_name("memory.stat").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def within_memory(make: Callable[[], Any], place: str, copies: int = 1) -> Any:
    """What `make` builds. Where its weights are more than a moment's work, it is first built on the
    meta device, which takes neither memory nor time, and refused if the machine can't hold it.

    Args:
        make: builds it; called up to three times, each time from the same random state.
        place: of the model, for messages.
        copies: of each weight that learns: 4 to train it (gradients, and two means of AdamW).

    Raises:
        UserError: it takes more than the free memory.
    """
    import torch

    if torch.get_default_device().type == "meta":
        return make()
    free, state = free_memory(), torch.get_rng_state()
    try:
        with _counted(min(SMALL, free / copies), "cpu"):
            return make()
    except Excess:
        torch.set_rng_state(state)
    try:
        with torch.device("meta"), _counted(free, "meta"):
            needed = _bytes(make(), copies)
    except Excess as excess:
        raise UserError(_refusal(place, f"its weights take over {excess}", free)) from None
    except Exception:  # a class that can't be built there is counted where it is built
        needed = 0.0
    if needed > free:
        verb = "its weights take" if copies == 1 else "to train it takes"
        raise UserError(_refusal(place, f"{verb} about {Excess(needed)}", free))
    torch.set_rng_state(state)
    try:
        with _counted(free, "cpu"):
            return make()
    except Excess as excess:
        raise UserError(_refusal(place, f"its weights take over {excess}", free)) from None


class Excess(Exception):
    """More bytes than there should be. No UserError: a constructor's error gets its place in the
    tree, this one has the model's.
    """

    def __str__(self) -> str:
        return f"{self.args[0] / 1e9:.1f} GB"


def _refusal(place: str, need: str, free: float) -> str:
    return (
        f"{place}: {need}, but {free / 1e9:.1f} GB of memory are free; give it fewer channels,"
        " layers or codes"
    )


def _bytes(made: Any, copies: int) -> float:
    """That its weights take; one more copy of those that don't learn is nobody's."""
    from torch import nn

    if not isinstance(made, nn.Module):
        return 0.0
    total = sum(buffer.nbytes for buffer in made.buffers())
    for weight in made.parameters():
        total += weight.nbytes * (copies if weight.requires_grad else 1)
    return float(total)


@contextmanager
def _counted(limit: float, device: str) -> Iterator[None]:
    """While modules are built within: raises Excess once their parameters and buffers on this kind
    of device take more bytes than `limit`.
    """
    from torch import Tensor, nn

    registry, total = nn.modules.module, 0

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal total
        if isinstance(tensor, Tensor) and tensor.device.type == device:
            total += tensor.nbytes
        if total > limit:
            raise Excess(total)

    hooks = (
        registry.register_module_parameter_registration_hook(count),
        registry.register_module_buffer_registration_hook(count),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
