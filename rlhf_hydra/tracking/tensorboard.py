"""TensorBoard."""

import json
from collections.abc import Sequence
from pathlib import Path

from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.tracking.told import parameters
from rlhf_hydra.tracking.tracker import Row, Status, Tracker


class TensorBoard(Tracker):
    """Event files in `<run>/tensorboard`. Needs the extra `tensorboard`."""

    def __init__(self, run: RunConfig, folder: Path, resume_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step)
        if resume_step is None:
            self._writer.add_text("config", f"```json\n{json.dumps(parameters(run), indent=1, default=str)}\n```")

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # or a run that is killed loses its last two minutes

    def samples(self, rows: Sequence[Row], step: int) -> None:
        for number, row in enumerate(rows):
            self._writer.add_text(f"sample/{number}", "\n\n".join(f"**{k}**: {v}" for k, v in row.items()), step)

    def finish(self, status: Status, detail: str = "") -> None:
        self._writer.close()
