"""Where a model comes from: a local folder, Hugging Face, ModelScope, or `builtin:tiny`. Consumers get a folder."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.models.tiny import build_tiny

WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""Files of a model; weights as safetensors only, since other formats can run code."""


class ModelNotFound(Failure, ValueError):
    """The model cannot be had; the message names the path and what was tried."""


def resolve(path: str, hub: str = "huggingface", revision: str | None = None) -> str:
    """The local folder of model `path`, downloaded once if it is the id of a model on `hub`."""
    if path == "builtin:tiny":
        return str(_builtin_tiny())
    if Path(path).expanduser().is_dir():
        return str(Path(path).expanduser().resolve())
    if path.startswith((".", "/", "~")):
        raise ModelNotFound(f"model.path: there is no folder {path}")
    try:
        if hub == "modelscope":
            from modelscope.hub.snapshot_download import snapshot_download as from_modelscope

            return str(from_modelscope(path, revision=revision, allow_patterns=WANTED))
        from huggingface_hub import snapshot_download

        return snapshot_download(path, revision=revision, allow_patterns=WANTED)
    except Exception as error:
        raise ModelNotFound(
            f"model.path: {path} is no local folder, and {hub} gave none: {type(error).__name__}: {error}\n"
            "Give a local folder, or check the id, model.hub, the network and, for gated models, your token."
        ) from error


def _builtin_tiny() -> Path:
    """In the user's cache, under a name that changes with the code that builds it."""
    code = hashlib.sha256(Path(__file__).with_name("tiny.py").read_bytes()).hexdigest()[:10]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rlhf_hydra"
    folder = cache / f"tiny-{code}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        aside = build_tiny(Path(tempfile.mkdtemp(dir=cache, prefix="tiny-")))
        try:
            aside.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(aside)
            if not folder.exists():
                raise
    return folder
