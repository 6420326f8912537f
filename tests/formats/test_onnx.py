"""Encoder and decoder as ONNX give what they give here, for any batch and size."""

import pytest
import torch

import taming
from taming.cli.main import main
from taming.errors import UserError
from taming.first_stage import FSQ, VQGAN, VectorQuantizer
from taming.formats.onnx import write_onnx
from tests.formats.samples import write_small

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

QUANTIZERS = {
    "vector": lambda: VectorQuantizer(16, 4, normalize=True),
    "scalar": lambda: FSQ([5, 5]),
}


def sessions(folder):
    return [runtime.InferenceSession(folder / f"{part}.onnx") for part in ("encoder", "decoder")]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_same_codes_and_pictures(name, tmp_path):
    shape = {"blocks": 1, "latent_channels": 4, "attention": [1]}
    model = VQGAN(8, [1, 2], QUANTIZERS[name](), **shape).eval()
    encoder, decoder = sessions(write_onnx(model, tmp_path))
    for size in ((1, 3, 16, 16), (3, 3, 32, 24), (2, 3, 8, 40)):
        x = torch.rand(size) * 2 - 1
        codes = model.encode(x)
        (others,) = encoder.run(None, {"image": x.numpy()})
        assert torch.equal(torch.from_numpy(others), codes[0])
        (picture,) = decoder.run(None, {"codes": codes[0].numpy()})
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(picture), model.decode(codes), atol=1e-4)


@pytest.mark.slow
def test_the_verb(tmp_path):
    path = write_small(tmp_path / "m.ckpt")
    assert main(["convert", str(path), str(tmp_path / "out"), "--to", "onnx"]) == 0
    encoder, _ = sessions(tmp_path / "out")
    x = torch.rand(1, 3, 16, 16)
    (codes,) = encoder.run(None, {"image": x.numpy()})
    assert torch.equal(torch.from_numpy(codes), taming.load(path).encode(x)[0])


def test_what_has_no_codes_is_refused(tmp_path):
    with pytest.raises(UserError, match="no encoder and decoder of codes"):
        write_onnx(torch.nn.Linear(1, 1), tmp_path)
