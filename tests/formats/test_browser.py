"""The page of docs/recipes decodes codes in a browser as they are decoded here.

Needs onnxruntime-web of npm: `npm install onnxruntime-web` in this folder or above it, or
ONNXRUNTIME_WEB for its folder.
"""

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from taming.first_stage import VQGAN, VectorQuantizer
from taming.formats.onnx import write_onnx
from tests.studio.browser import PATIENCE, chromium

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def page_folder(tmp_path) -> Path:
    pytest.importorskip("onnxscript")
    places = [Path(os.environ.get("ONNXRUNTIME_WEB", "nowhere"))]
    places += [parent / "node_modules" / "onnxruntime-web" for parent in (ROOT, *ROOT.parents)]
    package = next((place for place in places if (place / "dist" / NEEDED[0]).is_file()), None)
    if package is None:
        pytest.skip("onnxruntime-web is not here: npm install onnxruntime-web")
    (tmp_path / "ort").mkdir()
    for name in NEEDED:
        shutil.copy(package / "dist" / name, tmp_path / "ort")
    shutil.copy(ROOT / "docs" / "recipes" / "decode.html", tmp_path)
    return tmp_path


def test_codes_become_the_picture_that_they_are_here(page_folder):
    from playwright.sync_api import sync_playwright

    shape = {"blocks": 1, "latent_channels": 4, "attention": [1]}
    model = VQGAN(8, [1, 2], VectorQuantizer(16, 4), **shape).eval()
    write_onnx(model, page_folder)
    handler = functools.partial(Quiet, directory=str(page_folder))
    web = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        for kind, grid in (("int32", (6, 4)), ("int64", (3, 8))):
            codes = torch.randint(16, (1, *grid))
            np.save(page_folder / "codes.npy", codes[0].numpy().astype(kind))
            page.goto(f"http://127.0.0.1:{web.server_port}/decode.html")
            page.wait_for_function("!/loading/.test(document.querySelector('#state').textContent)")
            assert "decoded in" in page.text_content("#state"), page.text_content("#state")
            width, height, pixels = page.evaluate(
                """() => { const canvas = document.querySelector("canvas");
                return [canvas.width, canvas.height, Array.from(canvas.getContext("2d")
                    .getImageData(0, 0, canvas.width, canvas.height).data)]; }"""
            )
            with torch.no_grad():
                expected = (model.decode((codes,))[0].clamp(-1, 1) + 1) * 127.5
            shown = torch.tensor(pixels).view(height, width, 4)[..., :3].permute(2, 0, 1)
            assert (shown - expected).abs().max() <= 0.51  # rounded to whole numbers
        np.save(page_folder / "codes.npy", np.zeros((2, 2)))
        page.reload()
        page.wait_for_function("!/loading/.test(document.querySelector('#state').textContent)")
        assert page.text_content("#state") == (
            "Error: codes.npy should be a grid of int32 or int64, in C order"
        )
        browser.close()
    web.shutdown()
