"""Write a monitor's records to JSONL files, TensorBoard or Weights & Biases.

A sink is any callable that takes a record. `TensorBoard` and `WandB` show the update/weight ratio, ε's share, the
gradient's root mean square and the effective learning rate of every tensor. Each of these statistics is a group with
one chart for each tensor. Both also show norms, non-finite steps and learning rates. A value of None is not shown.
All three hold every record as text, too, which `rmsprop watch` reads: about 1.5 kB for each tensor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from rmsprop.errors import InputError, Received
from rmsprop.files import finite

__all__ = ["JSONL", "TensorBoard", "WandB"]

Record: TypeAlias = Mapping[str, Any]  # a `rmsprop.monitor.record.Record`, also read back from JSON

TENSOR = ("update_ratio", "eps_share", "gradient_rms")
RECORD = "rmsprop/record"  # tag of the record as text
WHOLE = ("gradient_norm", "update_norm", "nonfinite_steps")


class JSONL:
    """Append every record to a file as one line of JSON, flushed before the call returns.

    When its monitor closes, the monitor's findings become the last line, of kind "findings".

    Parameters
    ----------
    path
        The file. Missing folders are created. Records are appended to an existing file. If a killed run left its last
        line incomplete, that line is removed.

    Raises
    ------
    OSError
        If the file cannot be opened.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sink = JSONL(folder + "/statistics.jsonl")
    ...     sink({"kind": "statistics", "step": 1})
    ...     sink.close()
    ...     print(Path(folder, "statistics.jsonl").read_text(), end="")
    {"kind": "statistics", "step": 1}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")
        text = self.path.read_bytes()
        if not text.endswith(b"\n"):
            self._file.truncate(text.rfind(b"\n") + 1)

    def __call__(self, record: Record) -> None:
        """Append a record."""
        self._file.write(_text(record) + "\n")
        self._file.flush()

    def write_findings(self, record: Mapping[str, Any]) -> None:
        """Append the findings of the run, which `Monitor.close` passes."""
        self(record)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Show records in TensorBoard: scalars, and a histogram of each tensor's effective learning rates.

    Parameters
    ----------
    writer
        A `SummaryWriter` of torch.utils.tensorboard or tensorboardX, with `add_scalar` and `add_histogram_raw`. It
        stays open at the end. Or a log folder, for which a writer is created and closed.

    Raises
    ------
    InputError
        If `writer` is neither.
    ModuleNotFoundError
        For a folder, if TensorBoard is not installed.

    Notes
    -----
    Charts are grouped by the part of a tag before the first slash: `update_ratio/NAME`, `eps_share/NAME`,
    `gradient_rms/NAME`, `effective_lr/NAME`, and `rmsprop/gradient_norm`, `rmsprop/lr` and so on. The text
    `rmsprop/record` holds the record, if the writer has `add_text`.
    """

    def __init__(self, writer: Any) -> None:
        self._owns = isinstance(writer, str | os.PathLike)
        if self._owns:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError as error:
                message = "rmsprop.monitor.sinks.TensorBoard needs TensorBoard: pip install tensorboard"
                raise ModuleNotFoundError(message, name=error.name) from None
            writer = SummaryWriter(os.fspath(writer))
        for name in ("add_scalar", "add_histogram_raw"):
            if not callable(getattr(writer, name, None)):
                found = Received(f"a {type(writer).__name__} without {name}")
                raise InputError("writer", "a SummaryWriter or a folder", found, "pass the folder for its logs")
        self._writer = writer

    def __call__(self, record: Record) -> None:
        """Show a record."""
        step = record["step"]
        for tag, value in _scalars(record).items():
            self._writer.add_scalar(tag, value, step)
        if callable(getattr(self._writer, "add_text", None)):
            self._writer.add_text(RECORD, _text(record), step)
        for name, tensor in record["tensors"].items():
            rates = tensor["effective_lr"]
            if rates is None:
                continue
            # Bin e holds rates up to η·2⁻ᵉ. So ascending rates have descending e.
            exponents = range(rates["first"], rates["first"] + len(rates["counts"]))
            limits = [rates["lr"] * 2.0**-e for e in reversed(exponents)]
            counts = [float(n) for n in reversed(rates["counts"])]
            middles = [limit / 2**0.5 for limit in limits]
            self._writer.add_histogram_raw(
                f"effective_lr/{name}",
                min=limits[0] / 2,
                max=limits[-1],
                num=sum(counts),
                sum=sum(n * x for n, x in zip(counts, middles, strict=True)),
                sum_squares=sum(n * x * x for n, x in zip(counts, middles, strict=True)),
                bucket_limits=limits,
                bucket_counts=counts,
                global_step=step,
            )

    def close(self) -> None:
        """Close the writer if this sink created it."""
        if self._owns:
            self._writer.close()


class WandB:
    """Log records to a run of Weights & Biases.

    Parameters
    ----------
    run
        What `wandb.init()` returned.

    Raises
    ------
    InputError
        If `run` lacks `log` or `define_metric`.

    Notes
    -----
    The x axis of the charts is the optimizer's step. It is logged as a value, `rmsprop/step`, because W&B's own step
    belongs to the training loop. W&B drops values that are logged for an earlier step. `rmsprop/record` is the record
    as text.
    """

    def __init__(self, run: Any) -> None:
        for name in ("log", "define_metric"):
            if not callable(getattr(run, name, None)):
                found = Received(f"a {type(run).__name__} without {name}")
                raise InputError("run", "what wandb.init() returns", found, "pass wandb.init(...)")
        self._run = run
        run.define_metric("rmsprop/step")
        for group in ("rmsprop", *TENSOR, "effective_lr"):
            run.define_metric(f"{group}/*", step_metric="rmsprop/step")

    def __call__(self, record: Record) -> None:
        """Log a record."""
        medians = {
            f"effective_lr/{name}": tensor["effective_lr_median"]
            for name, tensor in record["tensors"].items()
            if tensor["effective_lr_median"] is not None
        }
        self._run.log({"rmsprop/step": record["step"], **_scalars(record), **medians, RECORD: _text(record)})


def _text(record: Record) -> str:
    return json.dumps(finite(record), ensure_ascii=False, allow_nan=False)


def _scalars(record: Record) -> dict[str, float]:
    groups = record["groups"]
    found = {f"rmsprop/{key}": record[key] for key in WHOLE}
    found |= {"rmsprop/lr" if len(groups) == 1 else f"rmsprop/lr_{i}": group["lr"] for i, group in enumerate(groups)}
    found |= {f"{key}/{name}": tensor[key] for key in TENSOR for name, tensor in record["tensors"].items()}
    return {tag: value for tag, value in found.items() if value is not None}
