"""What `--help` prints. Hydra's own way to the same text reads every folder several times and takes seconds."""

from hydra._internal.config_repository import IConfigRepository
from hydra.core.object_type import ObjectType

from rlhf_hydra.config.store import HIDDEN

TEXT = """\
rlhf_hydra: a run is a choice of algorithm, model, cluster and data.

python -m rlhf_hydra [task=TASK] [GROUP=OPTION ...] [KEY=VALUE ...]

Tasks
  task=train     the default: train, and leave everything in outputs/<algo>-<model>/<time>/
  task=check     say whether the run is sound, and start nothing; with -m, every run of the grid
                 task=check explain=KEY: where a value comes from, what it overrides, what is allowed; explain=all
  task=resume    go on with a run that was stopped: task=resume run=FOLDER [KEY=VALUE ...]
  task=rerun     repeat a run beside it, and compare the numbers: task=rerun run=FOLDER
  task=export    write a run as a short experiment file to share: task=export run=FOLDER [name=NAME]
  task=lint      name what experiment files say without need
  task=report    tables, plots and the best of a sweep or of any runs: task=report run=FOLDER, run=[FOLDER,FOLDER]
  task=compare   how two runs differ, in config, code and curves: task=compare run=[FOLDER,FOLDER]
  task=import_openrlhf -- COMMAND    print a command of OpenRLHF as one of this project
  task=sweep_resume  run what is missing of a sweep: task=sweep_resume run=FOLDER

Groups and their options
{options}
Examples
  python -m rlhf_hydra                                             PPO on a toy task, on this CPU, in seconds
  python -m rlhf_hydra algo=grpo model=qwen2.5-0.5b cluster=a100x8 data=gsm8k
  python -m rlhf_hydra task=check algo=ppo model=llama3-8b cluster=rtx4090x4
  python -m rlhf_hydra -m algo=ppo,grpo algo.kl.coef=0.003,0.01    a sweep over the grid: docs/sweeps.md
  python -m rlhf_hydra data=jsonl data.path=prompts.jsonl reward=function reward.path=score.py:score

Flags
  -m                   a sweep: run every combination of the values that are given as a list, side by side
  --cfg job            print the composed config, and stop
  --config-dir FOLDER  look for options in a folder of your own too
  --hydra-help         more flags, and the keys of Hydra itself

Any key can follow, as in policy.optim.lr=1e-6; a misspelled one is refused, with the nearest that exists.
docs/config.md lists every key with its meaning."""


def help_text(files: IConfigRepository) -> str:
    names = sorted(set(files.get_group_options("", ObjectType.GROUP)) - set(HIDDEN))
    return TEXT.format(options="".join(f"  {name:<12} {', '.join(files.get_group_options(name))}\n" for name in names))
