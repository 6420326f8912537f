"""How much of a processor's arithmetic a step gets out of it: first stage, prior and sampling, each
beside a plain one in the same run.

    python -m benchmarks.bench_gpu [--device cuda] [--compile] [--peak 989] [--only prior]
    python -m benchmarks.bench_gpu --device cpu --quick       # whether it runs

Achieved: the operations of products and convolutions over seconds, as torch's FlopCounterMode
counts them, forward and backward (of the prior the plain one's, so that doing less work counts as
being faster; of sampling two for each weight and code). Peak: dense bfloat16 as the makers give it
for some GPUs, by --peak for others; on a CPU what a product of 2048 x 2048 matrices reaches. Work:

- first stage: 256 px, f = 16, the published VQ-GAN's widths, batch 8, the autoencoder alone with
  L1: forward, backward and AdamW. Plain: diffusers' VQModel of the same widths in float32 (TF32 on
  a GPU), where diffusers is installed.
- prior: 24 layers x 1024, 256 + 256 tokens, batch 16. Plain: a GPT with a matrix of attention, in
  float32.
- sampling: 12 layers x 512, 256 codes, batch 64. Plain: keys and values grown by concatenation.

On a GPU steps are timed between two events, after three that are not; peak memory is the
allocator's.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench_sampling import GrownCache
from benchmarks.bench_training import OPTIMIZER, PlainGPT
from taming.first_stage import VQGAN, VectorQuantizer
from taming.precision import autocast, resolved
from taming.second_stage import GPT, Part, sample
from taming.second_stage.gpt import CachedDecoder
from taming.training.module import adam
from taming.training.second_stage import decay_groups

PEAKS = {"H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "L40S": 362, "4090": 165}
"""TFLOP/s, dense bfloat16 with sums in float32, by the makers' data sheets."""
Step = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """Of the work."""

    pixels: int = 256
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    channels: int = 128
    images: int = 8
    layers: int = 24
    width: int = 1024
    side: int = 16
    batch: int = 16
    samples: int = 64
    sample_layers: int = 12
    sample_width: int = 512


QUICK = Sizes(32, (1, 2), 32, 2, 2, 128, 8, 2, 2, 2, 128)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="our networks compiled")
    parser.add_argument("--peak", type=float, help="TFLOP/s of this processor")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--quick", action="store_true", help="small work")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    bench = Bench(torch.device(options.device), options.compile, options.rounds, options.peak)
    sizes = QUICK if options.quick else Sizes()
    print(f"{bench.name}, {bench.peak:.3g} TFLOP/s; torch {torch.__version__}; {sizes}")
    print("| work | plain | ours | ratio | achieved | of the peak | peak memory, plain / ours |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, pair in (("first stage", first_stages), ("prior", priors), ("sampling", samplers)):
        if options.only in name:
            bench.row(name, *pair(bench, sizes))


class Bench:
    """Where it is measured, and how.

    Args:
        device: where.
        compiled: whether our networks are compiled.
        rounds: of both ways, in turns.
        peak: TFLOP/s, None: known by its name or measured.
    """

    def __init__(self, device: torch.device, compiled: bool, rounds: int, peak: float | None):
        self.device, self.compiled, self.rounds = device, compiled, rounds
        cuda = device.type == "cuda"
        self.name = torch.cuda.get_device_name(device) if cuda else f"{device.type}"
        known = next((value for name, value in PEAKS.items() if name in self.name), None)
        self.peak = peak or known or self.measured_peak()

    def measured_peak(self) -> float:
        dtype = torch.bfloat16 if resolved("auto", self.device) == "bf16-mixed" else torch.float32
        matrix = torch.randn(2048, 2048, device=self.device, dtype=dtype)
        return 2 * 2048**3 / min(self.seconds(lambda: matrix @ matrix) for _ in range(5)) / 1e12

    def network(self, module: nn.Module) -> nn.Module:
        """As training prepares it: channels last, compiled where asked for."""
        module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compiled:
            module.compile()
        return module

    def seconds(self, step: Step) -> float:
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(), step(), end.record()
            torch.cuda.synchronize()
            return start.elapsed_time(end) / 1000
        begun = time.perf_counter()
        step()
        return time.perf_counter() - begun

    def memory(self, step: Step) -> float:
        """GB that the allocator held at most; nan where it does not say."""
        if self.device.type != "cuda":
            return float("nan")
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() / 1e9

    def row(self, name: str, flops: float, plain: Step | None, ours: Step) -> None:
        ways = [way for way in (plain, ours) if way is not None]
        for way in ways:
            for _ in range(3):
                way()
        times: list[list[float]] = [[] for _ in ways]
        for _ in range(self.rounds):
            for row, way in zip(times, ways):
                row.append(self.seconds(way))
        medians = [statistics.median(row) for row in times]
        memory = " / ".join(f"{self.memory(way):.2f}" for way in ways)
        achieved = flops / medians[-1] / 1e12
        other = f"{medians[0]:.4f} s" if plain else "-"
        ratio = f"{medians[0] / medians[-1]:.2f}x" if plain else "-"
        share = f"{achieved / self.peak:.1%}"
        cells = (name, other, f"{medians[-1]:.4f} s", ratio, f"{achieved:.3g} TFLOP/s", share)
        print("|", " | ".join(cells), f"| {memory} GB |", flush=True)


def counted(step: Step) -> float:
    """Operations of the products and convolutions of a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def first_stages(bench: Bench, sizes: Sizes) -> tuple[float, Step | None, Step]:
    image = torch.rand(sizes.images, 3, sizes.pixels, sizes.pixels, device=bench.device) * 2 - 1
    quantizer = VectorQuantizer(1024, 256, 0.25, 1.0)
    model = VQGAN(sizes.channels, list(sizes.multipliers), quantizer)
    optimizer = adam([{"params": list(model.parameters())}], OPTIMIZER, 1e-4)
    bench.network(model)
    last = image.to(memory_format=torch.channels_last)

    def ours() -> None:
        with autocast("auto", bench.device):
            reconstruction = model(last)
        loss = (last - reconstruction.output.float()).abs().mean() + reconstruction.quantizer_loss
        loss.backward()
        optimizer.step(), optimizer.zero_grad()

    return counted(ours), diffusers_step(image, sizes), ours


def diffusers_step(image: Tensor, sizes: Sizes) -> Step | None:
    """The same step by diffusers' VQModel, None where it is not installed."""
    try:
        from diffusers import VQModel
    except ImportError:
        print("| (diffusers is not installed: no plain first stage) | | | | | | |")
        return None
    widths = tuple(sizes.channels * m for m in sizes.multipliers)
    model = VQModel(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=2,
        latent_channels=256,
        num_vq_embeddings=1024,
        sample_size=sizes.pixels,
    ).to(image.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        output = model(image)
        loss = (image - output.sample).abs().mean()
        if getattr(output, "commit_loss", None) is not None:
            loss = loss + output.commit_loss.mean()
        loss.backward()
        optimizer.step(), optimizer.zero_grad()

    return step


def priors(bench: Bench, sizes: Sizes) -> tuple[float, Step, Step]:
    length, grid, device = sizes.side**2, [sizes.side, sizes.side], bench.device
    tokens = torch.randint(0, 1024, (sizes.batch, length), device=device)
    codes = torch.randint(0, 1024, (sizes.batch, *grid), device=device)
    part = {"vocabulary": 1024, "grid": grid}
    heads = max(1, sizes.width // 64)
    mine = GPT(sizes.layers, heads, sizes.width, num_codes=1024, grid=grid, parts=[part])
    optimizer = adam(decay_groups(mine), OPTIMIZER, 1e-4)
    bench.network(mine)
    condition = (Part(tokens, 1024, (sizes.side, sizes.side)),)

    def ours() -> None:
        with autocast("auto", device):
            logits = mine(codes, condition)
        F.cross_entropy(logits.flatten(0, 2).float(), codes.flatten()).backward()
        optimizer.step(), optimizer.zero_grad()

    other = PlainGPT(1024, 2 * length, sizes.layers, heads, sizes.width).to(device)
    others = torch.optim.AdamW(other.parameters(), lr=1e-4)

    def plain() -> None:
        read = torch.cat([tokens, codes.flatten(1)], dim=1)[:, :-1]
        logits = other(read)[:, length - 1 :]
        F.cross_entropy(logits.flatten(0, 1), codes.flatten()).backward()
        others.step(), others.zero_grad()

    return counted(plain), plain, ours


class GrownDecoder(CachedDecoder):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        shape = self.caches[0].keys.shape
        self.caches = [GrownCache(tuple(shape), self.caches[0].keys) for _ in self.caches]

    def steps(self, x: Tensor) -> bool:
        return False


def samplers(bench: Bench, sizes: Sizes) -> tuple[float, Step, Step]:
    heads, side = max(1, sizes.sample_width // 64), sizes.side
    part = {"vocabulary": 1, "length": 1}
    prior = GPT(
        sizes.sample_layers,
        heads,
        sizes.sample_width,
        num_codes=1024,
        grid=[side, side],
        parts=[part],
    )
    prior.to(bench.device).eval()
    start = (Part(torch.zeros(sizes.samples, 1, dtype=torch.int64, device=bench.device), 1),)

    def drawn(decoder: type[CachedDecoder]) -> Step:
        def step() -> None:
            prior.decoder = lambda condition, grid: decoder(prior, condition, grid)
            fast = "compile" if bench.compiled and decoder is CachedDecoder else "off"
            with torch.no_grad(), autocast("auto", bench.device):
                sample(prior, start, (side, side), top_k=100, fast=fast)

        return step

    ours = drawn(CachedDecoder)
    read = [p.numel() for name, p in prior.named_parameters() if "emb" not in name]
    seconds = min(bench.seconds(ours) for _ in range(2))
    print(f"| (sampling: {sizes.samples * side**2 / seconds:.0f} codes/s) | | | | | | |")
    return 2.0 * sum(read) * sizes.samples * side**2, drawn(GrownDecoder), ours


if __name__ == "__main__":
    main()
