"""A Wasserstein GAN: turns of critic and generator, the Fréchet distance, and what the commands make of them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import wgan as page
from torch import Tensor

from rmsprop import InputError, recipe
from rmsprop.cli.app import run as command
from rmsprop.lab import compare, find_lr, load_task, train
from rmsprop.lab.adversarial import CriticAndGenerator, WassersteinTask, frechet_distance
from rmsprop.lab.compute import Compute
from rmsprop.lab.processes import Processes
from rmsprop.lab.random_state import seed_everything
from rmsprop.lab.report.images import mosaic
from rmsprop.lab.runs.interrupts import Interrupted
from rmsprop.lab.runs.shared_batches import check_shareable
from rmsprop.lab.runs.training import TrainingLoop, order_of
from rmsprop.lab.setup import with_optimizer, with_recipe
from rmsprop.lab.tasks.wgan import classifier
from rmsprop.torch import RMSprop

LR = 1e-3
RECIPE = recipe("wgan-2017").changed(lr=LR)


def small(**changes: Any) -> WassersteinTask:
    """The task wgan, with short epochs."""
    task = load_task("wgan")
    assert isinstance(task, WassersteinTask)
    return dataclasses.replace(task, **{"rounds": 4, "epochs": 2, **changes})


SETUPS = {"recipe": with_recipe(RECIPE), "rule": with_optimizer(lambda params: RMSprop(params, lr=LR))}


def trained(task: WassersteinTask, seed: int = 3, setup: str = "rule") -> CriticAndGenerator:
    training = TrainingLoop(task, SETUPS[setup], seed)
    for _ in training.run():
        pass
    assert isinstance(training.model, CriticAndGenerator)
    return training.model


@pytest.fixture(autouse=True)
def _in_a_new_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# -- turns -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setup", SETUPS)
def test_the_steps_are_algorithm_1_with_an_optimizer_for_each_network(setup: str) -> None:
    task, seed, limit = small(epochs=1), 3, 0.01
    seed_everything(seed)
    model = task.model()
    assert isinstance(model, CriticAndGenerator)
    critic, generator = model.critic, model.generator
    optimizers = [RMSprop(network.parameters(), lr=LR) for network in (critic, generator)]
    turns = []

    def clamp() -> None:
        with torch.no_grad():
            for weight in critic.parameters():
                weight.clamp_(-limit, limit)

    clamp()
    for images, noise, critics_turn in task.batches(model, 64, order_of(seed, 0)):
        turns.append(critics_turn)
        for optimizer in optimizers:
            optimizer.zero_grad()
        if critics_turn:
            (critic(images).mean() - critic(generator(noise).detach()).mean()).neg().backward()
            optimizers[0].step()
            clamp()
        else:
            critic(generator(noise)).mean().neg().backward()
            optimizers[1].step()
    assert turns == 4 * [True, True, True, True, True, False]
    for (name, ours), reference in zip(trained(task, seed, setup).named_parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, reference), name


def test_each_turn_trains_one_network_and_the_loss_is_the_same_in_both() -> None:
    task = small()
    model = task.model()
    assert isinstance(model, CriticAndGenerator)
    images, noise, _ = next(task.batches(model, 64, order=0))
    losses, gradients = {}, {}
    for critics_turn in (True, False):
        model.zero_grad()
        loss = task.loss(*task.apply(model, (images, noise, critics_turn)))
        loss.backward()  # type: ignore[no-untyped-call]
        losses[critics_turn] = loss.item()
        gradients[critics_turn] = [
            {p.grad is None for p in part.parameters()} for part in (model.critic, model.generator)
        ]
    assert gradients == {True: [{False}, {True}], False: [{True}, {False}]}
    assert losses[True] == losses[False] == (model.critic(model.generator(noise)).mean() - model.critic(images).mean())


@pytest.mark.parametrize("setup", SETUPS)
def test_the_critics_weights_alone_are_clamped(setup: str) -> None:
    model = trained(small(), setup=setup)
    assert max(float(weight.detach().abs().max()) for weight in model.critic.parameters()) == pytest.approx(0.01)
    assert max(float(weight.detach().abs().max()) for weight in model.generator.parameters()) > 0.1


def test_images_come_once_before_any_comes_again() -> None:
    task = small(rounds=4, critic_steps=5)
    drawn = [images for images, _, critics_turn in task.batches(task.model(), 100, order=5) if critics_turn]
    whole = torch.cat(drawn[:11])
    (images,) = task.train.tensors
    assert len(whole) == len(images)
    assert torch.equal(torch.sort(whole @ torch.arange(64.0))[0], torch.sort(images @ torch.arange(64.0))[0])
    assert not torch.equal(whole, torch.cat(drawn[11:])[: len(whole)])


# -- the score ---------------------------------------------------------------------------------------------------------


def test_the_distance_is_that_of_the_formula() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(50, 6)), generator.normal(size=(40, 6)) @ generator.normal(size=(6, 6)) + 1
    covariances = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected)
    assert frechet_distance(torch.from_numpy(b), torch.from_numpy(a)) == pytest.approx(expected)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(0, abs=1e-9)


def distance(images: Tensor, part: str = "test") -> float:
    task = small()
    (real,) = getattr(task, part).tensors
    return frechet_distance(task.features(images), task.features(real))


def test_held_out_images_are_nearer_than_shuffled_pixels_and_these_than_one_image() -> None:
    task = small()
    (train_images,) = task.train.tensors
    shuffled = torch.stack([column[torch.randperm(len(column))] for column in train_images.T], dim=1)
    one = train_images.mean(dim=0).expand(360, -1)
    constant = task.evaluate(task.model(), "test", 64, Compute()).constant.metric
    assert constant is not None
    assert distance(train_images) < 1 < 10 < distance(shuffled) < constant / 2 < constant <= distance(one)


def test_features_are_those_of_a_good_classifier() -> None:
    images, digits = load_task("digits").test.tensors  # type: ignore[union-attr]
    model: Any = classifier()
    assert (model(images).argmax(dim=1) == digits).double().mean() > 0.93
    assert small().features(images).shape == (360, 32)
    before = model[1].weight.clone()
    classifier.cache_clear()
    torch.manual_seed(99)
    again: Any = classifier()
    assert torch.equal(again[1].weight, before)  # the same in every process


def test_evaluations_repeat_and_test_has_other_noise_than_validation() -> None:
    task = small(test=small().validation)
    model: Any = task.model()
    first, again, test = (task.evaluate(model, part, 64, Compute()) for part in ("validation", "validation", "test"))
    assert first == again
    assert first.loss == first.metric != test.metric
    with torch.no_grad():
        model.generator[0].weight.fill_(torch.nan)
    assert np.isnan(task.evaluate(model, "validation", 64, Compute())[:2]).all()


# -- the commands ------------------------------------------------------------------------------------------------------


def test_it_learns() -> None:
    task = small(rounds=200)
    model = trained(task)
    assert task.evaluate(model, "test", 64, Compute()).metric < 40  # about 190 before the first step


def without_times(records: list[Any]) -> list[Any]:
    return [{k: v for k, v in record.items() if k not in ("seconds", "step_us", "optimizer_us")} for record in records]


@pytest.mark.usefixtures("no_figures")
def test_an_interrupted_run_goes_on_from_its_last_epoch_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmsprop.lab.runs.checkpoints.Saver.due", lambda _: True)
    task = small()
    whole = train(task, RECIPE, out="whole")

    def interrupt(training: TrainingLoop, _: Any) -> None:
        if training.step == 30:  # within the second epoch of 24 steps
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(task, RECIPE, out="part", listen=interrupt)
    part = train(task, RECIPE, out="part", resume=True)
    assert without_times(part.records) == without_times(whole.records)
    assert part.summary["test_metric"] == whole.summary["test_metric"]


def test_a_run_says_its_distance_and_shows_generated_images() -> None:
    run = train(small(), RECIPE, out="run")
    last = run.records[-1]
    assert run.sentences[0].endswith(f"on the validation data: Fréchet distance {last['validation_metric']:.4g}.")
    assert last["validation_loss"] == last["validation_metric"]
    page = run.report().read_text()
    assert "<h3>Generated images</h3>" in page
    assert "<h3>Validation Fréchet distance</h3>" in page
    assert "<h3>Validation loss</h3>" not in page
    assert Path("run/picture.svg").read_text().startswith("<svg")
    plain = train("digits", epochs=1, out="plain")
    assert not Path("plain/picture.svg").exists()
    assert "Generated images" not in plain.report().read_text()


def test_images_stand_side_by_side() -> None:
    images = np.arange(11.0)[:, None, None] * np.ones((11, 2, 3))
    whole = mosaic(images)
    assert whole.shape == (5, 39)
    assert np.array_equal(whole[0, :8], [0, 0, 0, np.nan, 1, 1, 1, np.nan], equal_nan=True)
    assert np.array_equal(whole[3, :4], [10, 10, 10, np.nan], equal_nan=True)
    assert np.isnan(whole[2]).all()


@pytest.mark.usefixtures("no_figures", "no_workers")
def test_optimizers_are_compared_by_their_distance() -> None:
    task = small(epochs=1)
    run = compare(task, optimizers=("Adam",), learning_rates=(1e-4, 1e-3, 1e-2), tuning_seeds=1, seeds=5, out="run")
    assert run.summary["metric"] == "Fréchet distance"
    assert [score["optimizer"] for score in run.summary["scores"]] == ["RMSprop", "Adam"]
    assert run.sentences[0].startswith("RMSprop reaches a test Fréchet distance of ")
    assert run.summary["constant"]["metric"] == pytest.approx(distance_of_one_image(), rel=1e-6)


def distance_of_one_image() -> float:
    """Return the distance of an image whose features are the mean of the real ones."""
    task = small()
    (real,) = task.test.tensors
    features = task.features(real)
    return frechet_distance(features.mean(dim=0).expand(360, -1), features)


def test_what_it_cannot_do_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["find-lr", "wgan"]) == 2
    assert capsys.readouterr().err.strip() == (
        "rmsprop: the task must be one with a fixed set of data: the loss at one rate must be comparable with the loss "
        "at another, got wgan, whose model generates its batches; compare a few rates by their Fréchet distance: "
        "rmsprop compare wgan --lrs 0.0003 0.001 0.003"
    )
    with pytest.raises(InputError, match="whose model generates its batches"):
        find_lr(small())
    with pytest.raises(InputError, match="a data set to share, got one that generates its data; train it alone"):
        check_shareable(small(), 64, Processes(0, 2))


def test_the_page_has_the_measured_distances() -> None:
    text = page.DOCUMENT.read_text()
    assert page.up_to_date(text) == text
    assert len(page.table(json.loads(page.DISTANCES.read_text()), [1.0, 2.0]).splitlines()) > 8
