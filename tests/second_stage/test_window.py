import pytest
import torch

from taming.errors import UserError
from taming.first_stage import VQGAN, MaskVQGAN, VectorQuantizer
from taming.second_stage import GPT, Boxes, EncodedImage, Part, SecondStage, Unconditional, sample
from taming.second_stage.window import WindowDecoder, decode_tiled, origin


def scrambled(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def masked(grid=(4, 4), part=(4, 4)):
    torch.manual_seed(1)
    return scrambled(
        GPT(
            num_codes=7,
            grid=list(grid),
            parts=[{"vocabulary": 5, "grid": list(part)}],
            layers=2,
            heads=2,
            width=16,
        )
    )


def generators(count=2):
    return [torch.Generator().manual_seed(i) for i in range(count)]


def brute_force(prior, tokens, grid, uniform, side=4, guidance=1.0, known=None):
    """The published rule, 16 replaced by `side`: at each position a window around it, all of it
    computed anew.
    """
    half = side // 2
    codes = torch.zeros(len(tokens), *grid, dtype=torch.int64)
    rows, columns = grid
    for i in range(rows):
        local_i = i if i <= half else side - (rows - i) if rows - i < half else half
        for j in range(columns):
            local_j = j if j <= half else side - (columns - j) if columns - j < half else half
            top, left = i - local_i, j - local_j
            part = Part(tokens[:, top : top + side, left : left + side].flatten(1), 5, (side, side))
            inside = codes[:, top : top + side, left : left + side]
            logits = prior(inside, (part,))[:, local_i, local_j]
            null = prior(inside, (part.null(),))[:, local_i, local_j]
            logits = null + guidance * (logits - null) if guidance != 1 else logits
            cumulative = logits.double().softmax(-1).cumsum(-1)
            codes[:, i, j] = (cumulative < uniform[:, i * columns + j, None]).sum(-1)
            if known is not None:
                codes[:, i, j] = torch.where(known[1][:, i, j], known[0][:, i, j], codes[:, i, j])
    return codes


@pytest.mark.parametrize("grid", [(4, 4), (4, 9), (9, 4), (7, 10), (5, 5)])
@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_the_published_window_rule(grid, limit, monkeypatch):
    monkeypatch.setattr("taming.second_stage.window.CACHE_LIMIT", limit)
    prior, tokens = masked(), torch.randint(0, 5, (2, *grid))
    uniform = torch.stack(
        [torch.rand(grid[0] * grid[1], generator=g, dtype=torch.float64) for g in generators()]
    )
    with torch.no_grad():
        expected = brute_force(prior, tokens, grid, uniform)
    conditioned = (Part(tokens.flatten(1), 5, grid),)
    assert torch.equal(sample(prior, conditioned, grid, generators=generators()), expected)


def test_on_the_trained_grid_windows_change_nothing():
    prior, conditioned = masked(), (Part(torch.randint(0, 5, (2, 16)), 5, (4, 4)),)
    decoder, plain = (
        WindowDecoder(prior, conditioned, (4, 4), EncodedImage.crop),
        prior.decoder(conditioned, (4, 4)),
    )
    decoder.crop = lambda condition, window, grid: condition
    codes = torch.randint(0, 7, (2, 16))
    for i in range(16):
        assert torch.allclose(decoder.logits(), plain.logits(), atol=1e-6)
        decoder.extend(codes[:, i : i + 1]), plain.extend(codes[:, i : i + 1])


def test_windows_keep_to_the_tokens_of_a_coarser_mask():
    assert [origin(i, 12, 4, 2) for i in range(12)] == [0, 0, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8]
    prior = masked(part=(2, 2))
    tokens = torch.randint(0, 5, (2, 6, 4))
    conditioned = (Part(tokens.flatten(1), 5, (6, 4)),)
    codes = sample(prior, conditioned, (12, 8), generators=generators())
    decoder = WindowDecoder(prior, conditioned, (12, 8), Unconditional().crop)
    with torch.no_grad():
        for i in range(12):
            for j in range(8):
                top, left = origin(i, 12, 4, 2), origin(j, 8, 4, 2)
                part = Part(
                    tokens[:, top // 2 : top // 2 + 2, left // 2 : left // 2 + 2].flatten(1),
                    5,
                    (2, 2),
                )
                expected = prior(codes[:, top : top + 4, left : left + 4], (part,))[
                    :, i - top, j - left
                ]
                assert torch.allclose(decoder.logits(), expected, atol=1e-5)
                decoder.extend(codes[:, i, j, None])


def test_conditions_brought_to_a_size_grow_with_the_picture():
    stage = scrambled(
        VQGAN(8, [1, 2], VectorQuantizer(5, 4), blocks=1, latent_channels=8, key="lr")
    )
    conditioner = EncodedImage(stage, [8, 8], [16, 16])
    assert conditioner({"lr": torch.zeros(1, 3, 16, 16)})[0].grid == (4, 4)
    assert conditioner({"lr": torch.zeros(1, 3, 32, 64)})[0].grid == (8, 16)


def test_codes_are_read_once_while_the_origin_stands_still():
    """Along the first rows of a wide grid each window stays; what is read grows with what is new,
    not with the window.
    """
    prior, conditioned = masked(), (Part(torch.randint(0, 5, (1, 4 * 20)), 5, (4, 20)),)
    read = 0

    def count(module, inputs):
        nonlocal read
        read += inputs[0].shape[1]

    prior.blocks[0].register_forward_pre_hook(count)
    sample(prior, conditioned, (4, 20), generators=generators(1))
    windows = 17
    # Condition and codes of each window at most once; anew at each step it would be 80 times as
    # many
    assert read <= windows * (16 + 16)


def uniforms(grid):
    return torch.stack(
        [torch.rand(grid[0] * grid[1], generator=g, dtype=torch.float64) for g in generators()]
    )


def test_guidance_and_known_codes_go_through_windows():
    prior, tokens = masked(), torch.randint(0, 5, (2, 6, 7))
    conditioned = (Part(tokens.flatten(1), 5, (6, 7)),)
    known = torch.randint(0, 7, (2, 6, 7)), torch.rand(2, 6, 7) < 0.5
    codes = sample(prior, conditioned, (6, 7), guidance=2.0, known=known, generators=generators())
    with torch.no_grad():
        assert torch.equal(
            codes, brute_force(prior, tokens, (6, 7), uniforms((6, 7)), guidance=2.0, known=known)
        )


def test_windows_of_odd_size():
    assert [origin(i, 9, 5) for i in range(9)] == [0, 0, 0, 1, 2, 3, 4, 4, 4]
    prior, tokens = masked((5, 5), (5, 5)), torch.randint(0, 5, (2, 8, 9))
    codes = sample(prior, (Part(tokens.flatten(1), 5, (8, 9)),), (8, 9), generators=generators())
    assert codes.shape == (2, 8, 9)
    decoder = WindowDecoder(
        prior, (Part(tokens.flatten(1), 5, (8, 9)),), (8, 9), Unconditional().crop
    )
    with torch.no_grad():
        for i in range(8):
            for j in range(9):
                top, left = origin(i, 8, 5), origin(j, 9, 5)
                part = Part(tokens[:, top : top + 5, left : left + 5].flatten(1), 5, (5, 5))
                expected = prior(codes[:, top : top + 5, left : left + 5], (part,))[
                    :, i - top, j - left
                ]
                assert torch.allclose(decoder.logits(), expected, atol=1e-5)
                decoder.extend(codes[:, i, j, None])


def pair(order="raster"):
    first = scrambled(VQGAN(8, [1, 2], VectorQuantizer(7, 4), blocks=1, latent_channels=8))
    masks = scrambled(
        MaskVQGAN(3, 8, [1, 1, 2], VectorQuantizer(5, 4), blocks=1, latent_channels=8)
    )
    prior = scrambled(
        GPT(1, 2, 16, num_codes=7, grid=[8, 8], parts=[{"vocabulary": 5, "grid": [4, 4]}])
    )
    return SecondStage(first, EncodedImage(masks), prior).eval()


@pytest.mark.parametrize("size", [(16, 16), (8, 12), (29, 37), (40, 16), (3, 5)])
def test_any_size_is_drawn(size):
    model = pair()
    labels = torch.randint(0, 3, (1, *size))
    assert model.sample({"segmentation": labels}).shape == (1, 3, *size)
    with pytest.raises(UserError, match="make them equal"):
        model.sample({"segmentation": labels}, (size[0] + 1, size[1]))


def test_unconditional_pictures_of_any_size():
    first = scrambled(VQGAN(8, [1, 2], VectorQuantizer(7, 4), blocks=1, latent_channels=8))
    model = SecondStage(
        first,
        Unconditional(),
        scrambled(GPT(1, 2, 16, num_codes=7, grid=[4, 4], parts=[{"vocabulary": 1, "length": 1}])),
    ).eval()
    assert model.sample({"count": 2}, (21, 30)).shape == (2, 3, 21, 30)


def test_rows_are_reported_as_they_grow():
    model, rows_of = pair(), []
    model.sample(
        {"segmentation": torch.zeros(1, 16, 16, dtype=torch.int64)},
        on_row=lambda codes, rows: rows_of.append((codes[-1].shape, rows)),
    )
    assert rows_of == [((1, 8, 8), n) for n in range(1, 9)]


def test_guidance_needs_a_prior_that_knows_the_null_condition():
    model = pair()
    model.condition_dropout = 0.0
    with pytest.raises(UserError, match="condition_dropout"):
        model.sample({"segmentation": torch.zeros(1, 16, 16, dtype=torch.int64)}, guidance=2.0)
    model.condition_dropout = 0.1
    model.sample({"segmentation": torch.zeros(1, 16, 16, dtype=torch.int64)}, guidance=2.0)


def test_a_window_of_boxes_says_what_is_visible_of_the_picture():
    conditioner = Boxes(objects=2, vocabulary=101, classes=5)
    conditioned = conditioner({"boxes": torch.tensor([[[1, 0.0, 0.0, 1.0, 1.0]]])})
    cut = conditioner.crop(conditioned, (4, 0, 4, 8), (8, 16))
    assert torch.equal(cut[0].tokens[:, :-2], conditioned[0].tokens[:, :-2])
    null = (conditioned[0].null(),)
    assert torch.equal(conditioner.crop(null, (4, 0, 4, 8), (8, 16))[0].tokens, null[0].tokens)
    # Halves round to even: (0, 4.5) -> row 4; (4.5, 9) -> column 4
    assert cut[0].tokens[0, -2:].tolist() == [4 * 10, 9 * 10 + 4]


def test_tiles_agree_with_one_piece_where_nothing_looks_far():
    """Without the norms' and the attention's view of everything, tiles are exact: with enough
    margin, blended or not.
    """

    class Smooth(torch.nn.Module):
        stride = 2

        def decode(self, codes):
            return torch.nn.functional.interpolate(codes[0][:, None].float(), scale_factor=2)

    codes = torch.randint(0, 9, (2, 40, 23))
    assert torch.allclose(
        decode_tiled(Smooth(), (codes,), tile=16, margin=3), Smooth().decode((codes,)), atol=1e-5
    )
    first = pair().first_stage
    expected = first.decode((codes % 7,))
    assert torch.equal(decode_tiled(first, (codes % 7,), tile=40), expected)
    assert decode_tiled(first, (codes % 7,), tile=16, margin=3).shape == expected.shape


@pytest.mark.parametrize("window, step", [(2, 2), (3, 3), (4, 2), (16, 4), (6, 5)])
def test_every_position_lies_in_its_window(window, step):
    for size in range(window, 40):
        if size % step == 0:
            for position in range(size):
                start = origin(position, size, window, step)
                assert start <= position < start + window and 0 <= start <= size - window


def test_windows_that_hop_serve_several_codes():
    """Origins stand on multiples of the hop, and what is drawn is what the prior says inside those
    windows.
    """
    prior = GPT(1, 2, 8, num_codes=5, grid=[4, 4], parts=[{"vocabulary": 3, "length": 1}]).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    conditioned = (Part(torch.ones(1, 1, dtype=torch.int64), 3),)
    codes = torch.randint(0, 5, (1, 10, 12))
    reader, fills = WindowDecoder(prior, conditioned, (10, 12), lambda c, w, g: c, hop=2), 0
    real = prior.decoder

    def counted(*arguments):
        nonlocal fills
        fills += 1
        return real(*arguments)

    prior.decoder = counted
    for position in range(120):
        i, j = divmod(position, 12)
        top, left = origin(i, 10, 4, 2), origin(j, 12, 4, 2)
        assert top % 2 == 0 and left % 2 == 0 and i - top < 4 and j - left < 4
        with torch.no_grad():
            expected = prior(codes[:, top : top + 4, left : left + 4], conditioned)[
                :, i - top, j - left
            ]
        assert torch.allclose(reader.logits(), expected, atol=1e-5)
        reader.extend(codes[:, i, j][:, None])
    assert fills == 4 * 5  # rows of origin x columns of origin, against 7 x 9 without hopping
    with pytest.raises(UserError, match="hop 5"):
        WindowDecoder(prior, conditioned, (10, 12), lambda c, w, g: c, hop=5)
