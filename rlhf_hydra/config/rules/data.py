"""What is read, and which of its columns."""

from collections.abc import Iterator

from omegaconf import MISSING

from rlhf_hydra.config.errors import Problem
from rlhf_hydra.config.rules.files import is_absent, no_such_file
from rlhf_hydra.config.schema import KD, KTO, PAIRS, PRM, RL, SFT, Blend, Data, RunConfig, ToyData


def named_data(run: RunConfig) -> list[tuple[str, Data]]:
    """Each source of prompts or texts, with its dotted key."""
    return [pair for key, data in whole_data(run) for pair in named_sources(key, data)]


def whole_data(run: RunConfig) -> list[tuple[str, Data]]:
    """What is read, with its dotted key, blends as one."""
    texts = run.algo.ptx.data if isinstance(run.algo, RL) else None
    given = {"data": run.data, "eval.data": run.eval.data, "algo.ptx.data": texts}
    return [(key, data) for key, data in given.items() if data is not None]


def named_sources(key: str, data: Data) -> list[tuple[str, Data]]:
    """`data` itself, or the sources of a blend."""
    if not isinstance(data, Blend):
        return [(key, data)]
    return [(f"{key}.sources.{name}", source) for name, source in data.sources.items()]


def blend_sources(run: RunConfig) -> Iterator[Problem]:
    for key, data in whole_data(run):
        if isinstance(data, Blend) and not data.sources:
            fix = "Give it sources in a file of conf/data, as conf/data/blend.yaml shows."
            yield Problem("", f"{key}.sources", "no source of rows", fix)


def data_source(run: RunConfig) -> Iterator[Problem]:
    for key, data in named_data(run):
        if data.path is None and not isinstance(data, ToyData):
            fix = f"Set {key}.path to a file or the id of a dataset."
            yield Problem("", f"{key}.path", "no source of prompts", fix)
        elif data.path and data.path != MISSING and is_absent(run, data.path):
            yield no_such_file(f"{key}.path", data.path)


def row_length(run: RunConfig) -> Iterator[Problem]:
    longest = run.model.context_tokens
    for key, data in named_data(run):
        if data.max_tokens > longest:
            says = f"{data.max_tokens} tokens are more than model.context_tokens={longest}"
            yield Problem("", f"{key}.max_tokens", says, f"Set {key}.max_tokens={longest}, or 0, which means the same.")


def prompt_column(run: RunConfig) -> Iterator[Problem]:
    for key, data in named_data(run):
        if data.prompt_column is None:
            fix = f"Take other data, name the column in {key}.prompt_column, or learn from the pairs, as algo=dpo does."
            yield Problem("", f"{key}.prompt_column", "a run that samples needs prompts, and the data has none", fix)


def data_template(run: RunConfig) -> Iterator[Problem]:
    for key, data in named_data(run):
        if data.template is not None and "{prompt}" not in data.template:
            says = "has no {prompt}, so that all prompts would be the same"
            yield Problem("", f"{key}.template", says, "Put {prompt} into it.")


def columns(run: RunConfig) -> Iterator[Problem]:
    """What the objective reads has a column."""
    algo = run.algo
    for key, data in own_data(run):
        if data.prompt_column is None and not isinstance(algo, PAIRS):
            fix = (
                "Name the column of the prompt or of the whole conversation, or learn from the pairs, as algo=dpo does."
            )
            yield Problem(
                "", f"{key}.prompt_column", f"only pairs can do without, and algo={algo.name} takes none", fix
            )
        if isinstance(algo, PRM) and data.steps_column is None:
            says = "a process reward model learns from labelled steps"
            yield Problem("", f"{key}.steps_column", says, "Set it to the column with the labels of the steps.")
        if reads_responses(run, data) and not (data.chat or data.response_column or data.response_marker):
            fix = f"Set it, or {key}.response_marker; for chat messages {key}.chat=true."
            yield Problem("", f"{key}.response_column", "nothing says where the response begins", fix)


def own_data(run: RunConfig) -> list[tuple[str, Data]]:
    """Sources whose columns somebody has to name."""
    return [(key, data) for key, data in named_data(run) if not isinstance(data, ToyData)]


def reads_responses(run: RunConfig, data: Data) -> bool:
    """Whether a row is one text, of which a part is learned."""
    algo = run.algo
    return isinstance(algo, KD) or (
        algo.learn != "all" if isinstance(algo, SFT) else isinstance(algo, KTO) and data.desirable_column is not None
    )


def assistant_turns(run: RunConfig) -> Iterator[Problem]:
    for key, data in named_data(run):
        if isinstance(run.algo, SFT) and run.algo.learn == "assistant" and not data.chat:
            says = f"needs conversations, and {key} holds texts"
            yield Problem("", "algo.learn", says, f"Set {key}.chat=true, or algo.learn=response.")


def step_words(run: RunConfig) -> Iterator[Problem]:
    words = run.data.step_tokens
    if isinstance(run.algo, PRM) and (len(words) != 2 or len(set(words)) != 2):
        fix = "Write data.step_tokens=[+,-], for example."
        yield Problem("", "data.step_tokens", "must be two, one for good and one for bad", fix)
