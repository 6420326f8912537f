"""The page of models without layouts: classes, no condition, a first stage alone; and inside a
notebook.
"""

import http.server
import threading

import pytest
from PIL import Image

from taming import images
from taming.studio.model import load_model
from taming.studio.serve import Studio
from tests.studio.browser import chromium, painting

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["class", "none"])
def test_without_a_layout_the_tools_select_what_is_drawn_anew(checkpoints, kind):
    chromium()
    server = Studio(load_model(str(checkpoints[kind])), port=0).start()
    try:
        with painting(server.address) as painter:
            page = painter.page
            if kind == "class":
                assert page.inner_text("#follow-name") == "Follow the class"
                page.select_option("#class", "2")
            page.click("#draw")
            painter.pictures(1)
            _, _, before = painter.pixels("#picture")
            page.click("#tool-rectangle")
            painter.drag("#picture", (0.0, 0.5), (0.999, 0.999))
            page.click("#redraw")
            painter.pictures(2)
            _, _, after = painter.pixels("#picture")
            assert before[: 16 * 8 * 4] == after[: 16 * 8 * 4] and before != after
            assert not page.is_visible("#tool-pick") and not page.is_visible("#swatches")
    finally:
        server.stop()


def test_a_first_stage_alone_shows_codes_and_swaps_them(checkpoints, tmp_path):
    chromium()
    images.save(Image.new("RGB", (32, 32), (40, 120, 200)), tmp_path / "blue.png")
    server = Studio(load_model(str(checkpoints["first"])), port=0).start()
    try:
        with painting(server.address) as painter:
            page = painter.page
            page.set_input_files("#inspect-file", tmp_path / "blue.png")
            page.wait_for_selector("#code-text:has-text('stands in')")
            words = page.inner_text("#code-text")
            code = int(words.split()[1])
            _, _, before = painter.pixels("#code-picture")
            page.fill("#swap-code", str((code + 5) % 16))
            page.check("#swap-all")
            page.click("#swap")
            page.wait_for_selector(f"#code-text:has-text('code {(code + 5) % 16} ')")
            assert painter.pixels("#code-picture")[2] != before
            page.fill("#swap-code", "99")  # there is none: all goes back
            page.click("#swap")
            page.wait_for_selector("#message.failure")
            page.press("#code-picture", "ArrowRight")
            page.press("#code-picture", "ArrowLeft")
            page.wait_for_selector(f"#code-text:has-text('code {(code + 5) % 16} ')")
    finally:
        server.stop()


def test_a_notebook_shows_it_inline(studio):
    """In a page of another server of this machine, as Jupyter's is."""
    chromium()
    text = f"<!doctype html><title>notebook</title>{studio._repr_html_()}".encode()

    class Notebook(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Notebook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with painting(studio.address) as painter:
            page = painter.page
            page.goto(f"http://localhost:{server.server_port}/")
            inside = page.frame_locator("iframe")
            inside.locator("#dimensions:not(:empty)").wait_for()
            inside.locator("#draw").click()
            inside.locator("#history li").wait_for()
    finally:
        server.shutdown()
        server.server_close()
