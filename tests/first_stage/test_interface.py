"""What the seam promises: modes come back, sizes are made to fit, and importing it is light."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from taming.first_stage.interface import evaluating, pad_to_multiple


def test_every_submodule_gets_back_the_mode_it_had():
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout())).train()
    module[1][0].eval()
    modes = [part.training for part in module.modules()]
    with evaluating(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == modes
    with pytest.raises(KeyError), evaluating(module[0], module[1]):
        assert module.training and not module[0].training
        raise KeyError
    assert [part.training for part in module.modules()] == modes


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 5, 8), (1, 7, 9)])
def test_padding_repeats_the_edge_up_to_the_next_multiple(shape):
    image = torch.rand(shape)
    padded = pad_to_multiple(image, 8)
    height, width = shape[-2:]
    assert padded.shape == (*shape[:-2], -(-height // 8) * 8, -(-width // 8) * 8)
    assert torch.equal(padded[..., :height, :width], image)
    assert (padded[..., height:, :] == padded[..., height - 1 : height, :]).all()
    assert (padded[..., width:] == padded[..., width - 1 : width]).all()


def test_the_seam_loads_nothing_of_checkpoints_or_training():
    code = (
        "import sys, taming.first_stage.interface; print(sorted(m for m in sys.modules if"
        " m.startswith(('taming.formats', 'taming.second_stage', 'taming.training',"
        " 'pytorch_lightning', 'lpips', 'stlpips_pytorch'))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
