"""The models. What transformers prints while it loads and saves them is for its developers, not for a run's reader."""

import os

import torch
from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()
if not torch.cuda.is_available():
    os.environ.setdefault(
        "DS_ACCELERATOR", "cpu"
    )  # transformers imports DeepSpeed where it is there, which then guesses
