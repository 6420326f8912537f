"""Any checkpoint works: what it is conditioned on says what the page shows."""

import numpy as np
import pytest

from taming.cli.main import main
from taming.errors import UserError
from taming.studio.model import load_model
from taming.studio.serve import Studio, bound_socket, names_of
from tests.studio.conftest import Client, one, pixels


@pytest.fixture
def client_of(checkpoints):
    servers = []

    def client(kind):
        servers.append(Studio(load_model(str(checkpoints[kind])), port=0).start())
        return Client(servers[-1])

    yield client
    for server in servers:
        server.stop()


def test_a_class_is_chosen(client_of, tmp_path):
    client = client_of("class")
    assert client.model["kind"] == "class"
    assert client.model["classes"] == ["class 0", "class 1", "class 2"]
    frames = client.ask("draw", height=16, width=24, **{"class": 2})
    (tmp_path / "two.png").write_bytes(one(frames, "picture").blobs["png"])
    assert main(["sample", "--from-png", str(tmp_path / "two.png"), "-o", str(tmp_path / "o")]) == 0
    wrong = client.ask("draw", height=16, width=16, **{"class": 3})
    assert "from 0 to 2" in one(wrong, "failed").header["message"]


def test_an_unconditional_one_has_seeds_and_completes(client_of):
    client = client_of("none")
    assert client.model["kind"] == "none" and not client.model["guidance"]
    before = one(client.ask("draw", height=16, width=16, seed=1), "picture").blobs["png"]
    other = one(client.ask("draw", height=16, width=16, seed=2), "picture").blobs["png"]
    assert before != other
    region = np.zeros((16, 16), np.uint8)
    region[8:] = 1
    blobs = {"picture": before, "region": region.tobytes()}
    after = one(client.ask("draw", blobs, height=16, width=16, seed=3), "picture").blobs["png"]
    assert np.array_equal(pixels(after)[:8], pixels(before)[:8])


def test_a_first_stage_alone_is_looked_into(client_of):
    client = client_of("first")
    assert client.model["kind"] == "first" and client.model["codes"] == [16]
    failure = one(client.ask("draw", height=64, width=64), "failed").header["message"]
    assert "first stage" in failure
    picture = np.zeros((20, 30, 3), np.uint8)
    from tests.studio.test_server import png_bytes

    answer = one(client.ask("encode", {"picture": png_bytes(picture)}), "codes")
    assert answer.header["levels"][0]["rows"] == 10


def test_what_can_not_be_served_is_one_line(checkpoints, capsys):
    model = str(checkpoints["layout"])
    taken = bound_socket("127.0.0.1", 0)
    port = str(taken.getsockname()[1])
    for words, message in (
        (["studio", model, "--port", port], "can't be served"),
        (["studio", model, "--port", "99999"], "a port from 0 to 65535"),
        (["studio", model, "--host", "a..b"], "no address of this machine"),
        (["paint", "nowhere.ckpt"], "does not exist"),
        (["studio", model, "--segmenter", model], "a segmenter stage is needed"),
    ):
        assert main(words) == 2, words
        assert message in capsys.readouterr().err
    taken.close()


def test_hosts_are_those_that_lead_here():
    assert set(names_of("127.0.0.1")) == {"127.0.0.1", "localhost", "::1"}
    assert names_of("192.0.2.7") == ["192.0.2.7"]
    assert {"127.0.0.1", "localhost"} <= set(names_of("0.0.0.0"))


def test_what_is_not_painted_is_said(checkpoints, monkeypatch):
    from taming.second_stage.conditioners import Unconditional

    monkeypatch.setattr(Unconditional, "keys", ("depth",))
    with pytest.raises(UserError, match="conditioned on 'depth'"):
        load_model(str(checkpoints["none"]))


@pytest.mark.parametrize("name", ["landscapes", "intel_landscapes"])
def test_a_shipped_model_has_its_labels_to_paint_with(name):
    """Whether a tokenizer of masks reads them or the prior itself."""
    legend = load_model(name).legend
    assert legend is not None and legend.names[:2] == ("sky", "tree") and len(legend.names) == 10


def test_pictures_are_drawn_in_the_precision_that_the_checkpoint_recommends(monkeypatch):
    """With what auto means on this processor, which a PNG then says."""
    for fast, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr("taming.precision.fast_bfloat16", lambda device, fast=fast: fast)
        assert load_model("landscapes").precision == expected
    assert load_model("intel_landscapes").precision == "32-true", "nothing is recommended"
