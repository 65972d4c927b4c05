"""Show a training in TensorBoard or Weights & Biases: losses, scores, the rate, and the monitor's records."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from rmsprop.lab.runs.schema import TrainRecord
from rmsprop.monitor.sinks import TensorBoard, WandB

TENSORBOARD = "tensorboard"  # folder in the run's directory


class Trackers:
    """What `--tensorboard` and `--wandb` write to; nothing without them. A context that closes them.

    Parameters
    ----------
    path
        The run's directory. TensorBoard's logs are in its folder tensorboard, W&B's in its folder wandb.
    config
        Content of run.json, for W&B.
    tensorboard
        Whether to write to TensorBoard.
    wandb
        Project of W&B; None writes nothing there. Where and how it logs in is W&B's own configuration (WANDB_MODE).
    step
        Step that the run goes on from: TensorBoard forgets later ones.

    Raises
    ------
    ModuleNotFoundError
        If TensorBoard or W&B is not installed.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, tensorboard: bool, wandb: str | None, step: int) -> None:
        self.sinks: list[Callable[[Any], None]] = []  # for the monitor's records
        self._scalars: list[Callable[[dict[str, float], int], None]] = []
        self._stack = ExitStack()
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError as error:
                message = "--tensorboard needs TensorBoard: pip install tensorboard"
                raise ModuleNotFoundError(message, name=error.name) from None
            writer: Any = SummaryWriter(str(path / TENSORBOARD), purge_step=step + 1 if step > 0 else None)
            self._stack.callback(writer.close)
            self.sinks.append(TensorBoard(writer))

            def write(values: dict[str, float], at: int) -> None:
                for name, value in values.items():
                    writer.add_scalar(name, value, at)

            self._scalars.append(write)
        if wandb is not None:
            try:
                import wandb as library
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError("--wandb needs W&B: pip install wandb", name=error.name) from None
            run = library.init(project=wandb, name=path.name, dir=str(path), config=config)
            self._stack.callback(run.finish)
            self.sinks.append(WandB(run))
            for group in ("loss", "validation"):
                run.define_metric(f"{group}/*", step_metric="rmsprop/step")
            self._scalars.append(lambda values, at: run.log({"rmsprop/step": at, **values}))

    def show(self, records: list[TrainRecord], rate: float) -> None:
        """Show new records of the training."""
        for record in records if self._scalars else ():
            if record["kind"] == "loss":
                values = {"loss/train": record["loss"], "loss/lr": rate}
            else:
                others = {f"validation/{name}": value for name, value in record.get("metrics", {}).items()}
                values = {"validation/loss": record["validation_loss"], "validation/score": record["validation_metric"]}
                values |= others
            known = {name: value for name, value in values.items() if value is not None}
            for write in self._scalars:
                write(known, record["step"])

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
