import pytest
import torch
import torch.nn.functional as F

from taming.first_stage import VQGAN, MaskVQGAN, PatchDiscriminator, VectorQuantizer
from taming.first_stage.resnet import Attention


def small(**options):
    return VQGAN(
        8, [1, 2, 2], VectorQuantizer(16, 4), blocks=1, latent_channels=8, dropout=0.2, **options
    )


def test_forward_is_decode_of_encode_bitwise_on_square_and_wide_pictures():
    model = small().eval()
    for size in ((16, 16), (8, 20)):
        image = torch.rand(2, 3, *size) * 2 - 1
        codes = model.encode(image)
        assert codes[0].dtype == torch.int64 and codes[0].shape == (2, *model.grids(*size)[0])
        assert torch.equal(model(image).image, model.decode(codes))


def test_encode_is_deterministic_and_without_side_effects_even_in_training():
    model = VQGAN(
        8, [1, 2], VectorQuantizer(16, 4, restart=1), blocks=1, latent_channels=8, dropout=0.5
    ).train()
    image, before = torch.rand(2, 3, 8, 8), {k: v.clone() for k, v in model.state_dict().items()}
    assert torch.equal(model.encode(image)[0], model.encode(image)[0])
    assert model.training and model.quantizer.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_names_are_the_published_ones():
    names = set(
        VQGAN(
            8, [1, 2], VectorQuantizer(16, 4), blocks=1, attention=[1], latent_channels=8
        ).state_dict()
    )
    for name in (
        "encoder.down.0.block.0.norm1.weight",
        "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.down.1.attn.0.proj_out.bias",
        "encoder.down.0.downsample.conv.weight",
        "encoder.mid.attn_1.q.weight",
        "encoder.norm_out.weight",
        "decoder.up.1.upsample.conv.weight",
        "decoder.up.1.block.1.conv2.bias",
        "decoder.up.0.block.0.nin_shortcut.weight",
        "quant_conv.weight",
        "post_quant_conv.bias",
    ):
        assert name in names
    assert {
        "main.0.weight",
        "main.2.weight",
        "main.3.running_mean",
        "main.5.weight",
        "main.8.bias",
    } <= set(PatchDiscriminator(width=8, layers=2).state_dict())


def test_published_size_has_the_published_number_of_parameters():
    """f16, 256 wide, attention at 16: 144 encoder and 194 decoder tensors (section 2.2)."""
    with torch.device("meta"):
        model = VQGAN(128, [1, 1, 2, 2, 4], VectorQuantizer(1024, 256), attention=[4])
    counts = [
        (len(m.state_dict()), sum(p.numel() for p in m.parameters()))
        for m in (model.encoder, model.decoder)
    ]
    assert counts == [(144, 29_298_176), (194, 42_449_795)]


def test_mask_tokenizer_reads_labels_and_gives_logits():
    model = MaskVQGAN(5, 8, [1, 2], VectorQuantizer(16, 4), blocks=1, latent_channels=8)
    labels = torch.randint(0, 5, (2, 8, 12))
    reconstruction = model(labels)
    assert reconstruction.output.shape == (2, 5, 8, 12) and reconstruction.image.shape == (
        2,
        3,
        8,
        12,
    )
    assert model.decode(model.encode(labels)).shape == (2, 5, 8, 12)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_attention_gets_what_needs_no_matrix_of_all_by_all(memory_format, monkeypatch):
    """Strided q, k, v cost 2.4 GB for 128 x 128 positions; the value is that of the formula."""
    attention, x = Attention(8), torch.randn(2, 8, 5, 6).to(memory_format=memory_format)
    plain = F.scaled_dot_product_attention

    def checked(*parts):
        assert all(part.is_contiguous() for part in parts[:3])
        return plain(*parts)

    monkeypatch.setattr(F, "scaled_dot_product_attention", checked)
    h = attention.norm(x)
    q, k, v = (layer(h).flatten(2) for layer in (attention.q, attention.k, attention.v))
    weights = (q.transpose(1, 2) @ k * 8**-0.5).softmax(dim=2)
    expected = x + attention.proj_out((v @ weights.transpose(1, 2)).unflatten(2, (5, 6)))
    assert torch.allclose(attention(x), expected, atol=1e-5)


@pytest.mark.parametrize("attention", [[2], [-1], [16]])
def test_attention_is_at_scales_not_at_resolutions(attention):
    with pytest.raises(ValueError, match="indices of the 2 scales"):
        VQGAN(8, [1, 2], VectorQuantizer(16, 4), attention=attention)


def largest_gradient(contrast: float, groups: int) -> float:
    """Of the latent at the input, where a picture is grey but for noise of this contrast."""
    torch.manual_seed(0)
    model = VQGAN(
        32,
        [1, 1],
        VectorQuantizer(16, 4),
        1,
        latent_channels=32,
        padding="replicate",
        groups=groups,
    )
    image = torch.full((1, 3, 16, 16), 0.7) + contrast * torch.randn(1, 3, 16, 16)
    latent = model.latent(image.requires_grad_())
    return float(torch.autograd.grad(latent.sum(), image)[0].abs().max())


def test_groups_of_several_channels_keep_the_gradient_of_a_plain_picture_small():
    """One channel a group divides by the deviation of nearly nothing, in every layer."""
    assert largest_gradient(1e-4, groups=8) < 50 * largest_gradient(0.3, groups=8)
    assert largest_gradient(1e-4, groups=32) > 1000 * largest_gradient(0.3, groups=32)
