"""Where the tests of this room compute: `OPENMAE_TEST_DEVICE=cpu` rehearses them without a GPU. What only CUDA has (its
memory, its streams, NCCL) is then played by what a CPU has in its place, as each test says."""

import os

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as commands do before anything is computed
DEVICE = torch.device(os.environ.get("OPENMAE_TEST_DEVICE", "cuda"))
ON_GPU = DEVICE.type == "cuda"
FLAGS = f"--device {DEVICE.type}"
MARKS = pytest.mark.gpu
