"""Tasks of generative adversarial networks: a critic and a generator that are trained in turns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import TensorDataset

from rmsprop.lab.chance import Constant
from rmsprop.lab.compute import Compute
from rmsprop.lab.data import batches
from rmsprop.lab.score import Evaluation, Score
from rmsprop.lab.task import Task
from rmsprop.recipes.torch_parts import clamp

PICTURES = 40
_SEEDS = {"picture": 0, "validation": 1, "test": 2}  # seeds of the noise


class CriticAndGenerator(nn.Module):
    """A critic, which scores images, and a generator, which turns noise into images.

    In the critic's turn, no gradient reaches the generator; in the generator's turn, none reaches the critic. The
    optimizer skips parameters without a gradient. The scores are the same in both turns: the generator's gradient is
    reversed, since the generator lowers the distance that the critic raises.
    """

    def __init__(self, critic: nn.Module, generator: nn.Module) -> None:
        super().__init__()
        self.critic, self.generator = critic, generator

    def forward(self, images: Tensor, noise: Tensor, critics_turn: bool) -> tuple[Tensor, Tensor]:
        """Return the scores of generated images, and those of `images`."""
        if critics_turn:
            with torch.no_grad():
                generated = self.generator(noise)
            return self.critic(generated), self.critic(images)
        fixed = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
        score = partial(functional_call, self.critic, fixed)
        return score((_reversed(self.generator(noise)),)), score((images,))


def _reversed(images: Tensor) -> Tensor:
    """Return the images. Their gradient has the opposite sign."""
    return 2 * images.detach() - images


def minus_distance(generated: Tensor, real: Tensor) -> Tensor:
    """Return minus the Wasserstein distance that the critic's scores estimate, up to the critic's slope."""
    return generated.mean() - real.mean()


@dataclass(frozen=True)
class WassersteinTask(Task):
    """A Wasserstein GAN with clamped weights (Arjovsky, Chintala and Bottou 2017, algorithm 1).

    A step is a turn of the critic or of the generator: `critic_steps` turns of the critic, then one of the generator.
    Before each turn, the critic's weights are clamped. An epoch has `rounds` turns of the generator. The images come
    in random order, all of them before any comes again. The training loss is minus the distance that the critic
    estimates, in both turns.

    The score is the Fréchet distance between the features of generated and real images, as many of each; lower is
    better. Evaluations draw the same noise each time, and other noise for validation than for test. The validation
    loss is the score, since the training loss says nothing about the images without the critic of its moment.

    Parameters
    ----------
    name, model, batch_size, epochs
        As in `Task`; `model` returns a `CriticAndGenerator`.
    train, validation, test
        Images.
    features
        Function from images to their features (images × features), for the score; the pixels if omitted.
    shape
        Height and width of an image.
    noise
        Standard normal numbers from which the generator makes an image.
    critic_steps
        Turns of the critic before each of the generator.
    limit
        The critic's weights are clamped to ± this.
    rounds
        Turns of the generator in an epoch.
    """

    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset
    loss: Callable[[Any, Any], Tensor] = minus_distance
    features: Callable[[Tensor], Tensor] = torch.clone  # the pixels themselves
    shape: tuple[int, int] = (8, 8)
    noise: int = 32
    critic_steps: int = 5
    limit: float = 0.01
    rounds: int = 200

    generates: ClassVar[bool] = True

    @cached_property
    def score(self) -> Score:
        """The Fréchet distance."""
        return Score("Fréchet distance", higher_is_better=False, kind="distance", loss_is_sum=False)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of turns in an epoch."""
        return self.rounds * (self.critic_steps + 1)

    def batches(self, model: nn.Module, batch_size: int, order: int) -> Iterator[Any]:
        """Yield images, noise, and whether it is the critic's turn, for each turn of one epoch."""
        generator = torch.Generator().manual_seed(order)
        passes = (batches(self.train, batch_size, order + i) for i in itertools.count())
        images = itertools.chain.from_iterable(passes)
        for _ in range(self.rounds):
            for turns_left in reversed(range(self.critic_steps + 1)):
                if turns_left:  # the generator's turn has the images of the critic's last
                    (real,) = next(images)
                yield real, torch.randn(len(real), self.noise, generator=generator), turns_left > 0

    def clamped(self, model: Any) -> Iterable[nn.Parameter]:
        """Return the parameters that a recipe with a weight clamp means: the critic's."""
        return cast(Iterable[nn.Parameter], model.critic.parameters())

    def apply(self, model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Clamp the critic's weights; return its scores of generated and of real images."""
        clamp(self.clamped(model), limit=self.limit)
        scores: tuple[Tensor, Tensor] = model(*batch)
        return scores

    @torch.no_grad()
    def generated(self, model: Any, count: int, seed: int, compute: Compute | None = None) -> Tensor:
        """Return `count` images of the generator, on the CPU."""
        model.eval()
        noise = torch.randn(count, self.noise, generator=torch.Generator().manual_seed(seed))
        compute = compute or Compute()
        with compute.autocast():
            images: Tensor = model.generator(noise.to(compute.device))
        return images.float().cpu()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, part: str, batch_size: int, compute: Compute) -> Evaluation:
        """Return the Fréchet distance of generated images to the "validation" or "test" images, also as the loss.

        The best constant is one image, always the same, whose features are the mean of the real ones.
        """
        (real,) = getattr(self, part).tensors
        images = self.generated(model, len(real), _SEEDS[part], compute)
        features = self.features(real)
        distance = frechet_distance(self.features(images), features)
        constant = float(features.double().var(dim=0).sum())
        return Evaluation(distance, distance, Constant(constant, constant))

    def picture(self, model: nn.Module) -> str:
        """Return an SVG of `PICTURES` generated images."""
        from rmsprop.lab.report.images import draw_images  # not needed in the workers of a comparison

        images = self.generated(model, PICTURES, _SEEDS["picture"])
        return draw_images(images.reshape(-1, *self.shape).numpy())

    def try_out(self, batch_size: int | None = None) -> None:
        """Run one turn of the critic, one of the generator and one evaluation."""
        state = torch.get_rng_state()
        model = self._new_model()
        turns = list(itertools.islice(self.batches(model, 2, order=0), self.critic_steps + 1))
        for batch in turns[-2:]:
            self._check_loss(self.loss(*self.apply(model, batch)))
        self.evaluate(model, "validation", 2, Compute())
        torch.set_rng_state(state)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the Fréchet distance of two normal distributions with the means and covariances of the rows of a and b.

    It is the square of their Wasserstein-2 distance: ‖μₐ − μ_b‖² + tr(Σₐ + Σ_b − 2(Σₐ^½ Σ_b Σₐ^½)^½). NaN if a number
    is not finite.

    Examples
    --------
    >>> a = torch.tensor([[0.0], [2.0]])
    >>> frechet_distance(a, a + 3), round(frechet_distance(a, 2 * a), 6)
    (9.0, 3.0)
    """
    a, b = a.double(), b.double()
    if not (a.isfinite().all() and b.isfinite().all()):
        return math.nan
    values, vectors = torch.linalg.eigh(a.T.cov().reshape(a.shape[1], -1))
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    both = torch.linalg.eigvalsh(root @ b.T.cov().reshape(b.shape[1], -1) @ root)
    apart = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    spread = a.var(dim=0).sum() + b.var(dim=0).sum() - 2 * both.clamp(min=0).sqrt().sum()
    return float(apart + spread)
