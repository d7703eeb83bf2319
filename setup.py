"""Packaging: what codejax installs, what it needs, and the extras."""
# SPDX-License-Identifier: Apache-2.0

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
(VERSION,) = re.findall(r'__version__ = "(.+)"', (HERE / "codejax/__init__.py").read_text())

RUNTIME = [
    "jax>=0.10.2",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "grain>=0.2.18",
    "array_record>=0.8.3",
    "tensorstore>=0.1.86",
    "ml_collections>=1.1.0",
    "absl-py>=2.3",
    "etils[epath]>=1.13",
    "numpy>=2.0",
    "tokenizers>=0.22",
    "zstandard>=0.23",
    "pyarrow>=19",
    "safetensors>=0.6",
    "rich>=14",
    "matplotlib>=3.10",
    "tensorboardX>=2.6.4",
    "grpcio>=1.85.1",
    "grpcio-health-checking>=1.85.1",
    "grpcio-reflection>=1.85.1",
    "protobuf>=7.35.1",
    "prometheus_client>=0.22",
    "rapidfuzz>=3.10",
    "jinja2>=3.1",
]
TEST = ["pytest>=9.0", "pytest-xdist>=3.8", "hypothesis>=6.130", "pyyaml>=6.0"]
TEST += ["grpcio-tools==1.85.1"]  # which wrote codejax/execution/execution_pb2.py
# The TPU compiler, for the tests that compile ahead of time; it has wheels for this platform alone.
TEST += ["libtpu; platform_system == 'Linux' and platform_machine == 'x86_64'"]

setup(
    name="codejax",
    version=VERSION,
    description="A JAX/Flax research codebase for code language models",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # Recipes live at the top of the checkout and travel in the wheel as codejax/configs.
    packages=[
        *find_packages(include=["codejax", "codejax.*"]),
        *("codejax.configs", "codejax.configs.ablations"),
    ],
    package_dir={"codejax": "codejax", "codejax.configs": "configs"},
    package_data={"codejax.execution": ["*.proto"]},
    install_requires=RUNTIME,
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda13]"],
        "test": TEST,
        "slow": ["transformers>=4.56", "torch>=2.8"],
        "dev": [*TEST, "ruff>=0.13", "pyright[nodejs]>=1.1.400", "pre-commit>=4.0", "uv>=0.8"],
    },
    entry_points={"console_scripts": ["codejax=codejax.__main__:main"]},
)
