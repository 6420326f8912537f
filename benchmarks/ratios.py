"""`make bench`: what is faster than what, as ratios of one run, beside those that were stored on
the same kind of processor; a ratio that fell is named, and the exit code is 1.

    python benchmarks/ratios.py [--rounds 5] [--threads 1] [--only first-stage] [--store]

Each row is a pair of functions that do the same work. Their rounds are interleaved, so that a slow
moment of the machine hits both, and each round gives a ratio; shown are the median and the
quartiles. A ratio has fallen where its upper quartile lies below the stored lower one by more than
TOLERANCE. With one thread the clock is the process's own CPU time, which other jobs on the machine
hardly move.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import bench_training  # noqa: E402
from benchmarks.bench_sampling import GrownCache  # noqa: E402
from taming.attention import attend  # noqa: E402
from taming.config.sampling import Fast  # noqa: E402
from taming.files import write_atomically  # noqa: E402
from taming.first_stage.normalization import GroupNorm  # noqa: E402
from taming.first_stage.perceptual import UnitDistance  # noqa: E402
from taming.precision import fast_bfloat16  # noqa: E402
from taming.products import linear  # noqa: E402
from taming.second_stage import GPT, Part, sample  # noqa: E402
from taming.second_stage.gpt import CachedDecoder  # noqa: E402
from taming.training.muon import Muon  # noqa: E402

STORED = ROOT / "benchmarks" / "stored.json"
TOLERANCE = 0.1
LIMIT = 600  # seconds of that clock, within which the whole must end
Step = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast ours is as the other way.

    Args:
        median, low, high: over the rounds; quartiles at the ends.
        seconds: of one of ours, in the median.
    """

    median: float
    low: float
    high: float
    seconds: float

    def fell(self, before: "Ratio") -> bool:
        return self.high < before.low * (1 - TOLERANCE)


def clock_of() -> Callable[[], float]:
    """CPU time where one thread computes, which other jobs hardly move; else wall time."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def measured(other: Step, ours: Step, rounds: int) -> Ratio:
    """One untimed round, then `rounds` of both, in turns."""
    clock = clock_of()
    other(), ours()
    ratios, seconds = [], []
    for _ in range(rounds):
        times = []
        for step in (other, ours):
            start = clock()
            step()
            times.append(max(clock() - start, 1e-9))
        ratios.append(times[0] / times[1])
        seconds.append(times[1])
    low, high = min(ratios), max(ratios)
    if len(ratios) > 1:
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(statistics.median(ratios), low, high, statistics.median(seconds))


def pairs(folder: Path) -> Iterator[tuple[str, Step, Step]]:
    """(name, the other way, ours), made one at a time."""
    vgg = bench_training.random_vgg(folder / "vgg.safetensors")
    plain, first = bench_training.first_stage(True, False, vgg), bench_training.first_stage
    yield "first-stage step: published / two forwards", plain, first(False, False, vgg)
    yield "first-stage step: published / shared forward", plain, first(False, True, vgg)
    auto = first(False, True, vgg, "auto")
    yield "first-stage step: float32 / precision auto", first(False, True, vgg), auto
    second = bench_training.second_stage
    yield "prior step: published / ours", second(True), second(False)
    yield "prior step: float32 / precision auto", second(False), second(False, "auto")
    yield "group norm, backward: torch / ours", *group_norms()
    yield "small group norm, bfloat16: torch / ours", *small_group_norms()
    for kind, causal in ((torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)):
        name = f"{str(kind).removeprefix('torch.')}, {'causal' if causal else 'all see all'}"
        yield f"attention, {name}: torch / ours", *attentions(kind, causal)
    yield "linear layer, float32: torch / ours", *linears()
    yield "distance of maps: autograd / ours", *distances()
    yield "Muon: torch / in the faster precision", *muons()
    yield from samplers()


def muons() -> tuple[Step, Step]:
    """A step on the matrices of four blocks of width 256."""
    shapes = [(768, 256), (256, 256), (1024, 256), (256, 1024)] * 4
    matrices = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    other, ours = (kind(matrices, lr=1e-6) for kind in (torch.optim.Muon, Muon))
    return other.step, ours.step


def group_norms() -> tuple[Step, Step]:
    """Forward and backward on channels-last maps."""
    x = torch.randn(8, 32, 64, 64).to(memory_format=torch.channels_last).requires_grad_()

    def step(norm: nn.Module) -> Step:
        return lambda: norm(x).square().mean().backward()

    return step(nn.GroupNorm(32, 32)), step(GroupNorm(32))


def small_group_norms() -> tuple[Step, Step]:
    """Forward on channels-last maps of 16 x 16, four channels to a group."""
    x = torch.randn(8, 128, 16, 16).bfloat16().to(memory_format=torch.channels_last)

    def step(norm: nn.Module) -> Step:
        def forward() -> None:
            with torch.no_grad():
                norm(x)

        return forward

    return step(nn.GroupNorm(32, 128)), step(GroupNorm(128))


def attentions(dtype: torch.dtype, causal: bool) -> tuple[Step, Step]:
    """Forward and backward, of two sequences of 512 tokens and eight heads of 32."""
    inputs = [torch.randn(2, 8, 512, 32, dtype=dtype).requires_grad_() for _ in range(3)]

    def torchs() -> None:
        F.scaled_dot_product_attention(*inputs, is_causal=causal).sum().backward()

    return torchs, lambda: attend(*inputs, causal=causal).sum().backward()


def linears() -> tuple[Step, Step]:
    """Forward and backward, of 1,024 tokens."""
    x, weight = torch.randn(1024, 256).requires_grad_(), torch.randn(1024, 256).requires_grad_()
    bias = torch.randn(1024).requires_grad_()

    def step(product: Callable[..., torch.Tensor]) -> Step:
        return lambda: product(x, weight, bias).sum().backward()

    return step(F.linear), step(linear)


def distances() -> tuple[Step, Step]:
    """Of maps brought to length 1 at each place, forward and backward."""
    shape, last = (8, 64, 64, 64), torch.channels_last
    a, b = (torch.rand(shape).to(memory_format=last).requires_grad_(i > 0) for i in range(2))

    def autograd() -> None:
        (F.normalize(a) - F.normalize(b)).square().sum(dim=1).mean().backward()

    return autograd, lambda: UnitDistance.apply(a, b).mean().backward()


@torch.no_grad()
def samplers() -> Iterator[tuple[str, Step, Step]]:
    """A prior of 4 layers and width 256 that draws 8 x 8 codes at batch 1: the prefix anew for each
    code, a cache that grows by concatenation, module after module, or weights of 8 bits, against
    what `sample` does.
    """
    torch.manual_seed(0)
    start = [{"vocabulary": 1, "length": 1}]
    prior = GPT(4, 8, 256, num_codes=1024, grid=[8, 8], parts=start).eval()
    condition = (Part(torch.zeros(1, 1, dtype=torch.int64), 1),)
    codes = torch.zeros(1, 8, 8, dtype=torch.int64)

    @torch.no_grad()
    def recomputed() -> None:
        for _ in range(64):
            prior(codes, condition)

    def drawn(fast: Fast = "off", decoder: type[CachedDecoder] = CachedDecoder) -> Step:
        def step() -> None:
            prior.decoder = lambda condition, grid: decoder(prior, condition, grid)
            streams = [torch.Generator().manual_seed(0)]
            sample(prior, condition, (8, 8), generators=streams, fast=fast)

        return step

    def module_by_module() -> None:
        prior.can_step = lambda x: False
        drawn()()
        del prior.can_step

    yield "64 codes: recomputed / cached", recomputed, drawn()
    yield "64 codes: concatenated / cached", drawn(decoder=GrownDecoder), drawn()
    yield "64 codes: module by module / few operations", module_by_module, drawn()
    yield "64 codes: full weights / fast=bf16", drawn(), drawn("bf16")
    yield "64 codes: full weights / fast=int8", drawn(), drawn("int8")
    yield "64 codes: step by step / fast=compile", drawn(), drawn("compile")


class GrownDecoder(CachedDecoder):
    """Its caches grow by concatenation."""

    def __init__(self, prior: GPT, condition: tuple[Part, ...], grid: tuple[int, int]):
        super().__init__(prior, condition, grid)
        self.caches = [GrownCache((1, 8, 0, 32), prior.pos_emb) for _ in prior.blocks]


def processor() -> str:
    """Its name as the system gives it, and whether it multiplies in bfloat16."""
    name = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    if path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    capabilities = torch.cpu.get_capabilities()
    features = [one for one in ("avx2", "avx512_bf16", "amx_bf16") if capabilities.get(one)]
    return " ".join([name, *features])


def read_stored(path: Path, kind: str) -> dict[str, Ratio]:
    """The ratios stored on such a processor; {} where there are none."""
    if not path.is_file():
        return {}
    plain = json.loads(path.read_text(encoding="utf-8")).get(kind, {})
    return {name: Ratio(**values) for name, values in plain.items()}


def store(path: Path, kind: str, ratios: dict[str, Ratio]) -> None:
    """Adds to what is stored, of this processor and of others."""
    plain = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rows = {name: asdict(ratio) for name, ratio in ratios.items()}
    plain[kind] = {**plain.get(kind, {}), **rows}
    text = json.dumps(plain, indent=1) + "\n"
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def line(name: str, ratio: Ratio, before: Ratio | None) -> str:
    """A row of the table."""
    now = f"{ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"
    then = f"{before.median:.2f}x ({before.low:.2f} to {before.high:.2f})" if before else "-"
    mark = " FELL" if before and ratio.fell(before) else ""
    return f"| {name:<46} | {now:<22} | {then:<22} | {ratio.seconds:.4f} s |{mark}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--store", action="store_true", help="write them, instead of comparing")
    parser.add_argument("--file", type=Path, default=STORED)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kind = f"{processor()}, {options.threads} thread{'s' * (options.threads > 1)}"
    stored, ratios, start = read_stored(options.file, kind), {}, clock_of()()
    print(f"{kind}; torch {torch.__version__}; bfloat16 by itself: {fast_bfloat16()}")
    if not stored:
        print("nothing is stored of such a processor: --store keeps what comes now")
    print(f"| {'other way / ours':<46} | {'now':<22} | {'stored':<22} | one of ours |")
    with tempfile.TemporaryDirectory() as folder:
        for name, other, ours in pairs(Path(folder)):
            if options.only not in name:
                continue
            if clock_of()() - start > LIMIT:
                print(f"{name}: left out, {LIMIT} s are over")
                continue
            ratios[name] = measured(other, ours, options.rounds)
            print(line(name, ratios[name], stored.get(name)), flush=True)
    if options.store:
        store(options.file, kind, ratios)
        return 0
    return int(any(ratio.fell(stored[name]) for name, ratio in ratios.items() if name in stored))


if __name__ == "__main__":
    sys.exit(main())
