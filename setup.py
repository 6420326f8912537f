"""Everything is in pyproject.toml, but for this: configs/ is installed as taming/configs."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["taming*"]), "taming.configs"],
    package_dir={"taming.configs": "configs"},
)
