"""The page of models without layouts: classes, no condition, a first stage alone."""

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
