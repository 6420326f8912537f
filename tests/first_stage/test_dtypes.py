"""Every door of a first stage in every precision, for every quantizer, wherever there is a device:
what goes in in one precision comes back in it, codes are int64, and a latent gets a gradient.
"""

import ast
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from taming.first_stage import (
    DVAE,
    IBQ,
    VAE,
    VQGAN,
    VQVAE,
    VQVAE2,
    GaussianLikelihood,
    GumbelQuantizer,
    LogitLaplaceLikelihood,
    MaskGITVQGAN,
    MaskVQGAN,
    MultiScaleQuantizer,
    VectorQuantizer,
)
from taming.first_stage import colour as colour_module
from taming.first_stage.colour import YCbCr
from taming.first_stage.interface import evaluating
from tests.first_stage.test_quantizers import QUANTIZERS as OTHERS

QUANTIZERS = {
    **OTHERS,
    "index": lambda: IBQ(16, 4),
    "multiscale": lambda: MultiScaleQuantizer(16, 4, [1, 2, 4, 8]),
}
ROOT = Path(__file__).resolve().parents[2]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def model_of(name: str) -> VQGAN:
    shape = {"blocks": 1, "latent_channels": 4, "attention": [1]}
    return VQGAN(8, [1, 2], QUANTIZERS[name](), **shape).eval()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_colours_in_every_precision(dtype):
    """There and back is the same picture, to what the precision holds."""
    colour, x = YCbCr([0.1, -0.2, 0.3], [0.5, 0.1, 0.05]), image(torch.float32).to(dtype)
    expected = torch.linalg.inv(colour.matrix)
    assert torch.allclose(colour_module._inverse(colour.matrix), expected, atol=1e-6)
    back = colour.to(dtype).inverse(colour(x))
    assert back.dtype == dtype
    assert (back - x).abs().max() < {torch.bfloat16: 0.05, torch.float16: 0.01}.get(dtype, 1e-5)


def image(dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
    return (torch.rand(1, 3, 16, 16) * 2 - 1).to(dtype).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_door(name, dtype, device):
    model = model_of(name).to(device, dtype)
    x = image(dtype, device)
    codes = model.encode(x)
    assert all(level.dtype == torch.int64 for level in codes)
    for output in (model.decode(codes), model(x).image, model.reconstruct(x), model.latent(x)):
        assert output.dtype == dtype and output.isfinite().all()
    latent = model.latent(x).detach().requires_grad_()
    picture = model.decode_latent(latent)
    assert picture.dtype == dtype and picture.shape == x.shape
    picture.float().square().mean().backward()
    assert latent.grad.dtype == dtype and latent.grad.isfinite().all() and latent.grad.any()


def quantizer() -> VectorQuantizer:
    return VectorQuantizer(16, 4)


STAGES = {
    "vqvae": lambda: VQVAE(8, 8, quantizer()),
    "vqvae2": lambda: VQVAE2(8, 8, [quantizer(), quantizer()]),
    "gaussian vqvae": lambda: VQVAE(8, 8, quantizer(), likelihood=GaussianLikelihood()),
    "dvae": lambda: DVAE(4, GumbelQuantizer(16, 32), LogitLaplaceLikelihood(), inset=True),
    "maskgit": lambda: MaskGITVQGAN(8, [1, 2], quantizer()),
    "vae": lambda: VAE(8, 8, 4, GaussianLikelihood()),
    "masks": lambda: MaskVQGAN(3, 8, [1, 2], quantizer(), latent_channels=4),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", STAGES)
def test_every_first_stage(name, dtype, device):
    model = STAGES[name]().eval().to(device, dtype)
    x = image(dtype, device)
    if name == "masks":
        x = torch.randint(3, (1, 16, 16), device=device)
    outputs = [model(x).image, model.reconstruct(x)]
    if name != "vae":
        codes = model.encode(x)
        assert all(level.dtype == torch.int64 for level in codes)
        outputs.append(model.decode(codes))
    for output in outputs:
        assert output.isfinite().all() and output.shape[-2:] == x.shape[-2:]
        assert output.dtype == dtype or name == "masks"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["vector", "gumbel", "multiscale"])
def test_inputs_of_another_precision_come_back_in_their_own(name, dtype):
    model = model_of(name)
    assert model.reconstruct(image(dtype)).dtype == dtype
    assert model.bfloat16().reconstruct(image(dtype)).dtype == dtype
    latent = model.latent(image(dtype))
    assert latent.dtype == dtype and model.decode_latent(latent).dtype == dtype


@pytest.mark.parametrize("name", QUANTIZERS)
def test_codebooks(name):
    """Row k is what code k stands for, in every level."""
    quantizer = QUANTIZERS[name]()
    for level, count in enumerate(quantizer.num_codes):
        book = quantizer.codebook(level)
        assert book.shape == (count, quantizer.code_dim) and book.dtype == torch.float32
        if len(quantizer.num_codes) == 1:
            embedded = quantizer.embed((torch.tensor([[[1, 0, count - 1]]]),))[0, :, 0].T
            assert torch.equal(book[[1, 0, count - 1]], embedded.float())


@pytest.mark.parametrize("name", QUANTIZERS)
def test_copies_and_pickles_compute_the_same(name):
    model, x = model_of(name), image(torch.float32)
    expected = model.encode(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(torch.equal(a, b) for a, b in zip(other.encode(x), expected))


def test_threads_share_a_model():
    """`evaluating` switches modes for a while, which must not show in another thread."""
    model, x = model_of("vector"), image(torch.float32)
    expected = model.reconstruct(x)
    with ThreadPoolExecutor(4) as pool:
        for picture in pool.map(lambda _: model.reconstruct(x), range(16)):
            assert torch.equal(picture, expected)


def test_threads_share_a_model_that_is_in_training():
    """The last one to leave brings the mode back; until then no dropout is on for anybody."""
    shape = {"blocks": 1, "latent_channels": 4, "dropout": 0.5}
    model, x = VQGAN(8, [1, 2], quantizer(), **shape), image(torch.float32)
    expected = copy.deepcopy(model).eval().reconstruct(x)
    assert model.training
    with ThreadPoolExecutor(4) as pool:
        for picture in pool.map(lambda _: model.reconstruct(x), range(64)):
            assert torch.equal(picture, expected)
    assert all(part.training for part in model.modules())
    with evaluating(model), evaluating(model.decoder):
        assert not any(part.training for part in model.modules())
    assert all(part.training for part in model.modules())


class Encoded(torch.utils.data.Dataset):
    """Encodes where it is read: in a worker."""

    def __init__(self, model):
        self.model, self.images = model, torch.rand(4, 3, 16, 16) * 2 - 1

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.model.encode(self.images[index : index + 1])[0][0]


def test_workers_of_a_data_loader():
    dataset, threads = Encoded(model_of("vector")), torch.get_num_threads()
    torch.set_num_threads(1)  # a fork of many would hang in any library
    try:
        batches = list(torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.cat(batches), dataset.model.encode(dataset.images)[0])


def test_exported_to_a_graph():
    """torch.export of the decoder, for any batch and size."""
    from taming.formats.onnx import ImagesOf

    model = model_of("vector")
    codes = torch.randint(16, (2, 3, 4))
    free = torch.export.Dim.AUTO
    program = torch.export.export(
        ImagesOf(model), (codes,), dynamic_shapes=((dict.fromkeys(range(3), free),),), strict=False
    )
    other = torch.randint(16, (3, 5, 6))
    with torch.no_grad():
        assert torch.allclose(program.module()(other), model.decode((other,)), atol=1e-5)


@pytest.mark.parametrize("room", ["first_stage", "second_stage", "training"])
def test_apples_gpus_get_no_float64(room):
    """Tensors of a device become float64 by `precise` only, which knows where there is none."""
    for path in (ROOT / "taming" / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr != "double", f"{path}:{node.lineno}"


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_compiled_doors(training):
    model = model_of("vector").train(training)
    codes = torch.randint(16, (2, 4, 4))
    compiled = torch.compile(model.decode)
    with torch.no_grad():
        assert torch.allclose(compiled((codes,)), model.decode((codes,)), atol=1e-5)
    assert model.training == training


@pytest.mark.slow
def test_compiled():
    model = model_of("vector")
    compiled = torch.compile(model.decoder)
    with torch.no_grad():
        z = torch.randn(1, 4, 8, 8)
        assert torch.allclose(compiled(z), model.decoder(z), atol=1e-5)
