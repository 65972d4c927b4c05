"""A state machine that does to `rmsprop.torch.RMSprop` whatever a training run may do, in any order.

An action that is no step changes no bit. Each step is compared with `rmsprop.rule`, parameter by parameter, from the
state before the step: bit for bit where the native kernel stepped, else within the bounds of `fuzz_oracle`. `python
tests/fuzz.py --seconds 120 --seed 1` runs it for a given time; `test_fuzz.py` makes a short run.
"""

from __future__ import annotations

import argparse
import copy
import io
import itertools
import pickle
import sys
import time
import traceback
import warnings
from collections import Counter
from typing import Any, NamedTuple

import fuzz_oracle
import hypothesis
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from torch import Tensor

from rmsprop import Rule
from rmsprop.rule import AVERAGES
from rmsprop.torch import RMSprop
from rmsprop.torch.engines.cpu_kernel import UNAVAILABLE, CpuKernel
from rmsprop.torch.groups import EXECUTION, FIELDS

HALF = (torch.float16, torch.bfloat16)
REAL = (torch.float32, torch.float64, *HALF)
DONE: Counter[str] = Counter()  # how often each kind of action was done

# Values of every hyperparameter. None makes a step in half precision overflow.
VALUES: dict[str, list[Any]] = {
    "lr": [0.0, 1e-5, 0.01, 0.3],
    "alpha": [0.0, 0.5, 0.9, 0.99, 0.999],
    "eps": [0.0, 1e-8, 0.02, 1.0],
    "weight_decay": [0.0, 0.1],
    "momentum": [0.0, 0.5, 0.9],
    "centered": [False, True],
    "maximize": [False, True],
    "nesterov": [False, True],
    "eps_inside_sqrt": [False, True],
    "initial_square_avg": [0.0, 0.7, 1.0],
    "lr_in_momentum": [False, True],
    "bias_correction": [False, True],
    "decoupled_weight_decay": [False, True],
    "first_moment": [False, True],
    "momentum_decay": [0.0, 4e-3, 1.0],
    "amsgrad": [False, True],
    # Not of the rule: how the optimizer applies it.
    "nonfinite": ["propagate", "propagate", "zero", "skip"],
    "sparse": ["exact", "lazy"],
    "state_dtype": [None, None, None, "bfloat16", "uint8"],
    "stochastic_rounding": [False, True, 12345],
}
ADAM: dict[str, Any] = {"momentum": 0.9, "first_moment": True, "bias_correction": True}
NADAM: dict[str, Any] = {**ADAM, "nesterov": True, "momentum_decay": 4e-3}
DEFAULTS = {name: getattr(Rule, field) for name, field in FIELDS.items()}
PATHS: list[dict[str, Any]] = [
    {},
    {},
    {},
    {},
    {"fused": False},
    {"foreach": True},
    {"foreach": False},
    {"capturable": True},
    {"capturable": True, "foreach": True},
]
LAYOUTS = ("plain", "plain", "transposed", "channels last", "gaps", "scalar", "empty")
LAYOUT = st.sampled_from(LAYOUTS)
GRADIENT_LAYOUT = st.sampled_from(["as the parameter"] * 12 + list(LAYOUTS))
WAYS = ("new", "new", "new", "add", "none", "leave")
GRADIENTS = ("normal", "sparse", "sparse, twice", "normal", "wide", "zero", "some zero", "tiny", "large", "same", "bad")


@st.composite
def hyperparameters(draw: st.DrawFn) -> dict[str, Any]:
    """Draw values of some hyperparameters; the others keep PyTorch's defaults."""
    group = draw(st.fixed_dictionaries({}, optional={k: st.sampled_from(values) for k, values in VALUES.items()}))
    group |= draw(st.sampled_from([{}, {}, {}, ADAM, NADAM]))
    return {name: value for name, value in valid({**DEFAULTS, **group}).items() if name in group}


def valid(group: dict[str, Any]) -> dict[str, Any]:
    """Return a group without the combinations that Rule refuses."""
    group = {**group, "nesterov": group["nesterov"] and group["momentum"] > 0}
    group["lr_in_momentum"] = group["lr_in_momentum"] and not group["first_moment"]
    if not (group["first_moment"] and group["nesterov"] and group["bias_correction"]):
        group["momentum_decay"] = 0.0
    if group["amsgrad"] and group["bias_correction"]:
        group["initial_square_avg"] = 0.0
    return group


class Kind(NamedTuple):
    """Dtype, layout, size and seed of a parameter."""

    dtype: torch.dtype
    layout: str
    size: int
    seed: int

    def make(self) -> Tensor:
        whole = numbers(self.seed, (2, 3, 2, 5)).to(self.dtype)
        if self.layout == "scalar":
            whole = whole[0, 0, 0, 0]
        elif self.layout in ("plain", "empty"):
            whole = whole.reshape(-1)[: self.size if self.layout == "plain" else 0]
        return laid_out(whole, self.layout)


KINDS = st.builds(
    Kind,
    st.sampled_from([torch.float32, *REAL, torch.float32, torch.complex64, torch.complex128]),
    LAYOUT,
    st.sampled_from([1, 7, 33, 60]),
    st.integers(0, 99),
)


def laid_out(x: Tensor, layout: str, p: Tensor | None = None) -> Tensor:
    """Return the numbers of `x` in another layout, or in that of `p`. Unchanged if `x` has too few dimensions."""
    if layout == "as the parameter" and p is not None:
        return torch.empty_like(p, requires_grad=False).copy_(x)
    if layout == "transposed" and x.dim() > 1:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "channels last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "gaps" and x.dim():
        return x.repeat_interleave(2, -1)[..., ::2]
    return x.contiguous().clone()


def numbers(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(p: Tensor, kind: str, seed: int) -> Tensor:
    """Return a gradient of the dtype of `p`. Finite elements have a finite square in that dtype."""
    shape = tuple(p.shape) + ((2,) if p.is_complex() else ())
    x = numbers(seed, shape)
    spread = 10.0 ** (numbers(seed + 1, shape) * 1.5)
    known = {
        "wide": x * spread,
        "zero": x * 0,
        "some zero": x * (x > 0),
        "tiny": x * 1e-20,
        "large": x.clamp(-6, 6) * (1e3 if p.dtype == torch.float16 else 1e15),
        "same": torch.full_like(x, 0.1),
        "bad": torch.where(x > 0.3, x, torch.tensor([torch.inf, -torch.inf, torch.nan, 1e30], dtype=x.dtype)[seed % 4]),
    }
    if "sparse" in kind and p.dim():
        return sparse_gradient(p, kind, seed)
    x = known.get(kind, x)
    g = torch.view_as_complex(x) if p.is_complex() else x
    return g.to(p.dtype)


def sparse_gradient(p: Tensor, kind: str, seed: int) -> Tensor:
    """Return a sparse gradient for some rows of `p`; "twice" in `kind` repeats some of them."""
    some = torch.arange(len(p))[numbers(seed, (len(p),)) > 0]
    rows = torch.cat([some, some[::2]]) if "twice" in kind else some
    values = numbers(seed + 1, (len(rows), *p.shape[1:])).to(p.dtype)
    return torch.sparse_coo_tensor(rows[None], values, p.shape, check_invariants=False)


def wide(p: Tensor) -> torch.dtype:
    """Return the compute dtype of `p`."""
    return torch.float32 if p.dtype in HALF else p.dtype


def bits(x: Tensor | None) -> bytes:
    if x is None:
        return b""
    x = (x.to_dense() if x.is_sparse else x).detach().resolve_conj()
    flat = x.clone(memory_format=torch.contiguous_format).reshape(-1)
    return repr((x.dtype, tuple(x.shape))).encode() + flat.view(torch.uint8).numpy().tobytes()


class Run(RuleBasedStateMachine):
    """A training run: `self.optimizer`, and the values that its groups should have."""

    @initialize(kinds=st.lists(KINDS, min_size=1, max_size=3), group=hyperparameters(), path=st.sampled_from(PATHS))
    def start(self, kinds: list[Kind], group: dict[str, Any], path: dict[str, Any]) -> None:
        DONE["runs"] += 1
        self.groups: list[dict[str, Any]] = []
        self.nonfinite_steps: Any = 0
        self.optimizer: RMSprop = RMSprop([torch.zeros(1)])
        self.optimizer.param_groups.clear()
        self.add_group(kinds, group, path)

    def params(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def picture(self) -> list[tuple[bytes, ...]]:
        """Return every bit of parameters, gradients and state."""
        result = []
        for p in self.params():
            own = self.caught_up(p)
            result.append((bits(p), bits(p.grad), *(f"{k} ".encode() + bits(own[k]) for k in sorted(own))))
        return result

    def caught_up(self, p: Tensor) -> dict[str, Tensor]:
        """Return a copy of the state of `p` in which lagging rows are caught up."""
        live = self.optimizer.state.get(p, {})
        own: dict[str, Any] = {name: x.clone() if isinstance(x, Tensor) else x for name, x in live.items()}
        if lag := self.optimizer.step_state.lags.get(id(live)):
            lag.catch_up(own)
        return own

    def check_groups(self) -> None:
        for group, expected in zip(self.optimizer.param_groups, self.groups, strict=True):
            assert {k: float(v) if k == "lr" else v for k, v in group.items() if k in expected} == expected

    # -- actions that are no step: no bit of parameters and state changes ---------------------------------------------

    @precondition(lambda self: len(self.groups) < 4)
    @rule(kinds=st.lists(KINDS, max_size=3), group=hyperparameters(), path=st.sampled_from(PATHS))
    def add_group(self, kinds: list[Kind], group: dict[str, Any], path: dict[str, Any]) -> None:
        DONE["groups added"] += 1
        before = self.picture()
        self.groups.append({**EXECUTION, **DEFAULTS, **group, **path})
        if not all(kind.dtype in (torch.float32, *HALF) for kind in kinds):
            self.groups[-1]["state_dtype"] = None
        new = {**self.groups[-1], "stochastic_rounding": False}  # refused for a group without bfloat16, which may come
        self.optimizer.add_param_group({"params": [kind.make() for kind in kinds], **new})
        self.optimizer.param_groups[-1]["stochastic_rounding"] = self.groups[-1]["stochastic_rounding"]
        assert self.picture()[: len(before)] == before
        self.check_groups()

    @rule(data=st.data())
    def change_hyperparameters(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.groups) - 1))
        names = data.draw(st.sets(st.sampled_from(list(VALUES)), min_size=1, max_size=3))
        values = {name: data.draw(st.sampled_from(VALUES[name])) for name in sorted(names)}
        group = self.groups[number]
        group.update(valid({**group, **values}))
        self.optimizer.param_groups[number].update(group)
        self.make_possible(number, group)
        DONE["hyperparameters changed"] += 1

    @rule(data=st.data(), lr=st.sampled_from(VALUES["lr"]), shape=st.sampled_from([(), (1,)]))
    def make_lr_a_tensor(self, data: st.DataObject, lr: float, shape: tuple[int, ...]) -> None:
        number = data.draw(st.integers(0, len(self.groups) - 1))
        self.groups[number]["lr"] = lr
        self.optimizer.param_groups[number]["lr"] = torch.full(shape, lr, dtype=torch.float64)
        DONE["lr made a Tensor"] += 1

    @rule(data=st.data(), path=st.sampled_from(PATHS))
    def change_path(self, data: st.DataObject, path: dict[str, Any]) -> None:
        number = data.draw(st.integers(0, len(self.groups) - 1))
        for group in (self.groups[number], self.optimizer.param_groups[number]):
            group.update({"fused": None, "foreach": None, "capturable": False, **path})
        DONE["paths changed"] += 1

    @rule(way=st.sampled_from(["deepcopy", "pickle"]))
    def copy(self, way: str) -> None:
        before = self.picture()
        kept = [p.grad for p in self.params()]  # pickle drops gradients, unless the tensor is a Parameter
        self.optimizer = (
            copy.deepcopy(self.optimizer) if way == "deepcopy" else pickle.loads(pickle.dumps(self.optimizer))
        )
        for p, g in zip(self.params(), kept, strict=True):
            p.grad = g
        assert self.picture() == before
        self.check_groups()
        self.nonfinite_steps = 0  # the count belongs to one object
        DONE[f"copies by {way}"] += 1

    @rule(lr=st.sampled_from([7.0]), centered=st.booleans(), stepped=st.booleans())
    def reload(self, lr: float, centered: bool, stepped: bool) -> None:
        """Load the state through a file into a new optimizer with other arguments, which may have state already."""
        if any(self._narrowed(p) for p in self.params()):
            return
        before, file = self.picture(), io.BytesIO()
        torch.save(self.optimizer.state_dict(), file)
        file.seek(0)
        groups = [{"params": list(g["params"])} for g in self.optimizer.param_groups]
        other = RMSprop(groups, lr=lr, centered=centered, momentum=0.3)
        if stepped:
            kept = [(p.data, p.grad) for p in self.params()]
            for p in self.params():
                p.data, p.grad = p.data.clone(), None
                p.grad = torch.ones_like(p)
            other.step()
            for p, (value, grad) in zip(self.params(), kept, strict=True):
                p.data, p.grad = value, None
                p.grad = grad
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # state_dtype changes
            other.load_state_dict(torch.load(file, weights_only=True))
        self.optimizer, self.nonfinite_steps = other, other.nonfinite_steps
        assert self.picture() == before
        self.check_groups()
        DONE["state dicts loaded"] += 1

    @rule()
    def through_torchs_own_class(self) -> None:
        """torch.optim.RMSprop loads the state dict and saves it unchanged."""
        if any(p.dtype in HALF or self._narrowed(p) for p in self.params()) or any(
            g["state_dtype"] for g in self.groups
        ):
            return  # torch casts state to the parameter's dtype
        before = self.picture()
        groups = [{"params": list(g["params"])} for g in self.optimizer.param_groups]
        theirs = torch.optim.RMSprop(groups)
        theirs.load_state_dict(self.optimizer.state_dict())
        self.optimizer.load_state_dict(theirs.state_dict())
        assert self.picture() == before
        self.check_groups()
        DONE["trips through torch.optim.RMSprop"] += 1

    def _narrowed(self, p: Tensor) -> bool:
        """Return whether the state of `p` has another dtype than new state would have (loading changes it)."""
        own = self.optimizer.state.get(p)
        group = next(g for g in self.optimizer.param_groups if any(p is q for q in g["params"]))
        wanted = {"bfloat16": torch.bfloat16, "uint8": torch.uint8}.get(group["state_dtype"], wide(p))
        return own is not None and bool(own) and own["square_avg"].dtype != wanted

    @rule(data=st.data(), dtype=st.sampled_from(REAL))
    def move(self, data: st.DataObject, dtype: torch.dtype) -> None:
        """Move the data of a parameter and of its gradient to another dtype, as `Module.to` does."""
        self.optimizer.state_dict()  # catches lagging rows up in the old dtype
        real = [p for p in self.params() if not p.is_complex()]
        if real:
            p = data.draw(st.sampled_from(range(len(real))))
            g, real[p].grad = real[p].grad, None
            real[p].data = real[p].data.to(dtype)
            real[p].grad = None if g is None else g.to(dtype)
            for number, group in enumerate(self.groups):
                self.make_possible(number, group)
            DONE[f"moves to {dtype}"] += 1

    @rule(data=st.data(), layout=st.sampled_from(LAYOUTS))
    def lay_out_anew(self, data: st.DataObject, layout: str) -> None:
        params = self.params()
        if params:
            p = params[data.draw(st.integers(0, len(params) - 1))]
            p.data = laid_out(p.data, layout)
            DONE["new layouts"] += 1

    # -- gradients ---------------------------------------------------------------------------------------------------

    @rule(
        given=st.lists(
            st.tuples(st.sampled_from(WAYS), st.sampled_from(GRADIENTS), GRADIENT_LAYOUT), min_size=1, max_size=4
        ),
        seed=st.integers(0, 999),
    )
    def backward(self, given: list[tuple[str, str, str]], seed: int) -> None:
        """Give parameters new gradients, add to their gradients, or set them to None."""
        for i, (p, (way, kind, layout)) in enumerate(zip(self.params(), itertools.cycle(given), strict=False)):
            if way == "none":
                p.grad = None
            if way in ("new", "add"):
                g = gradient(p, kind, seed + i)
                DONE[f"gradients, {kind}"] += 1
                if way == "add" and p.grad is not None:
                    g = p.grad.to_dense() + g.to_dense()
                p.grad = g if g.is_sparse else laid_out(g, layout, p)

    @rule(
        given=st.lists(
            st.tuples(st.sampled_from(WAYS), st.sampled_from(GRADIENTS), GRADIENT_LAYOUT), min_size=1, max_size=4
        ),
        seed=st.integers(0, 999),
        steps=st.integers(1, 3),
    )
    def train(self, given: list[tuple[str, str, str]], seed: int, steps: int) -> None:
        for i in range(steps):
            self.backward(given, seed + 7 * i)
            self.step(closure=False)

    @rule(set_to_none=st.booleans())
    def zero_grad(self, set_to_none: bool) -> None:
        had = [p.grad is not None for p in self.params()]
        self.optimizer.zero_grad(set_to_none)
        for p, there in zip(self.params(), had, strict=True):
            if set_to_none or not there:
                assert p.grad is None
            else:
                assert p.grad is not None
                assert not p.grad.to_dense().any()
        DONE["zero_grad"] += 1

    @rule(data=st.data())
    def freeze(self, data: st.DataObject) -> None:
        for p in self.params():
            if not p.is_leaf:
                continue
            p.requires_grad_(data.draw(st.booleans()))
        DONE["frozen"] += 1

    # -- a step ------------------------------------------------------------------------------------------------------

    @rule(closure=st.booleans())
    def step(self, closure: bool) -> None:
        for number, group in enumerate(self.groups):
            self.make_possible(number, group)
        skipped, counted = self.judge()
        owners = [self.groups[n] for n, g in enumerate(self.optimizer.param_groups) for _ in g["params"]]
        stories = [
            fuzz_oracle.foretold(group, number, p, self.caught_up(p))
            for number, (group, p) in enumerate(zip(owners, self.params(), strict=True))
        ]
        before = self.picture()
        result = self.optimizer.step((lambda: 1.5) if closure else None)
        assert result == (1.5 if closure else None)
        self.check_groups()
        DONE["steps"] += 1
        self.nonfinite_steps = self.nonfinite_steps + counted
        assert int(self.optimizer.nonfinite_steps) == self.nonfinite_steps, "steps with bad gradients are miscounted"
        if skipped:
            DONE["steps left out"] += 1
        left = {
            (part.group_index, i)
            for part in self.optimizer.step_state.report[0][2]
            for i in (range(99) if part.indices is None else part.indices)
        }
        places = [(n, i) for n, g in enumerate(self.optimizer.param_groups) for i in range(len(g["params"]))]
        for p, old, new, place, story in zip(self.params(), before, self.picture(), places, stories, strict=True):
            assert new[1] == old[1], "the gradient has changed"
            if story is None:
                assert new == old
            elif skipped:
                assert new[0] == old[0]
                fuzz_oracle.is_where_it_was(self.caught_up(p), story)
            else:
                # A row that lagged is multiplied once by βᵏ, not k times by β.
                exact = place not in left and not (p.grad is not None and p.grad.is_sparse)
                assert exact or not self.is_simple(self.groups[place[0]], p), self.optimizer.implementation
                fuzz_oracle.compare(p, self.caught_up(p), story, exact)
                DONE["parameters stepped by the kernel" if exact else "parameters stepped by tensor operations"] += 1

    def make_possible(self, number: int, group: dict[str, Any]) -> None:
        """Remove what a step would refuse; `test_low_precision.py` and `test_sparse_use.py` test the refusals."""
        theirs = self.optimizer.param_groups[number]
        with_gradient = [p for p in theirs["params"] if p.grad is not None]
        if group["state_dtype"] and any(p.dtype not in (torch.float32, *HALF) for p in theirs["params"]):
            group["state_dtype"] = theirs["state_dtype"] = None
        exact = group["sparse"] == "exact"
        refused = (group["momentum"] or group["weight_decay"]) if exact else group["bias_correction"]
        if refused or group["capturable"] or group["state_dtype"]:
            for p in with_gradient:
                p.grad = p.grad.to_dense() if p.grad is not None else None

    def judge(self) -> tuple[bool, bool]:
        """Return whether the step will be skipped, and whether it counts as a step with bad gradients."""
        bad = {"propagate": False, "zero": False, "skip": False}
        for number, group in enumerate(self.groups):
            for p in self.optimizer.param_groups[number]["params"]:
                if p.grad is not None:
                    bad[group["nonfinite"]] |= bool(fuzz_oracle.is_bad(p.grad).any())
        return bad["skip"], bad["skip"] or bad["zero"]

    def is_simple(self, group: dict[str, Any], p: Tensor) -> bool:
        """Return whether the kernel can step `p`."""
        tensors = [p, p.grad, *(x for name, x in self.optimizer.state[p].items() if name in AVERAGES)]
        return (
            UNAVAILABLE is None
            and group["fused"] is group["foreach"] is None
            and not group["capturable"]
            and all(group[key] == DEFAULTS[key] for key, field in FIELDS.items() if field not in CpuKernel.fields)
            and all(x is not None and not x.is_sparse and x.is_contiguous() for x in tensors)
            and all(x is not None and x.dtype in (wide(p), torch.uint8, torch.bfloat16) for x in tensors[2:])
        )


def fuzz(seconds: float, seed: int, *, runs: int = 25) -> str | None:
    """Run programs until the time is over. Return the shortest one that fails, or None."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if finding := look(seed, runs, shrink=False):
            print(f"{finding}\n\nThat was round {seed}. Looking for the shortest program ...", flush=True)
            return look(seed, runs, shrink=True) or f"round {seed} fails, but not when it is repeated"
        seed += 1
    return None


def look(seed: int, runs: int, *, shrink: bool) -> str | None:
    """Return what hypothesis finds in `runs` programs drawn from `seed`."""
    wanted = settings(
        max_examples=runs,
        stateful_step_count=40,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        suppress_health_check=list(HealthCheck),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run_state_machine_as_test(hypothesis.seed(seed)(Run), settings=wanted)
    except Exception as error:
        place = traceback.format_tb(error.__traceback__)[-1]
        return "\n".join([f"{place}{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    finding = fuzz(given.seconds, given.seed)
    print(
        f"seed {given.seed}, {time.monotonic() - start:.0f} s: " + ", ".join(f"{n} {k}" for k, n in DONE.most_common())
    )
    print(finding or "no finding")
    return 1 if finding else 0


if __name__ == "__main__":
    sys.exit(main())
