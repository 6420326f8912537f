"""Networks that give features: their names, weights and refusals."""

import pytest
import torch
from torch import nn

from taming.errors import UserError
from taming.evaluation import features, generation
from taming.evaluation.features import feature_network

PICTURES = torch.rand(2, 3, 32, 32) * 2 - 1


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A torch cache with nothing in it, on a machine without a network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path / "checkpoints"


def inception_weights(path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_, **__):
            return None

    empty = path.with_name("empty.pth")
    torch.save({}, empty)
    torch.manual_seed(0)
    torch.save(
        Random("inception", ["2048"], feature_extractor_weights_path=str(empty)).state_dict(), path
    )
    return path


def test_missing_weights_are_named_with_their_place_and_what_can_be_measured_without(hub):
    with pytest.raises(
        UserError,
        match=(
            r"6726825d\.pth are not in '.*checkpoints'.*put the file there; or measure without it:"
            r" reconstruction"
        ),
    ):
        feature_network("inception")
    with pytest.raises(UserError, match=r"resnet18-\w+\.pth are not in"):
        feature_network("resnet18")
    with pytest.raises(UserError, match="'nowhere.safetensors' does not exist"):
        feature_network("nowhere.safetensors")
    with pytest.raises(UserError, match="did you mean 'inception'"):
        feature_network("incepton")


def test_inception_is_torch_fidelitys_and_only_the_known_weights_make_an_fid(tmp_path, monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = inception_weights(tmp_path / "weights-inception-2015-12-05-6726825d.pth")
    network = feature_network(f"inception:{path}")
    outputs = network(PICTURES)
    reference = FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    )
    expected = reference(((PICTURES + 1) * 127.5).round().to(torch.uint8))
    assert torch.equal(outputs["features"], expected[0]) and torch.equal(
        outputs["logits"], expected[1]
    )
    assert generation.names(network)["fd"] == "fd", "the file has the right name, but other weights"
    monkeypatch.setattr(features, "INCEPTION_HASH", network.sha256[:8])
    assert generation.names(feature_network(f"inception:{path}"))["fd"] == "fid"
    with pytest.raises(UserError, match="299x299, whatever comes in"):
        feature_network(f"inception:{path}", (64, 64))


def test_a_cached_file_is_outputs(hub):
    hub.mkdir()
    inception_weights(hub / features.INCEPTION_FILES[1])
    assert feature_network("inception").sha256 == features.sha256(hub / features.INCEPTION_FILES[1])


def test_a_torchvision_network_gives_what_goes_into_its_last_layer(tmp_path):
    from torchvision import models

    whole = models.resnet18()
    torch.save(whole.state_dict(), tmp_path / "own.pth")
    network = feature_network(f"resnet18:{tmp_path / 'own.pth'}", (64, 64))
    outputs = network(PICTURES)
    assert outputs["features"].shape == (2, 512)
    torch.testing.assert_close(whole.eval().fc(outputs["features"]), outputs["logits"])
    assert network.stamp()["feature_size"] == [64, 64]


def test_a_module_gives_its_output_and_is_hashed_by_its_weights():
    one, same, other = (nn.Conv2d(3, 5, 3) for _ in range(3))
    same.load_state_dict(one.state_dict())
    assert feature_network(one)(PICTURES)["features"].shape == (2, 5)
    assert (
        feature_network(one).sha256 == feature_network(same).sha256 != feature_network(other).sha256
    )


def test_vgg_features_are_the_mean_of_the_last_map(shared):
    path = str(shared / "weights" / "vgg16_imagenet_features_fp16.safetensors")
    network, third = feature_network(path), feature_network(f"{path}@3")
    assert network(PICTURES)["features"].shape == (2, 512) and third(PICTURES)[
        "features"
    ].shape == (2, 256)
    assert "block5_conv3" in network.layer and "block3_conv3" in third.layer
    rounded = ((PICTURES + 1) * 127.5).round() / 127.5 - 1
    expected = network.network.maps(rounded)[4].mean(dim=(2, 3))
    torch.testing.assert_close(network(PICTURES)["features"], expected)


def test_pictures_count_as_they_would_be_saved():
    """Rounded to 8 bits: what is measured in memory is what is measured from PNGs."""
    network = feature_network(nn.Flatten())
    nudged = PICTURES + 1e-4
    rounded = ((PICTURES + 1) * 127.5).round() / 127.5 - 1
    torch.testing.assert_close(network(PICTURES)["features"], rounded.flatten(1))
    assert (network(nudged)["features"] == network(PICTURES)["features"]).float().mean() > 0.9
