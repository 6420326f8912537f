import pytest
import torch

from taming.errors import UserError
from taming.images import to_uint8
from taming.inference.paste import feathered, paste


def test_what_stays_is_the_same_to_the_bit():
    image = torch.randint(0, 256, (1, 3, 40, 30)).float() / 127.5 - 1
    stays = torch.rand(1, 40, 30) < 0.5
    pasted = paste(torch.rand(2, 3, 40, 30) * 2 - 1, image, stays, seam=3)
    same = (to_uint8(pasted) == to_uint8(image)).all(dim=1)
    assert same[stays.expand(2, -1, -1)].all()
    assert not same[~stays.expand(2, -1, -1)].all()


def test_a_seam_rises_inside_the_region_only():
    region = torch.zeros(1, 9, 9, dtype=torch.bool)
    region[:, 2:] = True
    weights = feathered(region, 3)[0, :, 4]
    assert weights.tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1]  # the lower edge is no seam
    assert torch.equal(feathered(region, 0), region.float())


def test_sizes_and_seams_that_do_not_fit():
    picture, stays = torch.zeros(1, 3, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool)
    with pytest.raises(UserError, match="size of the pictures"):
        paste(picture, torch.zeros(1, 3, 8, 9), stays)
    with pytest.raises(UserError, match="seam -1 should"):
        paste(picture, picture, stays, seam=-1)
