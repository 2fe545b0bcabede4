"""Writes `docs/from-openrlhf.md`: `python -m rlhf_hydra.config.openrlhf.docs > docs/from-openrlhf.md`."""

from rlhf_hydra.config.openrlhf.flags import FLAGS, Flag

HEADER = """\
# From OpenRLHF

Written by `python -m rlhf_hydra.config.openrlhf.docs > docs/from-openrlhf.md`, from `flags.py` beside it.

    python -m rlhf_hydra task=import_openrlhf -- deepspeed --module openrlhf.cli.train_sft --pretrain ... --max_len 4096
    python -m rlhf_hydra task=import_openrlhf < command.sh

prints the same run as a command of this project, and in lines of `#` what it has no equivalent for and what it had to
assume; options that are not given have the values that they have there. Old and new spellings are read, with whatever
launcher stands before the program. Quote nothing anew: the command can be pasted as it is, also with the script around
it, whose variables are put in. Check the result with `task=check` at its end. A dataset that ships as a
choice, such as `data=openorca`, is named by that if the command reads the same columns of it; an evaluation
reads its rows as the training does.

| option | older names | here |
|---|---|---|
"""


def table() -> str:
    return HEADER + "\n".join(map(table_row, FLAGS))


def table_row(flag: Flag) -> str:
    keys = "; ".join(dict.fromkeys(f"`{line}`" for text in flag.to.values() for line in text.split()))
    here = keys or ("**none**: " * flag.needed + flag.why if flag.to else "together: " + flag.why)
    older = ", ".join(f"`--{name}`" for name in flag.names[1:])
    return f"| `--{flag.names[0]}` | {older} | {here} |"


if __name__ == "__main__":
    print(table())
