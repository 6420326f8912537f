"""How long a training step takes, against a plain implementation of the published step, interleaved
in one run.

    python -m benchmarks.bench_training [--rounds 7] [--threads 2] [--profile]

Plain, first stage: the generator's forward once for each optimizer, the perceptual net too; two
backward passes to the last layer for the adaptive weight and a third through everything; attention
with its matrix, quantization with its distance matrix and one-hot product; Adam without fusion.
Ours: this project's classes. Both: width 32, factors 1, 2, 4, two blocks, 1,024 codes, 64 px, batch
8, all five VGG16 blocks (random weights: the time is the same), PatchGAN 64 x 3, discriminator on.
Plain, second stage: separate query, key and value, attention with its matrix, logits at every
position, AdamW without fusion. Both: 12 layers, width 256, 255 + 256 tokens, batch 2.

--profile says where the time of a step goes, and what is bound: the plain step over ours if all but
our products and convolutions took no time. Peak memory is that of a process that does nothing but
two steps.
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from taming import config
from taming.first_stage import VQGAN, VectorQuantizer, VQGANLoss
from taming.first_stage.interface import Quantized
from taming.first_stage.perceptual import VGG_BLOCKS
from taming.first_stage.resnet import Attention
from taming.precision import Precision, autocast
from taming.second_stage import GPT, Part
from taming.training.module import adam
from taming.training.second_stage import decay_groups

OPTIMIZER = config.Optimizer()


class PlainAttention(Attention):
    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (
            rearrange(layer(h), "b c h w -> b (h w) c") for layer in (self.q, self.k, self.v)
        )
        weights = (torch.bmm(q, k.transpose(1, 2)) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return x + self.proj_out(
            rearrange(torch.bmm(weights, v), "b (h w) c -> b c h w", h=x.shape[-2])
        )


class PlainQuantizer(VectorQuantizer):
    def forward(self, latent: Tensor) -> Quantized:
        z = rearrange(latent, "b d h w -> b h w d").contiguous()
        flat, e = z.view(-1, self.dim), self.embedding.weight
        distances = flat.square().sum(1, keepdim=True) + e.square().sum(1) - 2 * flat @ e.T
        codes = distances.argmin(1)
        zq = (F.one_hot(codes, len(e)).float() @ e).view(z.shape)
        loss = 0.25 * F.mse_loss(zq, z.detach()) + F.mse_loss(z, zq.detach())
        zq = z + (zq - z).detach()
        return Quantized(
            rearrange(zq, "b h w d -> b d h w").contiguous(), (codes.view(z.shape[:-1]),), loss
        )


def random_vgg(path: Path) -> str:
    state, channels = {}, 3
    for b, widths in enumerate(VGG_BLOCKS, start=1):
        for c, width in enumerate(widths, start=1):
            state[f"block{b}_conv{c}.weight"] = (
                torch.randn(width, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
            )
            state[f"block{b}_conv{c}.bias"] = torch.zeros(width)
            channels = width
    save_file(state, path)
    return str(path)


def first_stage(plain: bool, share: bool, vgg: str, precision: Precision = "32-true"):
    """A function that does one training step; the published one in float32."""
    torch.manual_seed(0)
    quantizer = PlainQuantizer(1024, 256) if plain else VectorQuantizer(1024, 256, 0.25, 1.0)
    model = VQGAN(32, [1, 2, 4], quantizer)
    loss = VQGANLoss(vgg, perceptual_blocks=5)
    image = torch.rand(8, 3, 64, 64) * 2 - 1
    if plain:
        for module in model.modules():
            if type(module) is Attention:
                module.__class__ = PlainAttention
        optimizers = [
            torch.optim.Adam(m.parameters(), lr=3.6e-5, betas=(0.5, 0.9))
            for m in (model, loss.discriminator)
        ]
        return lambda: plain_step(model, loss, image, *optimizers)
    model.to(memory_format=torch.channels_last), loss.to(memory_format=torch.channels_last)
    image = image.to(memory_format=torch.channels_last)
    optimizers = [
        adam([{"params": list(m.parameters())}], OPTIMIZER, 3.6e-5)
        for m in (model, loss.discriminator)
    ]
    return lambda: our_step(model, loss, image, *optimizers, share, precision)


def our_step(
    model, loss, image, generator, discriminator, share: bool, precision: Precision = "32-true"
) -> None:
    with autocast(precision, "cpu"):
        reconstruction = model(image)
        total = loss.autoencoder(image, reconstruction, model.last_layer, 0)[0]
    total.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    generator.step(), generator.zero_grad()
    output = reconstruction.output
    with autocast(precision, "cpu"):
        if not share:
            with torch.no_grad():
                output = model(image).output
        total = loss.adversary(image, output)[0]
    total.backward()
    nn.utils.clip_grad_norm_(loss.discriminator.parameters(), 1.0)
    discriminator.step(), discriminator.zero_grad()


def plain_step(model, loss, image, generator, discriminator) -> None:
    reconstruction = model(image)
    output = reconstruction.output
    nll = ((image - output).abs() + loss.perceptual(image, output).view(-1, 1, 1, 1)).mean()
    adversarial = -loss.discriminator(output).mean()
    norms = [
        torch.autograd.grad(term, model.last_layer, retain_graph=True)[0].norm()
        for term in (nll, adversarial)
    ]
    weight = 0.8 * (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
    loss.discriminator.requires_grad_(False)
    (nll + weight * adversarial + reconstruction.quantizer_loss).backward()
    loss.discriminator.requires_grad_(True)
    generator.step(), generator.zero_grad()
    again = model(image).output
    loss.perceptual(image, again).mean()
    real, fake = loss.discriminator(image), loss.discriminator(again.detach())
    (0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())).backward()
    discriminator.step(), discriminator.zero_grad()


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int, length: int):
        super().__init__()
        self.ln1, self.ln2, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.register_buffer("mask", torch.tril(torch.ones(length, length))[None, None])

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln1(x)
        q, k, v = (
            rearrange(layer(h), "b t (n d) -> b n t d", n=self.heads)
            for layer in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
        weights = weights.masked_fill(
            self.mask[:, :, : x.shape[1], : x.shape[1]] == 0, -torch.inf
        ).softmax(dim=-1)
        x = x + self.proj(rearrange(weights @ v, "b n t d -> b t (n d)").contiguous())
        return x + self.mlp(self.ln2(x))


class PlainGPT(nn.Module):
    def __init__(self, vocabulary: int, length: int, layers: int, heads: int, width: int):
        super().__init__()
        self.tok_emb, self.pos_emb = (
            nn.Embedding(vocabulary, width),
            nn.Parameter(torch.zeros(1, length, width)),
        )
        self.blocks = nn.Sequential(*(PlainBlock(width, heads, length) for _ in range(layers)))
        self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok_emb(tokens) + self.pos_emb[:, : tokens.shape[1]]
        return self.head(self.ln_f(self.blocks(x)))


def second_stage(plain: bool, precision: Precision = "32-true"):
    torch.manual_seed(0)
    tokens, codes = torch.randint(0, 1024, (2, 256)), torch.randint(0, 1024, (2, 16, 16))
    if plain:
        prior = PlainGPT(1024, 512, 12, 8, 256)
        optimizer = torch.optim.AdamW(decay_groups(prior), lr=1e-4, betas=(0.9, 0.95))
    else:
        prior = GPT(
            12,
            8,
            256,
            num_codes=1024,
            grid=[16, 16],
            parts=[{"vocabulary": 1024, "grid": [16, 16]}],
        )
        optimizer = adam(decay_groups(prior), OPTIMIZER, 1e-4)

    def step() -> None:
        if plain:
            logits = prior(torch.cat([tokens, codes.flatten(1)], dim=1)[:, :-1])[
                :, tokens.shape[1] - 1 :
            ]
        else:
            with autocast(precision, "cpu"):
                logits = prior(codes, (Part(tokens, 1024, (16, 16)),)).flatten(1, 2).float()
        F.cross_entropy(logits.flatten(0, 1), codes.flatten()).backward()
        optimizer.step(), optimizer.zero_grad()

    return step


KINDS = {
    "convolutions": ("convolution",),
    "products": ("::mm", "::addmm", "::bmm", "linear"),
    "attention": ("scaled_dot_product", "softmax"),
    "norms": ("norm",),
    "activations": ("silu", "gelu", "relu", "threshold"),
    "optimizer": ("adam", "foreach"),
    "copies": ("copy_", "::cat", "::to", "clone", "contiguous"),
}
"""Of operators, by what their names hold; the first that fits."""


def profiled(step) -> dict[str, float]:
    """CPU seconds of a step by kind, in `all` those of all operators."""
    from torch.profiler import ProfilerActivity, profile

    step()
    with profile(activities=[ProfilerActivity.CPU]) as run:
        step(), step()
    seconds = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in run.key_averages():
        name = event.key.lower()
        kind = next((k for k, words in KINDS.items() if any(w in name for w in words)), "other")
        seconds[kind] += event.self_cpu_time_total / 2e6
    return {**seconds, "all": sum(seconds.values())}


def profiles(title: str, plain, ours) -> None:
    """Both ways side by side, and the bound."""
    before, after = profiled(plain), profiled(ours)
    print(f"\n{title}, by operators\n{'':<24}{'plain':>9}{'ours':>9}{'of ours':>9}")
    for kind, seconds in after.items():
        share = seconds / after["all"]
        print(f"{kind:<24}{before[kind]:>8.3f}s{seconds:>8.3f}s{share:>9.1%}")
    rest = after["convolutions"] + after["products"]
    print(f"if all but convolutions and products were free: {before['all'] / rest:.2f}x")


def peak_memory(make, *arguments) -> float:
    """GB that a process with one thread holds at most while it does two steps of `make`."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (make, arguments))


def _peak(make, arguments) -> float:
    torch.set_num_threads(1)
    step = make(*arguments)
    step(), step()
    status = Path("/proc/self/status").read_text()  # getrusage counts the parent's memory, too
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def medians(steps: dict, rounds: int) -> dict[str, float]:
    """Seconds of each step, with one thread of CPU time; the rounds are interleaved, so that a slow
    moment of the machine hits all.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for step in steps.values():
        step()
    times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started = clock()
            step()
            times[name].append(clock() - started)
    return {name: sorted(t)[len(t) // 2] for name, t in times.items()}


def table(title: str, seconds: dict[str, float]) -> None:
    base = seconds["plain"]
    print(f"\n{title}\n{'':<24}{'seconds':>9}{'ratio':>8}")
    for name, value in seconds.items():
        print(f"{name:<24}{value:>9.3f}{base / value:>7.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="where the time goes, and memory")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        vgg = random_vgg(Path(folder) / "vgg.safetensors")
        steps = {
            "plain": first_stage(True, False, vgg),
            "ours, two forwards": first_stage(False, False, vgg),
            "ours, shared forward": first_stage(False, True, vgg),
            "the same, precision auto": first_stage(False, True, vgg, "auto"),
        }
        table(
            f"first-stage step, 64 px, {options.threads} threads, median of {options.rounds}",
            medians(steps, options.rounds),
        )
        if options.profile:
            profiles("first-stage step", steps["plain"], steps["ours, shared forward"])
            for name, way in (("plain", (True, False)), ("ours", (False, True))):
                print(f"peak memory, {name}: {peak_memory(first_stage, *way, vgg):.2f} GB")
    steps = {
        "plain": second_stage(True),
        "ours": second_stage(False),
        "ours, precision auto": second_stage(False, "auto"),
    }
    table(
        f"prior step, 12 layers, width 256, {options.threads} threads, median of {options.rounds}",
        medians(steps, options.rounds),
    )
    if options.profile:
        profiles("prior step", steps["plain"], steps["ours"])
        for name, plain in (("plain", True), ("ours", False)):
            print(f"peak memory, {name}: {peak_memory(second_stage, plain):.2f} GB")


if __name__ == "__main__":
    main()
