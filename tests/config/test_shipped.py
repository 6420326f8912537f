"""Configurations are found by name, with and without a checkout."""

import zipfile
from pathlib import Path

import pytest

from taming import config
from taming.config import shipped
from taming.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_every_file_has_a_name_of_its_own():
    paths = sorted((ROOT / "configs").rglob("*.yaml"))
    assert sorted(config.shipped_configs().values()) == paths


@pytest.mark.parametrize(
    "name",
    [
        "intel_vqgan_64",
        "intel_vqgan_64.yaml",
        "first_stage/intel_vqgan_64",
        "configs/first_stage/intel_vqgan_64.yaml",
    ],
)
def test_a_name_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.find_config(name).name == "intel_vqgan_64.yaml"
    assert config.load(name).model["target"] == "taming.first_stage.VQGAN"


def test_a_file_of_ones_own_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "intel_vqgan_64").write_text("seed: 5\n")
    assert config.load("intel_vqgan_64").seed == 5


@pytest.mark.parametrize(
    "name, words",
    [
        ("intel_vqgan_46", "did you mean 'intel_vqgan_64'"),
        ("nothing", "known: "),
        ("elsewhere/intel_vqgan_64.yaml", "does not exist"),
    ],
)
def test_a_name_that_leads_nowhere(name, words):
    with pytest.raises(UserError, match=words):
        config.find_config(name)


def test_an_installed_package_has_them_beside_its_modules(tmp_path, monkeypatch):
    (tmp_path / "taming" / "configs" / "first_stage").mkdir(parents=True)
    (tmp_path / "taming" / "configs" / "first_stage" / "x.yaml").write_text("seed: 1\n")
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "taming")
    assert config.find_config("x").parent.parent.name == "configs"


@pytest.mark.slow
def test_a_wheel_holds_them(tmp_path):
    import shutil
    import subprocess
    import sys

    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("taming", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", "dist", "."]
    subprocess.run(command, cwd=tmp_path, check=True)
    names = zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))).namelist()
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"taming/{path.relative_to(ROOT).as_posix()}" in names
