"""The hub's habits: a local folder, and a hub of our own on loopback."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

import taming
from taming.errors import UserError
from tests.formats.samples import small_content, write_small

pytest.importorskip("huggingface_hub")
from taming.formats import hub  # noqa: E402


def test_there_and_back(tmp_path):
    """What was changed in memory is what is saved."""
    model = taming.load(write_small(tmp_path / "m.ckpt"))
    with torch.no_grad():
        model.decoder.conv_out.bias.fill_(0.25)
    folder = hub.save_pretrained(model, tmp_path / "hub")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    card = json.loads((folder / "config.json").read_text())
    assert card["model_type"] == "VQGAN" and card["stage"] == "first" and card["batches"] == 7
    readme = (folder / "README.md").read_text()
    assert readme.startswith("---\nlibrary_name: taming") and "| rec | 0.5 |" in readme
    again = hub.from_pretrained(folder)
    assert all(
        torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items()
    )
    named = hub.HubModel.from_pretrained(str(folder))
    assert named.model.num_codes == named.model.num_codes == (32,)  # as often as it is asked for


def test_the_card_of_a_checkpoint_is_taken(tmp_path):
    path = write_small(tmp_path / "m.safetensors")
    path.with_suffix(".md").write_text("# Mine")
    folder = hub.save_pretrained(path, tmp_path / "hub")
    assert (folder / "README.md").read_text() == "# Mine"


def test_a_model_built_by_hand_says_what_to_do():
    from taming import config

    model = config.build(config.from_plain(small_content().config).model)
    with pytest.raises(UserError, match="save the checkpoint of its run"):
        hub.save_pretrained(model, "x")


class Stub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs."""

    files: dict[str, bytes] = {}

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        if "me/it" not in self.path:
            return self._answer("", 404, error="RepoNotFound")
        if "/tree/" in self.path:
            files = [(name, len(content)) for name, content in self.files.items()]
            tree = [
                {"type": "file", "path": name, "size": size, "oid": "c" * 40}
                for name, size in files
            ]
            return self._answer(json.dumps(tree))
        if "/api/models/" in self.path:
            siblings = [{"rfilename": name} for name in self.files]
            return self._answer(json.dumps({"id": "me/it", "sha": "a" * 40, "siblings": siblings}))
        name = self.path.split("/")[-1].split("?")[0]
        if name not in self.files:
            return self._answer("", 404, error="EntryNotFound")
        self._answer(self.files[name], body=body)

    def _answer(self, content, code=200, body=True, error=""):
        content = content.encode() if isinstance(content, str) else content
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')  # names what is cached
        self.send_header("X-Repo-Commit", "a" * 40)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A hub that has one model, me/it."""
    from huggingface_hub import constants

    folder = hub.save_pretrained(write_small(tmp_path / "m.ckpt"), tmp_path / "model")
    Stub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server = HTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name in ("ENDPOINT", "_HF_DEFAULT_ENDPOINT"):
        if hasattr(constants, name):
            monkeypatch.setattr(constants, name, address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    yield tmp_path / "cache"
    server.shutdown()
    server.server_close()


def test_a_download_and_then_offline(stub):
    model = hub.from_pretrained("me/it", cache_dir=stub)
    assert model.num_codes == (32,)
    Stub.files = {}  # what is in the cache needs no hub
    assert hub.from_pretrained("me/it", cache_dir=stub, local_files_only=True).num_codes == (32,)


def test_what_is_nowhere_is_one_line(stub):
    for options in ({}, {"local_files_only": True}):
        with pytest.raises(UserError, match="'me/other' is no file here") as refusal:
            hub.from_pretrained("me/other", cache_dir=stub / "empty", **options)
        assert "\n" not in str(refusal.value)
