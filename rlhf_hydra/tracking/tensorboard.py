"""TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

from rlhf_hydra.tracking.tracker import Row, Status, Tracker


class TensorBoard(Tracker):
    """Event files in `<run>/tensorboard`. Needs the extra `tensorboard`."""

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step)

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def samples(self, rows: Sequence[Row], step: int) -> None:
        for number, row in enumerate(rows):
            self._writer.add_text(f"sample/{number}", "\n\n".join(f"**{k}**: {v}" for k, v in row.items()), step)

    def finish(self, status: Status, detail: str = "") -> None:
        self._writer.close()
