"""Pictures encoded in tiles: the codes of the whole picture, in bounded memory."""

import gc
import threading
import weakref

import pytest
import torch

from taming.errors import UserError
from taming.first_stage import VQGAN, VQVAE, MaskGITVQGAN, MaskVQGAN, VectorQuantizer, tiling
from taming.first_stage.resnet import Attention, GroupNorm


def vqgan(kind=VQGAN, **params):
    torch.manual_seed(0)
    quantizer = VectorQuantizer(num_codes=64, dim=4)
    shape = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "latent_channels": 8}
    return kind(quantizer=quantizer, **shape, **params).eval()


def maskgit():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(num_codes=64, dim=4)
    return MaskGITVQGAN(channels=8, multipliers=[1, 2], quantizer=quantizer, blocks=1).eval()


def agreement(one, other) -> float:
    return float((one[0] == other[0]).float().mean())


@pytest.mark.parametrize("size", [(48, 32), (16, 96), (50, 34)])
def test_codes_are_those_of_the_whole_picture(size):
    model = vqgan(attention=[1])
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole = model.encode(image)
    tiled = tiling.encode_tiled(model, image, tile=16)
    assert agreement(whole, tiled) > 0.999, "but for sums in another order"


@pytest.mark.parametrize("most", [0, 8 * 32 * 24 * 4, tiling.HELD])
def test_codes_do_not_depend_on_which_maps_are_held(monkeypatch, most):
    """None; those of the coarser scale; all."""
    monkeypatch.setattr(tiling, "HELD", most)
    image = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(2)) * 2 - 1
    for model in (vqgan(attention=[1]), maskgit()):
        whole = model.encode(image)
        assert agreement(whole, tiling.encode_tiled(model, image, tile=16)) > 0.999


def test_convolutions_alone_are_exact_in_one_pass():
    model = VQVAE(
        quantizer=VectorQuantizer(num_codes=32, dim=4), width=8, residual_width=4, blocks=1
    ).eval()
    image = torch.rand(1, 3, 64, 80) * 2 - 1
    assert agreement(model.encode(image), tiling.encode_tiled(model, image, tile=16)) == 1


def test_masks_are_encoded_in_tiles_too():
    model = vqgan(MaskVQGAN, labels=5)
    masks = torch.randint(5, (1, 64, 48), generator=torch.Generator().manual_seed(3))
    tiled = tiling.encode_tiled(model, masks, tile=16)
    assert agreement(model.encode(masks), tiled) > 0.999


def test_a_large_picture_is_tiled_by_itself_and_no_map_is_larger_than_allowed(monkeypatch):
    model = vqgan()
    limit = tiling.map_bytes(model, 96, 96)
    image = torch.rand(1, 3, 112, 128) * 2 - 1
    whole, sizes = model.encode(image), []
    monkeypatch.setattr(tiling, "LARGEST", limit)
    monkeypatch.setattr(tiling, "MARGIN", 12)
    model.encoder.conv_in.register_forward_hook(
        lambda module, inputs, output: sizes.append(output.numel() * 4)
    )
    codes = model.encode(image)
    assert len(sizes) > 2 and max(sizes) <= limit
    assert agreement(codes, whole) > 0.999
    assert tiling.is_large(model, image) and not tiling.is_large(model, image[..., :96, :96])


def test_a_pass_goes_no_further_than_the_layer_that_it_is_made_for(monkeypatch):
    """Each of them ran the whole encoder once: 24 million pixels did not end in 29 minutes."""
    monkeypatch.setattr(tiling, "HELD", 0)
    model = vqgan(attention=[1])
    ran = {"conv_in": 0, "conv_out": 0}
    for name in ran:
        getattr(model.encoder, name).register_forward_hook(
            lambda *_, name=name: ran.update({name: ran[name] + 1})
        )
    tiling.encode_tiled(model, torch.rand(1, 3, 64, 32) * 2 - 1, tile=16)
    layers = [m for m in model.encoder.modules() if isinstance(m, (GroupNorm, Attention))]
    corner, tiles = 1, 8
    assert ran["conv_in"] == corner + (len(layers) + 1) * tiles
    assert ran["conv_out"] == corner + tiles


def test_a_pass_goes_on_from_the_last_map_that_is_small_enough(monkeypatch):
    model, ran = vqgan(), {}
    for name in ("conv_in", "down.0.block.0.conv1", "down.1.block.0.conv1", "conv_out"):
        model.encoder.get_submodule(name).register_forward_hook(
            lambda *_, name=name: ran.update({name: ran.get(name, -1) + 1})  # but for the corner
        )
    image = torch.rand(1, 3, 64, 32) * 2 - 1
    tiles = 8
    # 1. All are held. A block: one pass for its second norm, one to hold what it gives
    tiling.encode_tiled(model, image, tile=16)
    assert ran == {
        "conv_in": tiles,
        "down.0.block.0.conv1": 2 * tiles,
        "down.1.block.0.conv1": 2 * tiles,
        "conv_out": tiles,
    }
    # 2. None of the finer scale: its block runs once more, to keep what is half as large
    ran.clear()
    monkeypatch.setattr(tiling, "HELD", tiling.map_bytes(model, 64, 32) // 2)
    tiling.encode_tiled(model, image, tile=16)
    assert ran["conv_in"] == 3 * tiles
    assert ran["down.1.block.0.conv1"] == 2 * tiles


def test_only_one_map_is_held_while_the_next_is_made(monkeypatch):
    """All of them were, at first: 6 GB of a picture with maps of 0.8."""
    held, made, alive = [], [], []
    finish = tiling._Map.finish

    def spied(part):
        made.append(part)
        finish(part)
        own = sum(one.whole.numel() for one in made)
        held.append((own, part.encoder.held.numel()))
        alive.append(weakref.ref(part.encoder.held))
        assert [ref() is None for ref in alive] == [True] * (len(alive) - 1) + [False]

    monkeypatch.setattr(tiling._Map, "finish", spied)
    gc.disable()
    try:
        tiling.encode_tiled(vqgan(), torch.rand(1, 3, 64, 32) * 2 - 1, tile=16)
        made.clear()
        assert len(held) > 3 and all(own == 0 and last > 0 for own, last in held)
        assert alive[-1]() is None, "nothing is left to the garbage collector"
    finally:
        gc.enable()


def test_a_large_picture_within_another_is_refused_and_spoils_nothing():
    """A thread that waits for itself would wait for ever."""
    model, image = vqgan(), torch.rand(1, 3, 64, 32) * 2 - 1
    whole = model.encode(image)
    hook = model.encoder.conv_in.register_forward_hook(
        lambda *_: tiling.encode_tiled(model, image, tile=16) and None
    )
    with pytest.raises(RuntimeError, match="within another"):
        tiling.encode_tiled(model, image, tile=16)
    hook.remove()
    assert agreement(whole, tiling.encode_tiled(model, image, tile=16)) > 0.999


def test_another_thread_meanwhile_has_a_model_of_its_own():
    """Else its layers would count as those of a tile."""
    model, seen = vqgan(), []
    small = torch.rand(1, 3, 32, 32) * 2 - 1
    expected = model.encode(small)[0]

    def meanwhile(*_):
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=lambda: seen.append(model.encode(small)[0]))
            thread.start()
            thread.join()

    image = torch.rand(1, 3, 64, 32) * 2 - 1
    whole = model.encode(image)
    model.encoder.down[0].block[0].conv1.register_forward_hook(meanwhile)
    assert agreement(whole, tiling.encode_tiled(model, image, tile=16)) > 0.999
    assert len(seen) > 8 and all(torch.equal(codes, expected) for codes in seen)


def test_a_very_large_picture_is_attended_to_by_every_nth_row_and_column(monkeypatch):
    places = torch.arange(24 * 20).reshape(1, 1, 24, 20)
    shared = tiling._Shared((48, 40))  # two pixels a place
    seen = []
    for row in tiling.tiles(48, 14, 6):
        for column in tiling.tiles(40, 14, 6):
            shared.tile = row, column
            rows, columns = (
                slice(row.start // 2, row.end // 2),
                slice(column.start // 2, column.end // 2),
            )
            seen += shared.inner(places[..., rows, columns], every=3).flatten().tolist()
    assert sorted(seen) == places[..., ::3, ::3].flatten().tolist()
    # a sample of all is the whole
    model = vqgan(attention=[1])
    image = torch.rand(1, 3, 48, 32) * 2 - 1
    whole = model.encode(image)
    monkeypatch.setattr(tiling, "POSITIONS", 0)
    assert agreement(whole, tiling.encode_tiled(model, image, tile=16)) > 0.999
    monkeypatch.setattr(tiling, "SAMPLED", 24)
    few = agreement(whole, tiling.encode_tiled(model, image, tile=16))
    assert 0.5 < few < 1


def test_layers_are_their_own_again_also_after_an_error(monkeypatch):
    model = vqgan()
    image = torch.rand(1, 3, 32, 32)
    expected = model.encode(image)
    monkeypatch.setattr(model, "encode_piece", lambda piece: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiling.encode_tiled(model, image, tile=16)
    monkeypatch.undo()
    assert not any("forward" in vars(part) for part in model.modules())
    assert torch.equal(model.encode(image)[0], expected[0])


def test_sides_that_the_stride_does_not_divide_are_refused_as_ever():
    with pytest.raises(UserError):
        tiling.encode_tiled(vqgan(), torch.zeros(1, 3, 33, 32))
