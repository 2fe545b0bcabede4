"""What the command line answers to a mistake, letter by letter: `messages.txt`.

Written anew by `python tests/config/test_messages.py`, to be read before it is committed.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
MESSAGES = HERE / "messages.txt"
REPOSITORY = HERE.parents[1]

MISTAKES = """
algo=gppo
algo=null
modell=tiny
algo.kl.cof=0.1
policy.lr=1e-5
+policy.optim.lrr=1
+algo=ppo
++algo=ppo
algo@policy=ppo
algo.name=grpo
data@eval.data=gsm9k
~steps
algo.advantage.scale=none
seed=1,2
algo=ppo,grpo
'a b=1'
steps
outputs=größe
'seed=rnge(1,3)'
'seed=${stepz}'
reward.kwargs.width=3
tracking.use=wandb
hydra.job.nme=x
hydra.searchpath=/shared/conf
cluster.nodes=0
steps=many
algo.kl=0.1
policy.optim.lr=[1,2]
algo.loss.kind=clp
algo.kl.coef=-1
rollout.prompts_per_step=16 policy.samples_per_update=100
algo=grpo rollout.samples_per_prompt=1 critic.optim.lr=1e-5
cluster=a100x8 model=llama3-8b cluster.placement.policy.gpus=4-11
model=llama3-70b cluster=rtx4090x4
data=jsonl data.path=promts.jsonl
reward=function reward.path=tests/config/team/score.py:scores
reward=function reward.path=json:dumps reward.kwargs.obj=hf_aaaaaaaaaaaaaaaaaaaaaaaa
'outputs=${oc.env:NOT_SET_ANYWHERE}'
hydra.searchpath=[/not/there]
--config-dir /not/there
--config-dir tests/config/team experiment=misspelled
--config-dir tests/config/team experiment=no_such_model
--config-dir tests/config/team experiment=broken
--config-dir tests/config/team experiment=chosen_anew
--config-dir tests/config/team experiment=groups_as_values
--config-dir tests/config/team model=circle
--config-dir tests/config/team model=qwen3-8b cluster=a100x8
task=check explain=algo.kl.cof
-sc install=tcsh
task=resume
task=compare run=[here,there]
task=rerun run=nowhere
task=export run=nowhere nam=best
-m 'algo=glob(xyz*)'
-m algo.kl.coef=-1,0.1 seed=1,2 modell=tiny
algo=gropo steps=abc policy.optim.lr=5 algo.kl.estimator=k9 seed=1,2
""".strip().splitlines()
"""A command line each."""

PROGRAM = """
import json, sys
from rlhf_hydra.__main__ import main
for words in json.loads(sys.stdin.read()):
    sys.argv = ["rlhf-hydra", *words]
    try:
        code = main()
    except SystemExit as end:
        code = end.code
    print(f"exit code {code}", file=sys.stderr)
    print("=" * 100, file=sys.stderr)
"""


def answers() -> str:
    """Every command line with its answer and its exit code, from one process that knows nothing of this one."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    asked = json.dumps([shlex.split(line) for line in MISTAKES])
    words = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, cwd=REPOSITORY, input=asked, capture_output=True, text=True, env=env)
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr
    parts = done.stderr.split("=" * 100 + "\n")
    return "\n".join(f"$ rlhf-hydra {line}\n{part}" for line, part in zip(MISTAKES, parts, strict=False))


def test_every_message_is_as_it_was_read():
    assert answers() == MESSAGES.read_text()


def test_every_mistake_ends_with_code_2_and_no_traceback():
    text = MESSAGES.read_text()
    assert text.count("exit code 2\n") == text.count("$ rlhf-hydra ") == len(MISTAKES)
    assert "Traceback" not in text and "append" not in text


if __name__ == "__main__":
    MESSAGES.write_text(answers())
