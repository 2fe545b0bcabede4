"""The command as a job on a Ray cluster that this machine is no part of, through its dashboard (Ray Jobs API).

What travels is the command and the folder behind `--config-dir`. Relative paths are those of the folder in which the
head of the cluster was started, and the environment, with its keys, is that of the cluster.

Every start reads this file, so what is slow to import is imported where it is used.
"""

import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_hydra import __version__
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.secrets import redacted
from rlhf_hydra.interrupts import Interrupts

KNOCK_S = 5.0
"""How long the dashboard may take to answer."""
STOP_S = 600
"""How long a stopped job may take to save. Ray's own answer is three seconds."""
SENT_BY = "RLHF_HYDRA_SENT_BY"
"""Environment variable of a job: the version that sent it."""
NOT_OURS = re.compile(r"No module named '?(rlhf_hydra|hydra)\b|python: (command )?not found")
"""What a cluster prints whose `python` is another than that of rlhf_hydra."""


def entrypoint(overrides: Sequence[str], config_dir: str | None = None, is_sweep: bool = False) -> str:
    """The shell command of a job: the same one, in the cluster in which it finds itself.

    A secret of the environment becomes `${oc.env:NAME}`, which the cluster resolves: anyone there can read the command.
    """
    kept = [line for line in overrides if line.lstrip("+").partition("=")[0] != "cluster.address"]
    flags = ["-m"] if is_sweep else []
    if config_dir:  # Ray puts what it has unpacked first into PYTHONPATH
        flags += ["--config-dir", f'"${{PYTHONPATH%%:*}}"/{shlex.quote(Path(config_dir).resolve().name)}']
    here = [] if "task=sweep_resume" in kept else ["cluster.address=null"]  # the trials of a sweep are planned
    words = shlex.join([redacted(line) for line in (*kept, *here)])
    return " ".join(["exec python -m rlhf_hydra", *flags, words])


def run(url: str, command: str, config_dir: str | None = None) -> int:
    """Run `command` on the cluster behind `url`, with its output here, to its end; the exit code of the job.

    Failure if nobody answers there, or the job could not be started or followed.
    """
    import asyncio

    knock(url)
    with explained(url):
        client = connect(url)
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), SENT_BY: __version__}
        folders = {"py_modules": [str(Path(config_dir).resolve())]} if config_dir else {}
        job = client.submit_job(entrypoint=command, runtime_env={"env_vars": variables, **folders})
        again = f"ray job logs --follow --address {url} {job}"
        print(f"job     {job} on {url}: {command}\nfollow  {again}", flush=True)
        follower = Follower(client, job, again)
        try:
            asyncio.run(follower.follow())
        except KeyboardInterrupt:
            print(f"left; the job saves and ends by itself: {again}", flush=True)
            return 128 + signal.SIGINT
        return exit_code(client.get_job_info(job), follower)


def knock(url: str) -> None:
    """Failure, soon, unless somebody answers."""
    import urllib.request
    from http.client import HTTPException
    from urllib.error import HTTPError

    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/api/version", timeout=KNOCK_S).close()
    except HTTPError:
        pass  # somebody did, and says why not when asked properly
    except (OSError, HTTPException, ValueError) as error:
        fix = "A cluster's dashboard listens on its head's loopback, port 8265: ssh -L 8265:127.0.0.1:8265 HEAD"
        raise Failure(f"nobody answers at cluster.address={url} ({str(error).strip('<>')}). {fix}") from None


@contextmanager
def explained(url: str) -> Iterator[None]:
    """What Ray's client has to say is a failure, and no defect."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        fix = "copy the head's ~/.ray/auth_token here, or set RAY_AUTH_TOKEN"
        raise Failure(f"{url} does not know this machine: {fix} ({str(error).splitlines()[0]})") from None
    except (RuntimeError, ConnectionError, ValueError) as error:
        raise Failure(f"{url}: {error}") from None


def connect(url: str) -> Any:
    """Ray's client, which says so itself where ray[default] is not installed."""
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    os.environ["RAY_API_SERVER_ADDRESS"] = url  # it, and RAY_ADDRESS, would count more than what the client is given
    return JobSubmissionClient(url)


class Follower:
    """Shows what a job prints. Ctrl-C and SIGTERM stop it, a second Ctrl-C leaves it alone with that."""

    def __init__(self, client: Any, job: str, again: str) -> None:
        self.client, self.job, self.again = client, job, again
        self.stopped_by = 0
        self.last = ""
        """The end of what it has printed."""

    async def follow(self) -> None:
        import asyncio

        from aiohttp import ClientError

        self.loop = asyncio.get_running_loop()
        for number in Interrupts.SIGNALS:
            self.loop.add_signal_handler(number, self.stop, number)
        try:
            async for text in self.client.tail_job_logs(self.job):
                self.last = (self.last + text)[-500:]
                sys.stdout.write(text)
                sys.stdout.flush()
        except (ClientError, RuntimeError) as error:
            raise Failure(f"lost the log of the job, which goes on ({error}); follow it with: {self.again}") from None

    def stop(self, number: int) -> None:
        if self.stopped_by:
            raise KeyboardInterrupt
        self.stopped_by = number
        print("stopping: the job finishes its step and saves; Ctrl-C again leaves it alone with that", flush=True)
        self.loop.run_in_executor(None, self.client.stop_job, self.job)


def exit_code(info: Any, follower: Follower) -> int:
    """Of the job; Ray keeps none of one that was stopped."""
    code = info.driver_exit_code
    if info.status == "STOPPED":
        return 128 + (follower.stopped_by or signal.SIGTERM)
    if code is None:
        raise Failure(f"the job did not start: {info.message}")
    if code and NOT_OURS.search(follower.last):
        fix = f"install rlhf_hydra {__version__} there, and start the head with that environment's bin first in PATH"
        raise Failure(f"`python` on the cluster is none that has rlhf_hydra: {fix}")
    return 128 - code if code < 0 else code


def require_same_version() -> None:
    """Failure if this is the job of another version, whose config may mean something else."""
    if (sender := os.environ.get(SENT_BY, __version__)) != __version__:
        raise Failure(f"sent by rlhf_hydra {sender} to a cluster that has {__version__}: install the same on both")
