"""Run the examples of libraries that people train with: with this library, and with the lines that were there before.

The lines of an example that change have a comment, "# instead of: …". Where no line changes, `rmsprop run` is used.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import types
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# {file: (client, distributions whose versions matter)}
CLIENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "stable_baselines3_a2c": ("Stable-Baselines3, A2C", ("stable-baselines3",)),
    "stable_baselines3_dqn": ("Stable-Baselines3, DQN", ("stable-baselines3",)),
    "transformers_by_name": ("Transformers' Trainer, `optim`", ("transformers",)),
    "transformers_trainer": ("Transformers' Trainer, a class", ("transformers",)),
    "accelerate_loop": ("Accelerate", ("accelerate",)),
    "lightning_module": ("Lightning", ("pytorch-lightning",)),
    "lightning_command_line": ("Lightning's command line", ("pytorch-lightning", "jsonargparse")),
    "timm_by_name": ("timm", ("timm",)),
    "skorch_classifier": ("skorch", ("skorch",)),
    "peft_lora": ("PEFT, LoRA", ("peft",)),
    "opacus_private": ("opacus", ("opacus",)),
    "schedule_free": ("schedule_free's wrapper", ("schedulefree",)),
    "sam_and_lookahead": ("SAM and Lookahead of pytorch_optimizer", ("pytorch-optimizer",)),
    "averaged_weights": ("torch's SWA and EMA", ("torch",)),
    "keras_by_name": ("Keras, by name", ("keras",)),
    "keras_multi_optimizer": ("Keras, MultiOptimizer", ("keras",)),
    "flax_train_state": ("flax, TrainState", ("flax",)),
    "optax_wrappers": ("optax, MultiSteps and others", ("optax",)),
}
_CHANGED = re.compile(r"^( *)(.*?)  # instead of: (.*)$", re.MULTILINE)


class Outcome(NamedTuple):
    """What an example computed, and how many optimizers of this library stepped."""

    weights: npt.NDArray[np.float64]
    ours: int


def text_of(name: str) -> str:
    """Return the text of an example."""
    return (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")


def changed_lines(name: str) -> list[str]:
    """Return the lines of an example that change; none if it is run by `rmsprop run`."""
    return [code.strip() for _, code, _ in _CHANGED.findall(text_of(name))]


def before(name: str) -> str:
    """Return the text of an example without this library."""
    text = _CHANGED.sub(r"\1\3", text_of(name))
    # With torch's class, schedule_free's wrapper raises KeyError unless the state is complete before the first step.
    zeros = '{"step": torch.zeros(()), "square_avg": torch.zeros_like(p)}'
    complete = f"base.state.update((p, {zeros}) for p in model.parameters())"
    return text.replace("optimizer = ScheduleFree", f"{complete}\noptimizer = ScheduleFree")


def run(name: str, *, ours: bool, changed: bool = True) -> Outcome:
    """Execute an example in this process, with this library or as it was before.

    If not `changed`, torch's class is replaced, and the example is as it was before.
    """
    from rmsprop.torch import install
    from rmsprop.torch.observer import on_new

    made: list[Any] = []
    names: dict[str, Any] = {"__name__": "__main__"}
    changed = changed and bool(changed_lines(name))
    installed = install() if ours and not changed else contextlib.nullcontext()
    on_new.append(made.append)
    try:
        with importable(name), installed:
            exec(compile(text_of(name) if ours and changed else before(name), f"{name}.py", "exec"), names)
    finally:
        on_new.remove(made.append)
    weights = names["result"]
    weights = weights.detach().numpy() if hasattr(weights, "detach") else weights
    others = ("RMSpropState" in repr(names.get("state"))) + ("rmsprop.keras" in type(names.get("optimizer")).__module__)
    return Outcome(np.asarray(weights, np.float64), sum(bool(each.state) for each in made) + others)


@contextlib.contextmanager
def importable(name: str) -> Iterator[None]:
    """Keep clients off the network; import timm's optimizers without its models, which need torchvision."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if name != "timm_by_name" or find_spec("torchvision") is not None:
        yield
        return
    before = dict(sys.modules)
    spec = find_spec("timm")
    timm, models = types.ModuleType("timm"), types.ModuleType("timm.models")
    timm.__path__ = list(spec.submodule_search_locations or ()) if spec else []
    models.group_parameters = None  # type: ignore[attr-defined]  # of layer-wise rates
    sys.modules |= {"timm": timm, "timm.models": models}
    try:
        importlib.import_module("timm.optim")
        yield
    finally:
        for each in sys.modules.keys() - before.keys():
            if each.partition(".")[0] == "timm":
                del sys.modules[each]
