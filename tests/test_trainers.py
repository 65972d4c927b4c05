"""The optimizer and its monitor in Lightning, Hugging Face's Trainer and Accelerate: the bits of a plain loop."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from rmsprop.monitor import Monitor
from rmsprop.monitor.lr_finder import Found, find_lr
from rmsprop.torch import RMSprop

pytestmark = [
    pytest.mark.slow,  # slow imports
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning:pytorch_lightning.utilities"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning:pytorch_lightning.trainer.connectors"),
]

SIZE, BATCHES, EPOCHS = 32, 6, 2  # examples in a batch, batches in an epoch
TOGETHER = 2  # batches whose gradients are accumulated for a step
HALF = BATCHES // TOGETHER  # steps in the first epoch, after which runs are interrupted
EVERY, RECORDED = 2, [1, 2, 4, 6]  # the record of step 4 needs the gradient of step 3, before the interruption
CLIP = 0.3


class Net(nn.Module):
    """Classifies digits and returns its loss, as Hugging Face's Trainer expects."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(self.body(x), labels)}


@cache
def examples() -> list[dict[str, Tensor]]:
    x, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    count = SIZE * BATCHES
    return [
        {"x": one, "labels": label}
        for one, label in zip(torch.tensor(x[:count] / 16).float(), torch.tensor(y[:count]), strict=True)
    ]


def loader() -> DataLoader[dict[str, Tensor]]:
    return DataLoader(examples(), SIZE)  # type: ignore[arg-type]


def optimizer_of(params: Any) -> RMSprop:
    """Return an optimizer with every kind of state, to show what a checkpoint loses."""
    return RMSprop(params, lr=0.01, alpha=0.8, momentum=0.6, centered=True, bias_correction=True)


def schedule_of(optimizer: Any) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 0.8**step)


@dataclasses.dataclass
class Run:
    params: list[Tensor]
    records: Sequence[Mapping[str, Any]]


@cache
def plain(precision: str = "32-true") -> Run:
    """Return the reference: a plain loop without a trainer."""
    model = Net()
    optimizer = optimizer_of(model.parameters())
    schedule, monitor = schedule_of(optimizer), Monitor(optimizer, model, every=EVERY)
    for _ in range(EPOCHS):
        for number, batch in enumerate(loader(), start=1):
            with autocast(precision):
                loss = model(**batch)["loss"]
            (loss / TOGETHER).backward()
            if number % TOGETHER == 0:
                nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    assert [record["step"] for record in monitor.records] == RECORDED
    assert [record["groups"][0]["lr"] for record in monitor.records] == [0.01 * 0.8 ** (t - 1) for t in RECORDED]
    assert monitor.records[0]["gradient_norm"] == pytest.approx(CLIP, rel=1e-5)
    assert monitor.records[2]["tensors"]["body.0.weight"]["gradient_cosine"] is not None
    return Run([p.detach() for p in model.parameters()], monitor.records)


def autocast(precision: str) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else contextlib.nullcontext()


def assert_same(model: nn.Module, expected: Run) -> None:
    for p, q in zip(model.parameters(), expected.params, strict=True):
        assert torch.equal(p, q)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def lightning() -> Any:
    return pytest.importorskip("pytorch_lightning")


@pytest.fixture
def accelerate() -> Iterator[Any]:
    found = pytest.importorskip("accelerate")
    yield found
    found.state.AcceleratorState._reset_state(reset_partial_state=True)  # Accelerate keeps one state per process
    found.state.GradientState._reset_state()


@pytest.fixture
def transformers(accelerate: Any) -> Any:
    return pytest.importorskip("transformers")


def module_of(lightning: Any) -> Any:
    """Return the class of a LightningModule with a monitor, which checkpoints include."""

    class Module(Net, lightning.LightningModule):  # type: ignore[misc]
        optimizers: Callable[[], Any]  # LightningModule defines it
        monitor: Monitor
        kept: dict[str, Any] | None = None

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            return self(**batch)["loss"]  # type: ignore[no-any-return]

        def configure_optimizers(self) -> Any:
            optimizer = optimizer_of(self.parameters())
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule_of(optimizer), "interval": "step"}}

        def on_fit_start(self) -> None:
            self.monitor = Monitor(self.optimizers(), self, every=EVERY)

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["monitor"] = self.monitor.state_dict()

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.kept = checkpoint["monitor"]

        def on_train_start(self) -> None:  # the optimizer's state is loaded after on_fit_start
            if self.kept is not None:
                self.monitor.load_state_dict(self.kept)

    return Module


def fit(lightning: Any, module: Any, *, epochs: int = EPOCHS, resume: Path | None = None, **options: Any) -> Any:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, loader(), ckpt_path=resume, weights_only=True)
    return trainer


AUTOMATIC: dict[str, Any] = {"accumulate_grad_batches": TOGETHER, "gradient_clip_val": CLIP}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning_makes_the_steps_of_a_plain_loop(lightning: Any, precision: str) -> None:
    module = module_of(lightning)()
    fit(lightning, module, precision=precision, **AUTOMATIC)
    assert_same(module, plain(precision))
    assert module.monitor.records == plain(precision).records


def test_lightning_with_manual_optimization_of_two_optimizers(lightning: Any) -> None:
    class Manual(module_of(lightning)):  # type: ignore[misc]
        automatic_optimization = False

        def training_step(self, batch: dict[str, Tensor], index: int) -> None:
            self.manual_backward(self(**batch)["loss"] / TOGETHER)
            if (index + 1) % TOGETHER == 0:
                nn.utils.clip_grad_norm_(self.parameters(), CLIP)
                for optimizer, schedule in zip(self.optimizers(), self.lr_schedulers(), strict=True):
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()

        def configure_optimizers(self) -> Any:
            optimizers = [optimizer_of(self.body[i].parameters()) for i in (0, 2)]
            self.monitors = [Monitor(optimizer, self, every=EVERY) for optimizer in optimizers]
            return optimizers, [schedule_of(optimizer) for optimizer in optimizers]

        def on_fit_start(self) -> None:
            pass

    module = Manual()
    fit(lightning, module)
    assert_same(module, plain())
    first, second = (monitor.records for monitor in module.monitors)
    for one, other, expected in zip(first, second, plain().records, strict=True):
        assert one["step"] == other["step"] == expected["step"]
        other["tensors"] = {name: {**values, "group": 0} for name, values in other["tensors"].items()}
        assert {**one["tensors"], **other["tensors"]} == expected["tensors"]


def test_lightning_resumes_bit_for_bit_and_so_does_the_monitor(lightning: Any, tmp_path: Path) -> None:
    class Forgetful(module_of(lightning)):  # type: ignore[misc]
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            pass

    path = tmp_path / "last.ckpt"
    fit(lightning, module_of(lightning)(), epochs=1, **AUTOMATIC).save_checkpoint(path)
    for cls in (module_of(lightning), Forgetful):
        module = cls()
        fit(lightning, module, resume=path, **AUTOMATIC)
        assert_same(module, plain())
        assert [record["step"] for record in module.monitor.records] == RECORDED[2:]
        assert (module.monitor.records == plain().records[2:]) == (cls is not Forgetful)


def test_trainer_of_hugging_face_with_a_resumed_run(transformers: Any, tmp_path: Path) -> None:
    class Watch(transformers.TrainerCallback):  # type: ignore[misc]
        """Creates the monitor as its docstring says, unless one was passed."""

        def __init__(self, monitor: Monitor | None = None, state: Path | None = None) -> None:
            self.monitor, self.state = monitor, state

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **_: Any) -> None:
            self.monitor = self.monitor or Monitor(optimizer, model, every=EVERY)
            if self.state is not None:
                self.monitor.load_state_dict(torch.load(self.state, weights_only=True))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            assert self.monitor is not None
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            torch.save(self.monitor.state_dict(), folder / "monitor.pt")

    def train(watch: Callable[[Net, RMSprop], Watch], resume: Path | None = None) -> tuple[Net, Watch]:
        arguments = transformers.TrainingArguments(
            tmp_path,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=SIZE,
            gradient_accumulation_steps=TOGETHER,
            max_grad_norm=CLIP,
            train_sampling_strategy="sequential",
            save_steps=HALF,
            remove_unused_columns=False,
            disable_tqdm=True,
            report_to="none",
            use_cpu=True,
        )
        model = Net()
        optimizer = optimizer_of(model.parameters())
        watching = watch(model, optimizer)
        trainer = transformers.Trainer(
            model,
            arguments,
            train_dataset=examples(),
            optimizers=(optimizer, schedule_of(optimizer)),
            callbacks=[watching],
        )
        trainer.train(resume_from_checkpoint=resume and str(resume))
        return model, watching

    model, watch = train(lambda model, optimizer: Watch(Monitor(optimizer, model, every=EVERY)))
    assert_same(model, plain())
    assert watch.monitor is not None
    assert watch.monitor.records == plain().records
    checkpoint = tmp_path / f"checkpoint-{HALF}"
    model, watch = train(lambda *_: Watch(state=checkpoint / "monitor.pt"), checkpoint)
    assert_same(model, plain())
    assert watch.monitor is not None
    assert watch.monitor.records == plain().records[2:]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_accelerate_in_a_plain_loop_and_a_resumed_one(accelerate: Any, tmp_path: Path, precision: str) -> None:
    """Accelerate saves all objects with a state dict, including monitors, and loads them after the optimizer."""

    def prepare() -> tuple[Any, ...]:
        half = "bf16" if precision == "bf16-mixed" else "no"
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=TOGETHER, mixed_precision=half)
        model = Net()
        optimizer = optimizer_of(model.parameters())
        prepared = accelerator.prepare(model, optimizer, loader(), schedule_of(optimizer))
        monitor = Monitor(prepared[1], model, every=EVERY)
        accelerator.register_for_checkpointing(monitor)
        return (accelerator, monitor, *prepared)

    def epoch(accelerator: Any, _: Monitor, model: Any, optimizer: Any, batches: Any, schedule: Any) -> None:
        for batch in batches:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch)["loss"])
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()

    accelerator, monitor, model, *_ = run = prepare()
    epoch(*run)
    accelerator.save_state(str(tmp_path))
    epoch(*run)
    assert_same(model, plain(precision))
    assert monitor.records == plain(precision).records
    accelerator, monitor, model, *_ = run = prepare()
    accelerator.load_state(str(tmp_path))
    epoch(*run)
    assert_same(model, plain(precision))
    assert monitor.records == plain(precision).records[2:]


def found_by(model: nn.Module, optimizer: Any, batches: Any = None) -> Found:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(**batch)["loss"]  # type: ignore[no-any-return]

    return find_lr(model, optimizer, loss, batches or loader(), lowest=1e-3, steps=41, seeds=1, warm=2)


@cache
def found_without_trainer() -> list[list[float]]:
    model = Net()
    return found_by(model, optimizer_of(model.parameters())).losses


def test_finding_a_rate_before_lightning_trains_changes_nothing(lightning: Any) -> None:
    class Module(module_of(lightning)):  # type: ignore[misc]
        def on_train_start(self) -> None:
            self.found = found_by(self, self.optimizers())

    module = Module()
    fit(lightning, module, **AUTOMATIC)
    assert module.found.losses == found_without_trainer()
    assert_same(module, plain())
    assert module.monitor.records == plain().records


def test_finding_a_rate_with_what_accelerate_has_prepared_changes_nothing(accelerate: Any) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model = Net()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = optimizer_of(model.parameters())
    prepared = accelerator.prepare(model, optimizer, loader())
    monitor = Monitor(optimizer, model, every=1)
    assert found_by(*prepared).losses == found_without_trainer()
    assert_same(model, Run(before, []))
    assert (optimizer.param_groups[0]["lr"], dict(optimizer.state), monitor.records) == (0.01, {}, [])


@pytest.mark.parametrize(
    ("scaled", "options", "said", "known"),
    [
        (True, {}, True, 0),  # the scaler does not call `step`
        (True, {"fused": True}, False, 1),  # the scaler calls `step`, which skips: as with torch's fused optimizers
        (False, {"nonfinite": "skip"}, False, 1),  # `step_was_skipped` reports the scaler only
    ],
    ids=["scaler", "scaler, fused", "skip"],
)
def test_steps_that_are_left_out_under_accelerate_are_not_counted(
    accelerate: Any, scaled: bool, options: dict[str, Any], said: bool, known: int
) -> None:
    accelerate.Accelerator(cpu=True)
    p = nn.Parameter(torch.ones(3))
    optimizer = RMSprop([p], **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=scaled)
    wrapped = accelerate.optimizer.AcceleratedOptimizer(optimizer, scaler=scaler if scaled else None)
    monitor = Monitor(wrapped, every=1)
    skipped = []
    for factor in (1.0, math.inf, 1.0):
        wrapped.zero_grad()
        loss: Any = scaler.scale((p * factor).sum())
        loss.backward()
        before = p.detach().clone()
        wrapped.step()
        assert torch.equal(p, before) == (factor == math.inf)
        skipped.append(wrapped.step_was_skipped)
    assert skipped == [False, said, False]
    assert [(record["step"], record["nonfinite_steps"]) for record in monitor.records] == [(1, 0), (2, known)]
    assert [record["tensors"]["0.0"]["gradient_rms"] for record in monitor.records] == [1.0, 1.0]
