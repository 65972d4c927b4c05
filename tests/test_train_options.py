"""Options of a training: each is what a loop written by hand does with torch's own parts."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import TensorDataset

from rmsprop import InputError, Rule, recipe
from rmsprop.lab import Task, train
from rmsprop.lab.data import batches, example_count
from rmsprop.lab.report.sentences import describe_training
from rmsprop.lab.runs.trackers import TENSORBOARD
from rmsprop.lab.runs.training import TrainingLoop, order_of
from rmsprop.lab.setup import with_optimizer
from rmsprop.recipes import RECIPES
from rmsprop.torch import RMSprop

EPOCHS, SIZE, RATE = 3, 16, 0.02
X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, (X.sum(dim=1) > 0).long())
STEPS = EPOCHS * 3
# One example without a finite loss, and one whose gradient has a square beyond float32.
SICK = X.index_fill(0, torch.tensor([5]), torch.inf).index_fill(0, torch.tensor([20]), 1e25)


def make(dtype: torch.dtype = torch.float32, x: Tensor = X) -> Task:
    data = TensorDataset(X.to(dtype), DATA.tensors[1])
    train = TensorDataset(x.to(dtype), DATA.tensors[1])
    return Task("t", lambda: nn.Linear(3, 2).to(dtype), train, data, data, batch_size=SIZE, epochs=EPOCHS)


def weights(run: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run.path / "checkpoint.pt", weights_only=True)["training"]["model"]
    return state


class ByHand:
    """A loop as a user writes it; the arguments change one part each."""

    def __init__(
        self, *, schedule: Callable[[int], float] = lambda step: 1.0, clip: float | None = None, average: float = 0.0,
        amp: torch.dtype | None = None, dtype: torch.dtype = torch.float32, x: Tensor = X, **optimizer: Any,
    ) -> None:  # fmt: skip
        task = make(dtype, x)
        torch.manual_seed(0)
        self.model = task.model()
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        chosen: Any = RMSprop(self.model.parameters(), lr=RATE, **optimizer)
        for step, (x, y) in enumerate(
            each for e in range(EPOCHS) for each in batches(task.train, SIZE, order_of(0, e))
        ):
            chosen.param_groups[0]["lr"] = RATE * schedule(step)
            chosen.zero_grad()
            with torch.autocast("cpu", amp, enabled=amp is not None):
                loss = nn.functional.cross_entropy(self.model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            if clip is not None:
                clip_grad_norm_(self.model.parameters(), clip)
            chosen.step()
            decay = min(average, (2 + step) / (11 + step))
            for name, p in self.model.named_parameters():
                self.average[name].lerp_(p.detach(), 1 - decay)


def cosine(step: int) -> float:
    return (1 + torch.tensor(torch.pi * step / STEPS, dtype=torch.float64).cos().item()) / 2


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cosine": ({"schedule": "cosine"}, {"schedule": cosine}),
    "steps": ({"schedule": "steps"}, {"schedule": lambda step: 0.1 ** ((step >= 5) + (step >= 7))}),
    "warmup": (
        {"schedule": "linear", "warmup": 4},
        {"schedule": lambda step: (step + 1) / 5 if step < 4 else 1 - (step - 4) / (STEPS - 4)},
    ),
    "clip": ({"clip": 0.1}, {"clip": 0.1}),
    "amp": ({"amp": "bfloat16"}, {"amp": torch.bfloat16}),
    "state_dtype": ({"state_dtype": "bfloat16"}, {"state_dtype": "bfloat16"}),
    "stochastic_rounding": (
        {"stochastic_rounding": True},
        {"stochastic_rounding": True, "dtype": torch.bfloat16},
    ),
    "skip": ({"nonfinite": "skip"}, {"nonfinite": "skip", "x": SICK}),
    "zero": ({"nonfinite": "zero"}, {"nonfinite": "zero", "x": SICK}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_training_is_the_loop_written_by_hand(name: str, tmp_path: Path) -> None:
    options, arguments = CASES[name]
    of_task = {name: arguments[name] for name in ("dtype", "x") if name in arguments}
    run = train(make(**of_task), Rule(lr=RATE), out=tmp_path / "run", **options)
    expected = ByHand(**arguments).model.state_dict()
    plain = ByHand(**of_task).model.state_dict()
    assert run.summary["steps"] == STEPS
    for key, value in weights(run).items():
        assert value.isfinite().all()
        assert torch.allclose(value, expected[key], rtol=1e-6, atol=0)
        assert not torch.allclose(value, plain[key], rtol=1e-4, atol=0)  # the option matters


def test_the_average_is_evaluated_and_loaded(tmp_path: Path) -> None:
    run = train(make(), Rule(lr=RATE), average=0.9, out=tmp_path / "run")
    expected = ByHand(average=0.9)
    loaded = run.load_model(make())
    for name, p in loaded.named_parameters():
        assert torch.allclose(p, expected.average[name], rtol=1e-5)
        assert not torch.allclose(p, weights(run)[name], rtol=1e-3)
    with torch.no_grad():
        found = nn.functional.cross_entropy(loaded(X), DATA.tensors[1])
    assert run.summary["validation_loss"] == pytest.approx(float(found), rel=1e-5)


@pytest.mark.parametrize("nonfinite", ["skip", "zero"])
def test_means_leave_out_losses_that_are_not_finite_and_the_summary_counts_them(nonfinite: Any, tmp_path: Path) -> None:
    task = dataclasses.replace(make(x=SICK), batch_size=1)
    run = train(task, Rule(lr=RATE), nonfinite=nonfinite, out=tmp_path / "run")
    losses = [r for r in run.records if r["kind"] == "loss"]
    assert [r["nonfinite"] for r in losses if "nonfinite" in r] == [1] * EPOCHS
    assert all(r["loss"] is not None for r in losses)
    assert (run.summary["status"], run.summary["nonfinite_losses"]) == ("finished", EPOCHS)
    assert "The loss of 3 steps was not finite; mean training losses skip such steps." in run.sentences
    assert run.summary["post_mortem"] is None


def test_a_training_whose_losses_are_never_finite_ends_after_a_pass_over_the_data(tmp_path: Path) -> None:
    run = train(make(x=X * torch.inf), Rule(lr=RATE), nonfinite="skip", out=tmp_path / "run")
    assert (run.summary["status"], run.summary["reason"], run.summary["steps"]) == ("diverged", "not finite", 3)
    assert run.sentences[0].startswith("The loss was not finite in a whole epoch of steps, up to step 3: ")
    one = train(make(x=X * torch.inf), Rule(lr=RATE), out=tmp_path / "one")
    assert one.summary["steps"] == 1


def test_losses_that_are_not_finite_are_counted_on_after_an_interruption() -> None:
    def start() -> TrainingLoop:
        setup = with_optimizer(lambda params: RMSprop(params, lr=RATE, nonfinite="skip"))
        return TrainingLoop(make(x=X * torch.inf), setup, seed=0)

    first, second = start(), start()
    run = first.run()
    next(run), next(run), next(run)
    second.load_state_dict(first.state_dict())
    for _ in second.run():
        pass
    assert (second.step, second.diverged) == (3, True)


def test_a_recipe_trains_a_task(tmp_path: Path) -> None:
    """Its rule, schedule and clipping are used; the rule's first steps would be longer without clipping."""
    used = recipe("impala-atari").changed(lr=RATE)
    run = train(make(), used, out=tmp_path / "run")
    rule = used.rule()
    names: Any = {"alpha": rule.decay, "eps": rule.eps, "eps_inside_sqrt": rule.eps_inside_sqrt}
    starts: Any = {"initial_square_avg": rule.initial_square_avg, "momentum": rule.momentum}
    expected = ByHand(schedule=lambda step: 1 - step / STEPS, clip=40.0, **names, **starts).model.state_dict()
    assert run.directory.config()["recipe"] == "impala-atari"
    assert all(torch.allclose(value, expected[key], rtol=1e-6, atol=0) for key, value in weights(run).items())


@pytest.mark.parametrize(("given", "clip"), [({}, 0.1), ({"clip": 0.2}, 0.2), ({"rule": recipe("impala-atari")}, 40)])
def test_a_task_clips_unless_an_option_or_a_recipe_does(given: dict[str, Any], clip: float, tmp_path: Path) -> None:
    rule = given["rule"].changed(lr=RATE) if "rule" in given else Rule(lr=RATE)
    run = train(dataclasses.replace(make(), clip=0.1), rule, out=tmp_path / "task", clip=given.get("clip"))
    by_option = train(make(), rule, clip=clip, out=tmp_path / "option")
    assert all(torch.equal(value, weights(by_option)[key]) for key, value in weights(run).items())
    assert run.directory.config()["clip"] == (None if clip == 40 else clip)


def test_compile_calls_torchs_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def compile_(model: nn.Module) -> nn.Module:
        compiled.append(model)
        return model

    monkeypatch.setattr(torch, "compile", compile_)
    train(make(), out=tmp_path / "plain", epochs=1)
    assert not compiled
    train(make(), compile=True, out=tmp_path / "compiled", epochs=1)
    assert len(compiled) == 1


class Worse:
    """A metric that is best after the second evaluation; the first of all is before the training."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _output: Any, _target: Any) -> float:
        self.calls += 1
        return (0.0, 0.1, 0.5, 0.4, 0.3, 0.2, 0.1)[self.calls - 2] if self.calls > 2 else 0.0


def falling() -> Task:
    return Task(
        "t", lambda: nn.Linear(3, 2), DATA, DATA, metric=Worse(), metric_name="worse", higher_is_better=True,
        batch_size=40, epochs=6,
    )  # fmt: skip


def test_patience_ends_a_training_and_the_summary_says_so(tmp_path: Path) -> None:
    run = train(falling(), patience=2, best=True, every=0, out=tmp_path / "run")
    assert (run.summary["epochs"], run.summary["stopped_early"], run.summary["best_epoch"]) == (4, True, 2)
    text = " ".join(describe_training(run.directory.config(), run.summary))
    assert "with the weights of epoch 2, the best" in text
    assert "Stopped before epoch 6: 2 evaluations in a row brought no better validation score." in text
    whole = train(falling(), patience=4, every=0, out=tmp_path / "whole")  # ends where the training does
    assert whole.summary["epochs"] == 6
    assert "stopped_early" not in whole.summary


def test_the_model_is_evaluated_every_so_many_epochs_and_at_the_end(tmp_path: Path) -> None:
    run = train(make(), epochs=5, evaluate_every=2, out=tmp_path / "run")
    assert [r["epoch"] for r in run.records if r["kind"] == "epoch"] == [0, 2, 4, 5]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("schedule", "step", "--schedule must be one of constant, linear, cosine, steps, got 'step'"),
        ("warmup", -1, "--warmup must be a whole number >= 0, got -1"),
        ("clip", 0.0, "--clip must be a number above 0, got 0.0"),
        ("average", 1.0, r"--average must be a number in \[0, 1\), got 1.0"),
        ("evaluate_every", 0, "--evaluate-every must be a whole number >= 1, got 0"),
        ("patience", 0, "--patience must be a whole number >= 1, got 0"),
        ("amp", "float8", "--amp must be one of bfloat16, float16, got 'float8'"),
        ("state_dtype", "int4", "state_dtype must be"),
        ("nonfinite", "ignore", "nonfinite must be 'propagate', 'skip' or 'zero', got 'ignore'"),
        ("stochastic_rounding", True, "stochastic_rounding must be"),  # its parameters are float32
    ],
)
def test_a_value_that_does_not_fit_is_refused(option: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        train(make(), out=tmp_path / "run", **{option: value})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_tensorboard_has_losses_scores_and_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("notf"))  # imports no TensorFlow
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train(make(), tensorboard=True, out=tmp_path / "run")
    read = accumulator.EventAccumulator(str(run.path / TENSORBOARD), size_guidance={"scalars": 0})
    read.Reload()
    epochs = [r for r in run.records if r["kind"] == "epoch"]
    for tag, name in (("validation/loss", "validation_loss"), ("validation/score", "validation_metric")):
        found = [(event.step, event.value) for event in read.Scalars(tag)]
        assert found == [(r["step"], pytest.approx(r[name], rel=1e-6)) for r in epochs]
    assert [event.step for event in read.Scalars("loss/train")] == list(range(1, STEPS + 1))
    assert read.Scalars("rmsprop/gradient_norm")


@pytest.mark.slow
def test_weights_and_biases_has_losses_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CACHE_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    run = train(make(), wandb="project", out=tmp_path / "run")
    assert list(run.path.glob("wandb/offline-run-*/*.wandb"))
    assert run.summary["status"] == "finished"


def test_a_tracker_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    for options, message in (({"tensorboard": True}, "pip install tensorboard"), ({"wandb": "p"}, "pip install wandb")):
        with pytest.raises(ModuleNotFoundError, match=message):
            train(make(), out=tmp_path / message.split()[-1], **options)


class Words(torch.utils.data.Dataset[Any]):
    """Examples whose target is a word, which is in no tensor."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> tuple[Tensor, str]:
        return X[i], "yes" if i % 2 else "no"


def test_examples_are_counted_whatever_the_form_of_a_batch() -> None:
    def counts(data: Any, size: int = 4) -> Iterator[int]:
        for index, batch in enumerate(batches(data, size)):
            yield example_count(data, size, index, batch)

    loader: Any = torch.utils.data.DataLoader
    assert list(counts(Words())) == [4, 4, 2]
    assert list(counts(loader(Words(), batch_size=3))) == [3, 3, 3, 1]
    assert list(counts(loader(Words(), batch_sampler=[[0, 1, 2], [3]]))) == [3, 1]
    assert list(counts(loader(Words(), batch_size=4, drop_last=True))) == [4, 4]


def test_every_recipe_that_help_and_documents_name_exists() -> None:
    root = Path(__file__).parent.parent
    texts = [*(root / "src").rglob("*.py"), *root.glob("*.md"), *(root / "docs").glob("*.md")]
    names = {n for path in texts for n in re.findall(r"--recipe ([a-z0-9-]+[0-9a-z])", path.read_text("utf-8"))}
    assert {"char-rnn-2015", "a2c-baselines"} <= names
    assert names - {"knows"} <= RECIPES.keys()  # "the published trainings that explain --recipe knows"
