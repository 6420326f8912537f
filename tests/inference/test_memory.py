"""What does not fit into memory is refused before anything is computed."""

import pytest
import torch

from taming.errors import UserError
from taming.first_stage import VQGAN, VectorQuantizer, tiling
from taming.inference import memory, reconstruct


@pytest.fixture
def model() -> VQGAN:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(num_codes=16, dim=4)
    return VQGAN(
        channels=8, multipliers=[1, 2], blocks=1, latent_channels=8, quantizer=quantizer
    ).eval()


def test_what_does_not_fit_is_refused_in_one_line_that_says_how_much(model, monkeypatch):
    monkeypatch.setattr(memory, "_free_memory", lambda: 1e6)
    with pytest.raises(UserError, match=r"512x512 needs about 0\.\d GB.*are free"):
        memory.check_reconstruction(model, torch.zeros(1, 3, 1, 1).expand(1, 3, 512, 512))
    memory.check_reconstruction(model, torch.zeros(1, 3, 32, 32))


def test_a_large_picture_needs_a_tile_beside_itself(model):
    """6000x4000 takes as much as any other that is encoded in tiles, but for its own pixels."""
    most = memory.MAPS * tiling.LARGEST // 4 + 2 * tiling.HELD
    assert memory.encoding_bytes(model, (6000, 4000)) <= most
    assert most / 2 < memory.encoding_bytes(model, (60000, 40000)) <= most
    assert memory.encoding_bytes(model, (64, 64)) == memory.MAPS * 8 * 64 * 64 * 4


def test_a_large_picture_is_decoded_in_tiles_as_it_is_encoded(model, monkeypatch):
    image = torch.rand(1, 3, 256, 192) * 2 - 1
    codes, limit = model.encode(image), tiling.map_bytes(model, 160, 160)
    monkeypatch.setattr(tiling, "LARGEST", limit)
    sizes = []
    model.decoder.norm_out.register_forward_hook(
        lambda module, inputs, output: sizes.append(output.numel() * 4)
    )
    with torch.no_grad():
        again = reconstruct.decode_large(model, codes)
    assert again.shape == image.shape and len(sizes) > 1
    assert max(sizes) <= limit
