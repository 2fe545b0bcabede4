"""Where a model comes from: a local folder, Hugging Face, ModelScope, or `builtin:tiny`. Consumers get a folder.

Also what datasets need of the hubs, and what makes downloads hold: patience and checksums.
"""

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.models.tiny import build_tiny

WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""Files of a model; weights as safetensors only, since other formats can run code."""


class ModelNotFound(Failure, ValueError):
    """The model cannot be had; the message names the path and what was tried."""


class Incomplete(Failure, ValueError):
    """A folder without all weights of the model that is wanted; the message names one."""


def all_there(folder: str, loaded: tuple[Any, dict[str, Any]], new: Collection[str] = ()) -> Any:
    """The model of `from_pretrained(folder, output_loading_info=True)`.

    Incomplete if weights were not in the folder, but for `new` ones: transformers would draw them at random.
    """
    model, info = loaded
    if missing := sorted(set(info["missing_keys"]) - set(new)):
        holds = ", ".join(model.config.architectures or ["a model of unknown kind"])
        says = f"as a {type(model).__name__} it has no {missing[0]}" + " and others" * (len(missing) > 1)
        raise Incomplete(
            f"{folder} holds {holds}: {says}, which would be random; give a model of the kind that is wanted"
        )
    return model


def resolve(path: str, hub: str = "huggingface", revision: str | None = None, key: str = "model.path") -> str:
    """The local folder of model `path`, downloaded once if it is the id of a model on `hub`; `key` names it so."""
    if path == "builtin:tiny":
        try:
            return str(_builtin_tiny())
        except OSError as error:
            fix = "set XDG_CACHE_HOME to a folder with room that may be written"
            raise ModelNotFound(
                f"{key}: {path} is made in the cache, and that cannot be written: {error}; {fix}"
            ) from error
    if Path(path).expanduser().is_dir():
        return str(a_model(Path(path).expanduser().resolve()))
    if path.startswith((".", "/", "~")):
        raise ModelNotFound(f"{key}: there is no folder {path}")
    try:
        folder = _from_modelscope(path, revision, "model") if hub == "modelscope" else _from_huggingface(path, revision)
    except Exception as error:
        raise ModelNotFound(
            f"{key}: {path} is no local folder, and {hub} gave none: {type(error).__name__}: {error}\n"
            "Give a local folder, or check the id, the hub, the network and, for gated models, your token."
        ) from error
    return str(a_model(Path(folder)))


class OtherVocabulary(Failure, ValueError):
    """Two models whose tokens are not the same."""


def of_the_family(key: str, path: str, policy: str, hub: str = "huggingface", revision: str | None = None) -> str:
    """The folder of the model that `key` names, which reads the tokens of the one in the folder `policy`.

    OtherVocabulary unless their tokenizers have the same tokens under the same numbers.
    """
    from transformers import AutoTokenizer

    folder = resolve(path, hub, revision, key)
    if AutoTokenizer.from_pretrained(folder).get_vocab() != AutoTokenizer.from_pretrained(policy).get_vocab():
        raise OtherVocabulary(f"{key}: {path} has other tokens than the policy; take a model of its family")
    return folder


def a_model(folder: Path) -> Path:
    """`folder`, in which a model lies. ModelNotFound where it holds something else, such as adapters."""
    if (folder / "config.json").exists():
        return folder
    if (folder / "adapter_config.json").exists():
        fix = "give the merged model, which a run leaves with lora.export=merged, or which PEFT makes"
        raise ModelNotFound(f"{folder} holds adapters, and not the model that they belong to; {fix}")
    near = sorted(str(found.parent) for found in folder.glob("*/config.json"))
    hint = f"; there is {near[0]}" if near else ""
    raise ModelNotFound(f"{folder} holds no model: it has no config.json{hint}")


def dataset_folder(path: str, revision: str | None) -> str:
    """The local folder of a dataset of ModelScope, downloaded once."""
    return _from_modelscope(path, revision, "dataset")


def dataset_commit(path: str, revision: str | None) -> str | None:
    """The commit that `revision` of a dataset of Hugging Face is now. None if the hub cannot be reached."""
    from huggingface_hub import HfApi

    try:
        return patiently(lambda: HfApi().dataset_info(path, revision=revision).sha)
    except Exception as error:
        if is_unreachable(error) or isinstance(error, ConnectionError):
            return None
        raise


def _from_huggingface(path: str, revision: str | None) -> str:
    from huggingface_hub import snapshot_download

    folder = patiently(lambda: snapshot_download(path, revision=revision, allow_patterns=WANTED))
    verify(Path(folder).parents[1])
    return folder


def _from_modelscope(path: str, revision: str | None, kind: str) -> str:
    """The client compares checksums and goes on with what was cut; a hub that is down is no reason to do without a
    copy that is complete."""
    from modelscope.hub.snapshot_download import snapshot_download

    def fetch(local: bool) -> str:
        wanted = WANTED if kind == "model" else None
        return str(
            snapshot_download(path, revision=revision, allow_patterns=wanted, repo_type=kind, local_files_only=local)
        )

    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):  # its client has no such variable
        return fetch(local=True)
    try:
        return fetch(local=False)
    except ConnectionError as error:
        try:
            return fetch(local=True)
        except Exception:
            raise error from None


# ------------------------------------------------------------------------------------------------ unreliable hubs

PAUSES_S = 1.0, 3.0
"""Before the second and the third try."""
T = TypeVar("T")


def patiently(call: Callable[[], T]) -> T:
    """`call()`, tried again where the hub is overloaded or the connection breaks."""
    for pause in PAUSES_S:
        try:
            return call()
        except Exception as error:
            if not is_unreachable(error):
                raise
        time.sleep(pause)
    return call()


def is_unreachable(error: BaseException | None) -> bool:
    """Overload, a broken connection or a timeout, of any HTTP client, also as the cause of what was raised."""
    while error is not None:
        names = {kind.__name__ for kind in type(error).__mro__}
        status = getattr(getattr(error, "response", None), "status_code", None) or 0
        if status == 429 or status >= 500:
            return True
        if names & {"TransportError", "ConnectionError", "Timeout"} and "OfflineModeIsEnabled" not in names:
            return True
        error = error.__cause__ or error.__context__
    return False


def verify_dataset(path: str) -> None:
    """`verify` for what was downloaded of a dataset of Hugging Face."""
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = Path(HF_HUB_CACHE) / f"datasets--{path.replace('/', '--')}"
    if repository.is_dir():
        verify(repository)


def verify(repository: Path) -> None:
    """Compare each file that was downloaded into this folder of Hugging Face's cache with its checksum, once.

    The client compares sizes only. A file's name in `blobs` is what the hub calls it: SHA-256 of large files, git's
    SHA-1 of others. Raises OSError and removes the file where it is another one.
    """
    done = repository / ".verified"
    try:
        done.mkdir(exist_ok=True)
    except OSError:  # a cache that is only read: nothing was downloaded into it
        return
    for blob in (repository / "blobs").glob("*"):
        if (done / blob.name).exists() or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
            continue
        if _checksum(blob) != blob.name:
            blob.unlink()
            raise OSError(f"a file from the hub has not the checksum {blob.name} that the hub gave; it was removed")
        (done / blob.name).touch()


def _checksum(blob: Path) -> str:
    digest = hashlib.sha256()
    if len(blob.name) == 40:
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    with blob.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


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
