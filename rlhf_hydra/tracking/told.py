"""What trackers are told about a run besides its metrics, in the forms that all of them take."""

import hashlib
import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from rlhf_hydra.config.layers import leaves
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.config.secrets import redact

GIB = 2**30


def identity(folder: Path) -> str:
    """Name of a run: the last parts of its folder, two, or of a trial those of its sweep as well."""
    parts = folder.resolve().parts
    return "/".join(parts[-3:] if parts[-2:-1] == ("trials",) else parts[-2:])


def run_id(folder: Path) -> str:
    """A run's own id at a service that many machines share: two that began in the same second are not the same."""
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:6]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", f"{identity(folder)}-{digest}")


def parameters(run: RunConfig) -> dict[str, Any]:
    """The config as `{"algo.kl.coef": 0.01, ...}`, without secrets."""
    return dict(leaves(redact(asdict(run))))


def reachable(url: str, timeout_s: float = 2.0) -> bool:
    """Whether the host of `url` accepts connections; asked once, since clients wait half a minute to find out.
    Asked beside this thread: to look up a name without a network takes longer than any timeout of the connection."""
    answer: Queue[bool] = Queue()

    def connect() -> None:
        parts = urlsplit(url)
        with suppress(OSError, ValueError):
            port = parts.port or {"http": 80}.get(parts.scheme, 443)
            socket.create_connection((parts.hostname or "", port), timeout_s).close()
            answer.put(True)
        answer.put(False)

    Thread(target=connect, daemon=True).start()
    try:
        return answer.get(timeout=timeout_s)
    except Empty:
        return False


class Usage:
    """Load of this machine, as metrics `system/...`: shares since the last reading, memory in GiB."""

    def read(self) -> dict[str, float]:
        metrics = dict(self._gpus())
        try:
            import psutil
        except ImportError:
            return metrics
        memory = psutil.virtual_memory()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return metrics | {
            "system/cpu_percent": psutil.cpu_percent(),
            "system/cores": float(cores),
            "system/memory_gib": memory.used / GIB,
            "system/memory_percent": memory.percent,
        }

    def _gpus(self) -> Iterator[tuple[str, float]]:
        for number, handle in enumerate(self._handles):
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            yield f"system/gpu{number}_percent", float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            yield f"system/gpu{number}_memory_gib", memory.used / GIB

    @cached_property
    def _nvml(self) -> Any:
        import pynvml

        return pynvml

    @cached_property
    def _handles(self) -> list[Any]:
        try:
            self._nvml.nvmlInit()
            return [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._nvml.nvmlDeviceGetCount())]
        except Exception:  # no package, no driver, no permission: then there is nothing to say
            return []
