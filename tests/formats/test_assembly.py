"""Decoders exchanged, and matrices of priors in 8 bits."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import taming
from taming.cli.main import main
from taming.errors import UserError
from taming.formats.content import Content
from taming.formats.int8 import FACTORS, quantized, restored
from taming.formats.load import load
from taming.formats.ours import save_safetensors
from taming.images import psnr
from tests.formats.samples import small_content


def finished() -> Content:
    """The small model with another decoder, as a run with frozen codes leaves it."""
    content = small_content()
    weights = {
        name: tensor + 0.5 if name.startswith("decoder.") else tensor
        for name, tensor in content.weights.items()
    }
    return small_content(weights=weights)


def test_a_finished_decoder_is_put_into_a_model_of_the_same_codes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_safetensors("first.safetensors", small_content())
    save_safetensors("finished.safetensors", finished(), half=True)
    words = "convert first.safetensors out.safetensors --decoder finished.safetensors"
    assert main(words.split()) == 0
    model, own = load("out.safetensors"), load("first.safetensors")
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(model.encode(image)[0], own.encode(image)[0])
    expected = load("finished.safetensors").decode(own.encode(image))
    assert torch.allclose(model.decode(own.encode(image)), expected, rtol=1e-3, atol=1e-2)


def test_a_decoder_of_other_codes_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    other = finished()
    other.weights["quantizer.embedding.weight"] = other.weights["quantizer.embedding.weight"] + 1
    save_safetensors("first.safetensors", small_content())
    save_safetensors("other.safetensors", other)
    words = "convert first.safetensors out.safetensors --decoder other.safetensors"
    assert main(words.split()) == 2
    assert "have different tokenizers ('quantizer.embedding.weight')" in capsys.readouterr().err


def test_a_row_comes_back_to_half_a_step_of_its_own_size():
    matrix = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    matrix *= torch.logspace(-6, 3, 64)[:, None]  # rows of very different size
    matrix[5] = 0
    numbers, factors = quantized(matrix)
    assert numbers.dtype == torch.int8 and factors.shape == (64,)
    again = restored({"m": numbers, f"m{FACTORS}": factors}, "file")["m"]
    assert ((again - matrix).abs() <= matrix.abs().amax(dim=1, keepdim=True) / 253).all()


@pytest.mark.parametrize(
    "tensors, reason",
    [
        ({f"m{FACTORS}": torch.ones(4)}, "belongs to no matrix"),
        ({"m": torch.ones(4, 2), f"m{FACTORS}": torch.ones(4)}, "belongs to no matrix"),
        ({"m": torch.ones(4, 2).to(torch.int8), f"m{FACTORS}": torch.ones(3)}, "for each row"),
        ({"m": torch.ones(4, 2).to(torch.int8), f"m{FACTORS}": torch.ones(4).int()}, "each row"),
    ],
)
def test_factors_without_their_matrix_are_refused(tensors, reason):
    with pytest.raises(UserError, match=reason):
        restored(tensors, "file")


def test_a_prior_in_8_bits_has_the_codes_and_nearly_the_likelihoods(tmp_path, monkeypatch):
    """Of the shipped model: the tokenizer stays in half precision to the bit."""
    monkeypatch.chdir(tmp_path)
    assert main("convert intel_landscapes small.safetensors --int8".split()) == 0
    assert main("convert intel_landscapes half.safetensors --half".split()) == 0, "as it is stored"
    model, own = taming.load("small.safetensors"), taming.load("intel_landscapes")
    for name, tensor in own.first_stage.state_dict().items():
        assert torch.equal(model.first_stage.state_dict()[name], tensor), name
    torch.manual_seed(0)
    labels = torch.randint(10, (2, 4, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    image = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8) * 2 - 1, (64, 64))
    condition = own.conditioner({"segmentation": labels})
    codes = own.first_stage.encode(image)[0]
    one, other = (float(m.levels[0].log_prob(codes, condition).mean()) for m in (own, model))
    assert other == pytest.approx(one, rel=0.01)
    stored = load_file("small.safetensors")
    assert stored["priors.0.head.weight"].dtype == torch.int8
    assert psnr(own.first_stage.decode((codes,)), model.first_stage.decode((codes,))).min() > 60


def test_a_damaged_factor_is_found_by_its_checksum(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from safetensors import safe_open

    assert main("convert intel_landscapes small.safetensors --int8".split()) == 0
    with safe_open("small.safetensors", framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file("small.safetensors")
    name = next(name for name in tensors if name.endswith(FACTORS))
    tensors[name][0] *= 2
    save_file(tensors, "small.safetensors", metadata)
    with pytest.raises(UserError, match="is damaged"):
        load("small.safetensors")
