"""What pyproject.toml cannot say: the scripts and the small checkpoint are installed as parts of bat_jax."""

from setuptools import find_packages, setup

INSIDE = {"bat_jax.commands": "experiments", "bat_jax.checkpoints": "checkpoints"}

setup(packages=[*find_packages(include=["bat_jax*"]), *INSIDE], package_dir=INSIDE)
