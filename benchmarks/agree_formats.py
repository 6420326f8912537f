"""How far other people's models are, read here, from the same weights in their own code.

    python benchmarks/agree_formats.py --sources DIR [--golden tests/formats/golden]

diffusers comes from pip (the `interop` extra); DIR holds clones of the others, named llamagen, var,
seed, tok1d (bytedance/1d-tokenizer; RAR's prior also needs timm) and dalle; what is missing is left
out. Random weights in float32, square and wide pictures. Latents and reconstructions: max |a - b| /
max |b|. `--golden` writes the values that tests/formats/test_foreign.py compares with, without any
of these packages.
"""

import argparse
import importlib
import json
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import taming  # noqa: E402
import taming.second_stage  # noqa: E402
from tests.formats.foreign import fill, image_of  # noqa: E402

SIZES = ((32, 32), (32, 48))
GOLDEN_SIDE = 96  # pictures up to this are kept as golden values


@dataclass
class Other:
    """Their model.

    Args:
        model: with weights.
        architecture: in words.
        compute: images in [-1, 1] -> latents, codes of each level, reconstructions.
        save: writes what they publish into a folder, and returns what `taming.load` is given.
        sizes: of the images.
    """

    model: nn.Module
    architecture: str
    compute: Callable[[Tensor], tuple[Tensor, list[Tensor], Tensor]]
    save: Callable[[Path], Path]
    sizes: tuple = SIZES


@contextmanager
def imported_from(folder: Path) -> Iterator[None]:
    """Their modules, which have names such as `models`, are importable and forgotten afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if origin.startswith(str(folder)):
                del sys.modules[name]


def save_state(model: nn.Module, name: str, wrap: Callable = lambda state: state) -> Callable:
    def save(folder: Path) -> Path:
        torch.save(wrap(model.state_dict()), folder / name)
        return folder / name

    return save


def diffusers(sources: Path) -> Iterator[Other]:
    from diffusers.models.autoencoders.vq_model import VQModel

    for attention, widths in ((True, (32, 64, 64)), (False, (32, 32))):
        n, attn = len(widths), "Attn" if attention else ""
        model = VQModel(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * (n - 1) + (f"{attn}DownEncoderBlock2D",),
            up_block_types=(f"{attn}UpDecoderBlock2D",) + ("UpDecoderBlock2D",) * (n - 1),
            layers_per_block=2,
            latent_channels=16,
            num_vq_embeddings=64,
            vq_embed_dim=8,
            mid_block_add_attention=attention,
            lookup_from_codebook=True,
        )
        fill(model)

        def compute(x: Tensor, model=model) -> tuple[Tensor, list[Tensor], Tensor]:
            z = model.encode(x).latents
            _, _, (_, _, codes) = model.quantize(z)
            return z, [codes.view(len(z), *z.shape[2:])], model.decode(z).sample

        def save(folder: Path, model=model) -> Path:
            model.save_pretrained(folder / "model")
            return folder / "model"

        words = f"widths {widths}, attention {'at the coarsest scale' if attention else 'nowhere'}"
        yield Other(model, words, compute, save)


def llamagen(sources: Path) -> Iterator[Other]:
    with imported_from(sources / "llamagen"):
        module = importlib.import_module("tokenizer.tokenizer_image.vq_model")
        for stride, multipliers in ((8, [1, 2, 2, 4]), (16, [1, 1, 2, 2, 4])):
            arguments = module.ModelArgs(
                codebook_size=128, encoder_ch_mult=multipliers, decoder_ch_mult=multipliers
            )
            with narrow(module):
                model = fill(module.VQModel(arguments))

            def compute(x: Tensor, model=model) -> tuple[Tensor, list[Tensor], Tensor]:
                z = model.quant_conv(model.encoder(x))
                quantized, _, (_, _, codes) = model.encode(x)
                return z, [codes.view(len(z), *z.shape[2:])], model.decode(quantized)

            save = save_state(model, f"vq_ds{stride}_c2i.pt", lambda state: {"model": state})
            yield Other(model, f"ds{stride}", compute, save)


@contextmanager
def narrow(module: types.ModuleType) -> Iterator[None]:
    """Their networks are 128 channels wide by default; here 32."""
    defaults = {
        name: getattr(module, name).__init__.__defaults__ for name in ("Encoder", "Decoder")
    }
    for name, values in defaults.items():
        getattr(module, name).__init__.__defaults__ = tuple(
            {128: 32, 256: 64}.get(value, value) if isinstance(value, int) else value
            for value in values
        )
    try:
        yield
    finally:
        for name, values in defaults.items():
            getattr(module, name).__init__.__defaults__ = values


def var(sources: Path) -> Iterator[Other]:
    sys.modules["dist"] = types.ModuleType("dist")
    package = types.ModuleType("models")  # its __init__ imports the Transformer, too
    package.__path__ = [str(sources / "var" / "models")]
    sys.modules["models"] = package
    with imported_from(sources / "var"):
        module = importlib.import_module("models.vqvae")
        model = fill(module.VQVAE(vocab_size=64, z_channels=8, ch=32))
    for name in [name for name in sys.modules if name.split(".")[0] in ("models", "dist")]:
        del sys.modules[name]

    def compute(x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        z = model.quant_conv(model.encoder(x))
        height, width = z.shape[2:]
        scales = model.quantize.v_patch_nums
        grids = [tuple(max(1, round(s * n / 16)) for n in (height, width)) for s in scales]
        flat = model.quantize.f_to_idxBl_or_fhat(z, to_fhat=False, v_patch_nums=grids)
        codes = [level.view(len(z), *grid) for level, grid in zip(flat, grids)]
        latents = model.quantize.f_to_idxBl_or_fhat(z, to_fhat=True, v_patch_nums=grids)
        return z, codes, model.decoder(model.post_quant_conv(latents[-1]))

    save = save_state(model, "vae_ch160v4096z32.pth")
    yield Other(
        model, "ten scales, 3x3 quant convs", compute, save, ((256, 256), (256, 384), (64, 96))
    )


IBQ_YAML = """model:
  class_path: src.IBQ.models.ibqgan.IBQ
  init_args:
    ddconfig: {double_z: false, z_channels: 16, resolution: 32, in_channels: 3, out_ch: 3, ch: 32,
      ch_mult: [1, 2], num_res_blocks: 1, attn_resolutions: [16], dropout: 0.0}
    lossconfig: {target: src.IBQ.modules.losses.vqperceptual.VQLPIPSWithDiscriminator,
      params: {quant_loss_weight: 1.0, entropy_loss_weight: 0.05}}
    n_embed: 64
    embed_dim: 16
    l2_normalize: false
    use_entropy_loss: true
    use_ema: true
"""


class Networks(nn.Module):
    """Their LightningModule without Lightning: the parts that files hold."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, quantize: nn.Module, width: int):
        super().__init__()
        self.encoder, self.decoder, self.quantize = encoder, decoder, quantize
        self.quant_conv = nn.Conv2d(width, width, 1)
        self.post_quant_conv = nn.Conv2d(width, width, 1)


def ibq(sources: Path) -> Iterator[Other]:
    with imported_from(sources / "seed"):
        networks = importlib.import_module("src.IBQ.modules.diffusionmodules.model")
        quantize = importlib.import_module("src.IBQ.modules.vqvae.quantize")
        sizes = {"z_channels": 16, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32}
        sizes |= {"ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [16]}
        model = Networks(
            networks.Encoder(double_z=False, **sizes),
            networks.Decoder(**sizes),
            quantize.IndexPropagationQuantize(64, 16),
            16,
        )
        fill(model)

    def compute(x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        z = model.quant_conv(model.encoder(x))
        quantized, _, (_, _, codes) = model.quantize(z)
        picture = model.decoder(model.post_quant_conv(quantized))
        return z, [codes.view(len(z), *z.shape[2:])], picture

    def save(folder: Path) -> Path:
        """The trained weights are noise, so that only the averages agree."""
        state = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
        averages = {
            f"model_ema.{name.replace('.', '')}": tensor
            for name, tensor in model.state_dict().items()
        }
        torch.save({"state_dict": state | averages}, folder / "imagenet256.ckpt")
        (folder / "imagenet256.yaml").write_text(IBQ_YAML)
        return folder / "imagenet256.ckpt"

    yield Other(model, "attention at the coarsest scale, averaged weights", compute, save)


def maskgit(sources: Path) -> Iterator[Other]:
    path = sources / "tok1d" / "modeling" / "modules" / "maskgit_vqgan.py"
    spec = importlib.util.spec_from_file_location("maskgit_vqgan", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sizes = {"channel_mult": (1, 2), "num_resolutions": 2, "dropout": 0.0, "hidden_channels": 32}
    sizes |= {"num_channels": 3, "num_res_blocks": 2, "resolution": 32, "z_channels": 16}
    config = types.SimpleNamespace(**sizes)
    model = nn.Module()
    model.encoder, model.decoder = module.Encoder(config), module.Decoder(config)
    model.quantize = module.VectorQuantizer(64, 16, 0.25)
    fill(model)

    def compute(x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        z = model.encoder((x + 1) / 2)
        quantized, codes, _ = model.quantize(z)
        return z, [codes.view(len(z), *z.shape[2:])], 2 * model.decoder(quantized) - 1

    save = save_state(model, "maskgit-vqgan-imagenet-f16-256.bin")
    yield Other(model, "two scales", compute, save)


def dalle(sources: Path) -> Iterator[Other]:
    """Their classes are made by `attr`, which is not needed for what they compute."""
    with imported_from(sources / "dalle"):
        sys.modules.setdefault("requests", types.ModuleType("requests"))
        module = importlib.import_module("dall_e")
        model = nn.Module()
        model.encoder = module.Encoder(n_hid=64, n_blk_per_group=1, vocab_size=512)
        model.decoder = module.Decoder(n_hid=64, n_init=16, n_blk_per_group=1, vocab_size=512)
        fill(model)

        def compute(x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
            logits = model.encoder(module.map_pixels((x + 1) / 2))
            codes = logits.argmax(dim=1)
            onehot = nn.functional.one_hot(codes, 512).permute(0, 3, 1, 2).float()
            statistics = model.decoder(onehot)
            picture = module.unmap_pixels(torch.sigmoid(statistics[:, :3]))
            return logits, [codes], 2 * picture - 1

        def save(folder: Path) -> Path:
            for name in ("encoder", "decoder"):
                torch.save(getattr(model, name), folder / f"{name}.pkl")
            return folder

        yield Other(model, "one block a scale", compute, save)


FORMATS = {
    "diffusers": diffusers,
    "LlamaGen": llamagen,
    "VAR": var,
    "SEED-Voken": ibq,
    "MaskGIT": maskgit,
    "DALL-E": dalle,
}


@torch.no_grad()
def compare_prior(sources: Path, golden: Path | None) -> str:
    """A row of the table: logits of LlamaGen's prior, one layer of the published width."""
    tokenizer = next(llamagen(sources))
    with imported_from(sources / "llamagen"):
        module = importlib.import_module("autoregressive.models.gpt")
        sizes = {"n_layer": 1, "dim": 768, "n_head": 12, "vocab_size": 128, "num_classes": 10}
        model = fill(module.Transformer(module.ModelArgs(**sizes)))
    generator = torch.Generator().manual_seed(0)
    codes, classes = torch.randint(128, (2, 16, 16), generator=generator), torch.tensor([3, 10])
    logits, _ = model(codes.flatten(1), classes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save(folder).rename(folder / "vq_ds16_c2i.pt")
        ours = taming.load(
            save_state(model, "c2i_B_256.pt", lambda state: {"model": state})(folder)
        )
        condition = (taming.second_stage.Part(classes[:, None], 10),)
        difference = relative(ours.prior(codes, condition).flatten(1, 2), logits[:, :-1])
    if golden:
        values = {"codes": codes[:1], "classes": classes[:1], "logits": logits[:1, :-1]}
        write_golden(golden / "foreign_llamagen_prior", model, [], values)
    return (
        f"| LlamaGen | prior, one layer of 768 (RoPE, SwiGLU, RMS norms) | {difference:.1e} | | |"
    )


@torch.no_grad()
def compare_rar(sources: Path, golden: Path | None) -> str:
    """Likewise of RAR's prior, over MaskGIT's codes; needs the package timm."""
    tokenizer = next(maskgit(sources))
    package = types.ModuleType("modeling.modules")  # its __init__ imports losses, too
    package.BaseModel = nn.Module
    with imported_from(sources / "tok1d"):
        sys.modules["modeling.modules"] = package
        module = importlib.import_module("modeling.rar")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 96, "image_seq_len": 256, "condition_num_classes": 10}
    sizes |= {"dropout": 0.0, "attn_drop": 0.0}
    generator = {"generator": sizes, "vq_model": {"codebook_size": 64}}
    model = fill(module.RAR(OmegaConf.create({"model": generator})))
    random = torch.Generator().manual_seed(0)
    codes, classes = torch.randint(64, (2, 16, 16), generator=random), torch.tensor([3, 10])
    ids = classes + 64 + 1
    logits = model(codes.flatten(1), ids)[:, :-1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save(folder)
        ours = taming.load(save_state(model, "rar_b.bin")(folder))
        condition = (taming.second_stage.Part(classes[:, None], 10),)
        difference = relative(ours.prior(codes, condition).flatten(1, 2), logits)
    if golden:
        values = {"codes": codes[:1], "classes": classes[:1], "logits": logits[:1]}
        write_golden(golden / "foreign_rar", model, [], values)
    return f"| RAR | prior, two layers of 32, adaptive norms | {difference:.1e} | | |"


@torch.no_grad()
def compare_decoders(sources: Path) -> str:
    """VAR's decoder and ours from the same latents in float64, and how far each is from that in
    float32: whether what reconstructions differ by is rounding.
    """
    other = next(var(sources))
    with tempfile.TemporaryDirectory() as folder:
        ours = taming.load(other.save(Path(folder)))
    x = image_of("VAR", 64, 96)[:1]
    latent = ours.embed(ours.encode(x))

    def decoded(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        z, others = latent.to(dtype), other.model.to(dtype)
        return ours.to(dtype)._run_decoder(z), others.decoder(others.post_quant_conv(z))

    (mine, others), exact = decoded(torch.float32), decoded(torch.float64)
    both = " and ".join(f"{relative(a.double(), b):.1e}" for a, b in zip((mine, others), exact))
    words = f"decoders from the same latent, float64; of float32 ours and others are {both} away"
    return f"| VAR | {words} | | {relative(*exact):.1e} | |"


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@torch.no_grad()
def compare(other: Other, name: str, folder: Path) -> tuple[str, dict[str, Tensor]]:
    """A row of the table, and golden values."""
    ours = taming.load(other.save(folder))
    differences, values, same = [0.0, 0.0], {}, True
    for height, width in other.sizes:
        x = image_of(name, height, width)
        z, codes, picture = other.compute(x)
        latent = ours.latent(x)
        if name == "DALL-E":  # their encoder gives logits
            latent = torch.einsum("bchw,kc->bkhw", latent, ours.quantizer.proj.weight[:, :, 0, 0])
            latent = latent + ours.quantizer.proj.bias[:, None, None]
        differences[0] = max(differences[0], relative(latent, z))
        differences[1] = max(differences[1], relative(ours.reconstruct(x), picture))
        levels = ours.encode(x)
        same &= all(torch.equal(a, b) for a, b in zip(levels, codes)) and len(levels) == len(codes)
        if max(height, width) <= GOLDEN_SIDE:
            values |= {f"{height}x{width}.latent": z[:1], f"{height}x{width}.picture": picture[:1]}
            values |= {f"{height}x{width}.codes.{i}": level[:1] for i, level in enumerate(codes)}
    millions = sum(tensor.numel() for tensor in other.model.state_dict().values()) / 1e6
    row = f"| {name} | {other.architecture}, {millions:.1f} M | {differences[0]:.1e} |"
    return f"{row} {differences[1]:.1e} | {'equal' if same else 'DIFFERENT'} |", values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=Path, default=Path("sources"))
    parser.add_argument("--golden", type=Path)
    parser.add_argument("--only", choices=FORMATS)
    arguments = parser.parse_args()
    print("| format | model | latents | reconstructions | codes |")
    print("| --- | --- | --- | --- | --- |")
    for name in [arguments.only] if arguments.only else FORMATS:
        try:
            for number, other in enumerate(FORMATS[name](arguments.sources.resolve())):
                with tempfile.TemporaryDirectory() as folder:
                    row, values = compare(other, name, Path(folder))
                print(row, flush=True)
                if arguments.golden and not number:
                    path = arguments.golden / f"foreign_{name.lower()}"
                    write_golden(path, other.model, other.sizes, values)
            if name == "LlamaGen":
                print(compare_prior(arguments.sources.resolve(), arguments.golden), flush=True)
            if name == "VAR":
                print(compare_decoders(arguments.sources.resolve()), flush=True)
            if name == "MaskGIT":
                print(compare_rar(arguments.sources.resolve(), arguments.golden), flush=True)
        except ImportError as error:
            print(f"| {name} | not here: {error} | | | |")


def write_golden(path: Path, model: nn.Module, sizes: tuple, values: dict[str, Tensor]) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    sizes = [size for size in sizes if max(size) <= GOLDEN_SIDE]
    path.with_suffix(".json").write_text(json.dumps({"shapes": shapes, "sizes": sizes}) + "\n")
    save_file({k: v.contiguous() for k, v in values.items()}, path.with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
