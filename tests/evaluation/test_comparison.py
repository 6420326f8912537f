"""`taming report`: one page over several runs."""

import re
import shutil
import subprocess

import pytest

from taming import evaluate
from taming.cli.main import main
from taming.errors import UserError
from taming.evaluation import comparison
from taming.training import run
from tests.conftest import experiment_of, first_stage_plain, mask_stage_plain

SHORT = {"max_steps": 4, "validate_every": 2, "checkpoint_every": 4, "pictures_every": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in their learning rate; the first has been evaluated."""
    root = tmp_path_factory.mktemp("runs")
    for name, rate in (("slow", 1e-4), ("fast", 2e-3)):
        plain = first_stage_plain(**SHORT)
        plain["optimizer"]["learning_rate"] = rate
        run.train(experiment_of(plain), root / name)
    evaluate(
        root / "slow" / "figures.json",
        checkpoint=str(root / "slow"),
        only=("reconstruction", "codes"),
    )
    return root / "slow", root / "fast"


def test_a_page_has_both_runs_side_by_side_and_needs_no_other_file(runs, tmp_path):
    page = comparison.write(runs, tmp_path / "report.html").read_text()
    assert (
        not re.search(r"(src|href)=['\"](?!data:)", page)
        and "http" not in page.replace("https://", "http://").split("<details>")[0]
    )
    row = re.search(
        r"<tr><th>psnr: [^<]+ dB ↑</th><td>([\d.]+) \(([\d.]+) to ([\d.]+)\)</td><td></td></tr>",
        page,
    )
    assert row and float(row[2]) <= float(row[1]) <= float(row[3])
    assert re.search(
        r"<tr><th>optimizer\.learning_rate</th><td>0\.0001</td><td>0\.002</td></tr>", page
    )
    assert "trainer.max_steps</th>" not in page, "only what differs"
    assert (
        "validation/psnr" in page
        and "Reconstructions: picture and what comes back" in page
        and "What taming doctor says" in page
    )
    assert "stamp" in page and "bootstrap over pictures" in page
    assert len(page.encode()) < 5_000_000
    assert {path.name for path in (tmp_path / "report").iterdir()} >= {
        "learning_rate.png",
        "share_of_codes_in_use.png",
    }


def test_layouts_have_their_legend(tmp_path):
    run.train(experiment_of(mask_stage_plain(**SHORT)), tmp_path / "masks")
    page = comparison.write([tmp_path / "masks"], tmp_path / "report.html").read_text()
    assert re.search(r"<p class='legend'>(<span><i style='[^']+'></i>[^<]+</span> ){2,}</p>", page)


def test_figures_of_different_protocols_are_starred(runs, tmp_path):
    fast = tmp_path / "fast"
    shutil.copytree(runs[1], fast)
    evaluate(fast / "figures.json", checkpoint=str(fast), only=("reconstruction",), pictures=2)
    page = comparison.write([runs[0], fast], tmp_path / "r.html").read_text()
    assert "dB ↑ *</th>" in page and "A star: the protocols differ" in page


def test_samples_of_two_models_may_be_compared_and_other_photographs_not():
    stamp = {"data_sha256": "a", "sampling": {"seed": 0}, "against_sha256": "t", "pictures": 9}
    other = {**stamp, "data_sha256": "b", "sampling": {"seed": 1}, "checkpoint_sha256": "c"}
    assert comparison._comparable(stamp) == comparison._comparable(other)
    assert comparison._comparable(stamp) != comparison._comparable({**stamp, "against_sha256": "u"})
    held_out = {"data_sha256": "a", "pictures": 9}
    assert comparison._comparable(held_out) != comparison._comparable(
        {**held_out, "data_sha256": "b"}
    )


def test_runs_that_do_not_exist_are_refused(runs, tmp_path, capsys):
    assert main(["report", str(tmp_path / "nothing"), "-o", str(tmp_path / "r.html")]) == 2
    assert "does not exist, or has no metrics.csv" in capsys.readouterr().err
    assert main(["report", str(runs[0]), "-o", "r.pdf"]) == 2
    assert "should end in .html" in capsys.readouterr().err
    with pytest.raises(UserError, match="is given twice"):
        comparison.write([runs[0], runs[0]], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("chromium") is None, reason="no chromium here: apt-get install chromium"
)
def test_a_browser_shows_it_on_a_phone(runs, tmp_path):
    """Without a network: every picture is there, and nothing is wider than the screen."""
    path = comparison.write(runs, tmp_path / "report.html")
    probe = (
        "<script>const wide = [...document.querySelectorAll('figure, img, h1, p, .wide')].filter(e"
        " => e.getBoundingClientRect().right > innerWidth + 1);"
    )
    probe += (
        "document.title = JSON.stringify({pictures: document.images.length, broken:"
        " [...document.images].filter(i => !i.naturalWidth).length, "
    )
    probe += (
        "wide: wide.length, scroll: document.documentElement.scrollWidth > innerWidth +"
        " 1})</script>"
    )
    shown = tmp_path / "probed.html"
    shown.write_text(path.read_text().replace("</body>", f"{probe}</body>"))
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--window-size=500,2000",
        "--dump-dom",
    ]
    page = subprocess.run(
        ["chromium", *flags, shown.as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    shown_there = re.search(
        r'<title>\{"pictures":(\d+),"broken":0,"wide":0,"scroll":false\}</title>',
        page.replace("&quot;", '"'),
    )
    assert shown_there, page[:500]
    assert int(shown_there[1]) >= 8
