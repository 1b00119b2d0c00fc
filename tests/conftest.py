"""One thread a process, as under torchrun: sums round alike in a script and in its test."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start

import torch

torch.set_num_threads(1)
