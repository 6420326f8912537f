"""A pip install without the checkout is whole: the wheel is built, installed into an environment of
its own and used from an empty folder.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def taming(tmp_path_factory):
    """Runs `taming ARGUMENTS` from the wheel in an empty folder; returns (exit code, output)."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", str(ROOT), "-w", str(folder)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("taming-*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    # What the wheel depends on is borrowed from this environment: torch alone takes 6 GB. A path
    # in a .pth file does not bring the editable install of this checkout along.
    site = next((folder / "venv").glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    work = folder / "empty"
    work.mkdir()

    def run(*arguments: str) -> tuple[int, str]:
        command = [folder / "venv" / "bin" / "taming", *arguments]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    run.folder = work
    return run


def test_the_checkout_is_not_used(taming):
    code = "import taming, sys; print(taming.__file__)"
    python = taming.folder.parent / "venv" / "bin" / "python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=taming.folder)
    assert str(taming.folder.parent / "venv") in done.stdout


def test_configurations_are_listed_and_copied(taming):
    code, output = taming("configs")
    assert code == 0 and "intel_vqgan_64" in output
    code, output = taming("configs", "intel_vqgan_64", "-o", "mine.yaml")
    assert code == 0, output
    assert "taming.first_stage.VQGAN" in (taming.folder / "mine.yaml").read_text()


def test_the_shipped_model_draws(taming):
    mask = Image.new("L", (64, 64), 0)
    mask.paste(4, (0, 32, 64, 64))
    mask.save(taming.folder / "lake.png")
    code, output = taming("sample", "landscapes", "--masks", "lake.png", "-o", "painted")
    assert code == 0, output
    assert Image.open(taming.folder / "painted" / "lake-0.png").size == (64, 64)


def test_the_demo_runs(taming):
    code, output = taming("demo", "--quick")
    assert code == 0, output
    assert (taming.folder / "runs" / "demo" / "report.html").is_file()
