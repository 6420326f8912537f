"""A model that the machine can't hold is refused while it is built, before its numbers are drawn:
else the system kills the process, or it swaps for hours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from taming.errors import UserError

MEMORY, LIMIT, USED = "/proc/meminfo", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"


def free_memory() -> float:
    """Bytes that this process may still take, of the machine's and of its container's; infinity
    where the system does not say.
    """
    free = float("inf")
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


@contextmanager
def bounded(place: str) -> Iterator[None]:
    """While modules are built within: raises UserError, which names `place`, once their parameters
    and buffers take more than the free memory. Those on the meta device take none.
    """
    from torch import Tensor, nn

    registry = nn.modules.module
    free, total = free_memory(), 0

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal total
        if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
            total += tensor.numel() * tensor.element_size()
        if total > free:
            raise UserError(
                f"{place}: its weights take over {total / 1e9:.1f} GB, but {free / 1e9:.1f} GB of"
                " memory are free; give it fewer channels, layers or codes"
            )

    hooks = (
        registry.register_module_parameter_registration_hook(count),
        registry.register_module_buffer_registration_hook(count),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
