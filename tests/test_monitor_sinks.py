"""Sinks of a monitor: what they receive, and what TensorBoard and W&B themselves read from it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_monitor import gradients_of, groups_of, net, train

from rmsprop import InputError
from rmsprop.monitor import Monitor
from rmsprop.monitor.sinks import JSONL, TensorBoard, WandB
from rmsprop.torch import RMSprop


def test_lines_of_json(tmp_path: Path) -> None:
    model = net()
    optimizer = RMSprop(model.parameters())
    path = tmp_path / "new" / "statistics.jsonl"
    with Monitor(optimizer, model, every=2, sinks=[JSONL(path)]) as monitor:
        train(model, optimizer, range(3))
        gradients_of(optimizer, math.nan)
        optimizer.step()
        lines = path.read_text().splitlines()  # before the file is closed
        assert [json.loads(line) for line in lines] == monitor.records
        assert json.loads(lines[-1])["gradient_norm"] is None
    *_, last = lines_at_end = path.read_text().splitlines()
    found = [finding.to_dict() for finding in monitor.findings()]
    assert lines_at_end[:-1] == lines
    assert json.loads(last) == {"kind": "findings", "step": 4, "records": 3, "findings": found}
    assert [finding["kind"] for finding in found] == ["nonfinite"]
    with path.open("a") as file:
        file.write('{"kind": "statis')  # killed while it wrote
    sink = JSONL(path)
    sink({"step": 7, "x": math.inf})
    sink.close()
    assert path.read_text().splitlines() == [*lines_at_end, '{"step": 7, "x": null}']


class Writer:
    """Has the methods of torch.utils.tensorboard.SummaryWriter that the sink calls, and keeps what they receive."""

    def __init__(self) -> None:
        self.scalars: dict[str, float] = {}
        self.histograms: dict[str, dict[str, Any]] = {}

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.scalars[tag] = scalar_value
        self.step = global_step

    def add_histogram_raw(self, tag: str, **values: Any) -> None:
        self.histograms[tag] = values


def test_tensorboard_gets_few_groups_of_charts() -> None:
    writer, model = Writer(), net()
    optimizer = groups_of({"params": model[0].parameters(), "lr": 0.5}, {"params": model[2].parameters()})
    with Monitor(optimizer, model, every=2, sinks=[TensorBoard(writer)]) as monitor:
        train(model, optimizer, range(2))
    record = monitor.records[-1]
    groups = {tag.split("/")[0] for tag in writer.scalars}
    assert groups == {"rmsprop", "update_ratio", "eps_share", "gradient_rms"}
    assert len(writer.scalars) == 3 * 4 + 5
    assert writer.scalars["update_ratio/2.bias"] == record["tensors"]["2.bias"]["update_ratio"]
    assert (writer.scalars["rmsprop/lr_0"], writer.scalars["rmsprop/gradient_norm"]) == (0.5, record["gradient_norm"])
    assert writer.step == 2
    rates = writer.histograms["effective_lr/0.weight"]
    told: Any = record["tensors"]["0.weight"]["effective_lr"]
    assert rates["bucket_counts"] == told["counts"][::-1]
    assert rates["bucket_limits"][-1] == 0.5 * 2.0 ** -told["first"]
    assert rates["bucket_limits"] == sorted(rates["bucket_limits"])
    assert (rates["num"], rates["global_step"]) == (24, 2)
    d = optimizer.effective_lr(model[0].weight)
    assert rates["min"] < float(d.min()) <= float(d.max()) <= rates["max"]
    assert rates["sum"] == pytest.approx(float(d.sum()), rel=0.42)
    with pytest.raises(InputError, match="writer must be a SummaryWriter or a folder"):
        TensorBoard(object())


def test_weights_and_biases_gets_the_step_as_a_value() -> None:
    class Run:  # the methods of what wandb.init returns
        def __init__(self) -> None:
            self.logged: list[dict[str, float]] = []
            self.metrics: dict[str, str | None] = {}

        def log(self, data: dict[str, float]) -> None:
            self.logged.append(data)

        def define_metric(self, name: str, step_metric: str | None = None) -> None:
            self.metrics[name] = step_metric

    run, model = Run(), net()
    optimizer = RMSprop(model.parameters())
    with Monitor(optimizer, model, every=2, sinks=[WandB(run)]) as monitor:
        train(model, optimizer, range(2))
    assert [data["rmsprop/step"] for data in run.logged] == [1, 2]
    median = monitor.records[-1]["tensors"]["0.bias"]["effective_lr_median"]
    assert run.logged[1]["effective_lr/0.bias"] == median
    assert run.metrics["update_ratio/*"] == "rmsprop/step"
    assert {key.split("/")[0] + "/*" for key in run.logged[1]} == set(run.metrics) - {"rmsprop/step"}
    with pytest.raises(InputError, match=r"run must be what wandb\.init"):
        WandB(None)


def test_a_sink_that_fails_raises_at_first_and_is_dropped_later() -> None:
    model = net()
    optimizer = RMSprop(model.parameters())
    taken = []

    def sink(record: dict[str, Any]) -> None:
        if record["step"] in (1, 4):
            raise OSError("no space left")
        taken.append(record["step"])

    with Monitor(optimizer, model, every=2, sinks=[sink]) as monitor, pytest.raises(OSError, match="no space left"):
        train(model, optimizer, range(1))
    others: list[dict[str, Any]] = []
    monitor = Monitor(optimizer, model, every=2, sinks=[sink, others.append])
    train(model, optimizer, range(1, 3))
    with pytest.warns(UserWarning, match="failed at step 4 and gets no more records: OSError: no space left"):
        train(model, optimizer, range(3, 4))
    train(model, optimizer, range(4, 6))
    assert (taken, [record["step"] for record in others]) == ([2], [2, 4, 6])
    assert [record["step"] for record in monitor.records] == [2, 4, 6]


def test_sinks_are_a_list_also_of_one(tmp_path: Path) -> None:
    optimizer = RMSprop(net().parameters())
    sink = JSONL(tmp_path / "x.jsonl")
    for wrong in (sink, print, None, 5):
        with pytest.raises(InputError, match=r"sinks must be callables .* in a list.*write sinks=\[\.\.\.\]"):
            Monitor(optimizer, sinks=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sinks must be callables that take a record, in a list"):
        Monitor(optimizer, sinks="abc")  # type: ignore[arg-type]
    sink.close()
    Monitor(optimizer, sinks=iter([print])).close()  # no refused monitor left an observer


@pytest.mark.slow
def test_tensorboard_reads_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where TensorBoard finds this module, it does not import TensorFlow, which takes seconds.
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("notf"))
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = net()
    optimizer = RMSprop(model.parameters())
    with Monitor(optimizer, model, every=2, sinks=[TensorBoard(tmp_path)]) as monitor:
        train(model, optimizer, range(4))
    read = accumulator.EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "histograms": 0})
    read.Reload()
    kept = {"update_ratio", "eps_share", "gradient_rms"}
    for name in monitor.records[0]["tensors"]:
        tensors: list[Any] = [record["tensors"][name] for record in monitor.records]
        for key in kept:
            found = [(event.step, event.value) for event in read.Scalars(f"{key}/{name}")]
            assert found == list(zip((1, 2, 4), (pytest.approx(x[key], rel=1e-6) for x in tensors), strict=True))
        for event, told in zip(read.Histograms(f"effective_lr/{name}"), tensors, strict=True):
            rates, shown = told["effective_lr"], event.histogram_value
            assert sum(shown.bucket) == shown.num == told["elements"]
            filled = {limit: count for limit, count in zip(shown.bucket_limit, shown.bucket, strict=True) if count}
            exponents = range(rates["first"], rates["first"] + len(rates["counts"]))
            assert filled == {0.01 * 2.0**-e: n for e, n in zip(exponents, rates["counts"], strict=True) if n}
    norms = [(event.step, event.value) for event in read.Scalars("rmsprop/gradient_norm")]
    assert norms == [(r["step"], pytest.approx(r["gradient_norm"], rel=1e-6)) for r in monitor.records]
    tags = read.Tags()
    assert {tag.split("/")[0] for tag in tags["scalars"]} == kept | {"rmsprop"}
    assert len(tags["histograms"]) == 4


@pytest.mark.slow
def test_weights_and_biases_has_what_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for variable in ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    model = net()
    optimizer = RMSprop(model.parameters())
    run = wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True))
    try:
        with Monitor(optimizer, model, every=2, sinks=[WandB(run)]) as monitor:
            train(model, optimizer, range(2))
            run.log({"loss": 1.0})  # the training may log in the same step
            train(model, optimizer, range(2, 4))
        assert run.step == 4
        summary = dict(run.summary)
    finally:
        run.finish()
        wandb.teardown()
    assert (summary["rmsprop/step"], summary["rmsprop/lr"], summary["loss"]) == (4, 0.01, 1.0)
    assert summary["rmsprop/gradient_norm"] == monitor.records[-1]["gradient_norm"]
    tensors: Any = monitor.records[-1]["tensors"]
    for name, told in tensors.items():
        shown = {
            "update_ratio": "update_ratio",
            "eps_share": "eps_share",
            "gradient_rms": "gradient_rms",
            "effective_lr": "effective_lr_median",
        }
        assert {chart: summary[f"{chart}/{name}"] for chart in shown} == {c: told[key] for c, key in shown.items()}
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
