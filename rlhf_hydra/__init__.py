"""rlhf_hydra: training language models from human feedback, as Hydra-configured experiments."""

__version__ = "0.1.0"
