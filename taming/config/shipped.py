"""The configurations that come with the package, by name: in configs/ of a checkout, in
taming/configs of an installed wheel.
"""

from pathlib import Path

from taming.errors import UserError, did_you_mean

PACKAGE = Path(__file__).resolve().parents[1]


def shipped_configs() -> dict[str, Path]:
    """Name -> file: `intel_vqgan_64` -> .../first_stage/intel_vqgan_64.yaml."""
    folders = (PACKAGE / "configs", PACKAGE.parent / "configs")
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.rglob("*.yaml"))}


def find_config(name: str | Path) -> Path:
    """The file that a user means: a file, else the shipped one of that name or path
    (`intel_vqgan_64`, `configs/first_stage/intel_vqgan_64.yaml`).

    Raises:
        UserError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    same = shipped.get(path.name.removesuffix(".yaml"))
    if same and str(same).removesuffix(".yaml").endswith(str(path).removesuffix(".yaml")):
        return same
    raise UserError(
        f"config '{name}' does not exist, as a file or among those that come with the"
        f" package{did_you_mean(path.stem, shipped)}"
    )
