"""Profiles: their defaults are those in the libraries' sources; arguments are used once or refused.

conformance/ compares their numbers with the libraries, test_conformance does so without the libraries.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import conventions
import numpy as np
import pytest

from rmsprop import InputError, Rule, profile
from rmsprop.cli.app import run
from rmsprop.cli.convert import convert
from rmsprop.hyperparameters import ALIASES
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.profiles import FIELDS, KINDS, PROFILES, WITH_MOMENTUM, canonical

ROOT = Path(__file__).resolve().parent.parent
# Where a library declares its defaults: file inside the package, class or function.
SOURCES = {
    "torch": ("torch/optim/rmsprop.py", "RMSprop"),
    "tf1": ("tensorflow/python/training/rmsprop.py", "RMSPropOptimizer"),
    "keras": ("keras/src/optimizers/rmsprop.py", "RMSprop"),
    "keras-legacy": ("tf_keras/src/optimizers/legacy/rmsprop.py", "RMSprop"),
    "optax": ("optax/_src/alias.py", "rmsprop"),
    "timm": ("timm/optim/rmsprop_tf.py", "RMSpropTF"),
    "sb3": ("stable_baselines3/common/sb2_compat/rmsprop_tf_like.py", "RMSpropTFLike"),
    "lasagne": ("pymc/variational/updates.py", "rmsprop"),
    "adam-b1-0": ("torch/optim/adam.py", "Adam"),
}


def declared(file: str, name: str) -> dict[str, Any]:
    """Return the literal defaults in a signature, parsed without an import."""
    package, _, rest = file.partition("/")
    found = PathFinder.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    tree = ast.parse((Path(next(iter(found.submodule_search_locations))) / rest).read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name)
    function = next(n for n in ast.walk(node) if isinstance(n, ast.FunctionDef) and n.name in ("__init__", name))
    arguments = [a.arg for a in function.args.args]
    values = [d.value if isinstance(d, ast.Constant) else ast.unparse(d) for d in function.args.defaults]
    required = dict.fromkeys(arguments[: len(arguments) - len(values)], "required")
    return required | dict(zip(arguments[::-1], values[::-1], strict=False))


@pytest.mark.parametrize("name", SOURCES)
def test_defaults_are_those_that_the_source_of_the_library_declares(name: str) -> None:
    given, each = declared(*SOURCES[name]), PROFILES[name]
    if name == "adam-b1-0":
        assert given["betas"] == "(0.9, 0.999)"
        given = {"lr": given["lr"], "eps": given["eps"], "beta2": 0.999}
    lr = given.get("learning_rate", given.get("lr"))
    assert each.default("lr") == (None if lr == "required" else lr)
    seen = {"lr"}
    for argument, value in given.items():
        field = ALIASES.get(argument, argument)
        if field in FIELDS and field != "lr":
            assert each.default(field) == (value or each.default(field).__class__(0)), argument
            seen.add(field)
    assert {"lr", "eps", "decay"} <= seen
    if name != "adam-b1-0":
        assert each.decay_name in given


def test_every_profile_is_a_rule_and_torch_is_the_default_one() -> None:
    assert set(PROFILES) == {
        "torch", "tf1", "keras", "keras-legacy", "optax", "timm", "sb3", "graves", "dqn", "lasagne", "adam",
        "adamw", "amsgrad", "nadam", "adam-b1-0",
    }  # fmt: skip
    assert profile("torch") == Rule()
    rules = {name: profile(name, lr=0.1, momentum=0.5) for name in PROFILES}
    assert profile("tf1", lr=0.1) == profile("timm", lr=0.1)  # they differ in their default rate only
    assert len(set(rules.values())) == len(rules) - 1
    for each in PROFILES.values():
        assert each.differs.endswith(".")
        assert each.source


def test_arguments_may_have_the_names_of_other_libraries() -> None:
    expected = Rule(
        lr=0.1, decay=0.8, eps=0.2, eps_inside_sqrt=True, initial_square_avg=0.3, decoupled_weight_decay=True
    )
    assert expected == profile(
        "torch", learning_rate=0.1, rho=0.8, epsilon=0.2, eps_in_sqrt=True, initial_scale=0.3, decoupled_decay=True
    )
    for alias, field in ALIASES.items():
        assert canonical({alias: 1}) == canonical({field: 1}) == {field: 1}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("tf", {}, "profile must be one of torch, tf1, .*, got 'tf'; rmsprop explain --profile NAME shows one"),
        ("tf1", {}, "lr must be given with profile 'tf1', got none; .* has no default; pass lr=0.001"),
        ("optax", {"decay": 0.5}, "lr must be given with profile 'optax'"),
        ("torch", {"alpha": 0.9, "rho": 0.8}, "decay must be given once, got alpha and rho; omit rho"),
        ("torch", {"lr": 0.1, "learning_rate": 0.1}, "lr must be given once, got lr and learning_rate"),
        ("torch", {"gamma": 0.9}, "an argument of a rule must be one of lr, .*, got 'gamma'; see rmsprop.Rule"),
        ("torch", {"lr": None}, "lr must be a finite number >= 0, got None"),
        ("torch", {"rho": 1.0}, r"decay must be a number in \[0, 1\), got 1.0"),
        ("keras-legacy", {"epsilon": 0}, "eps must be > 0 with profile 'keras-legacy', got 0; .* would take 1e-07"),
        ("keras-legacy", {"momentum": "high"}, "momentum must be a number"),
    ],
)
def test_what_cannot_be_is_refused(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        profile(name, **given)


def test_legacy_keras_moves_eps_with_momentum_unless_told_where() -> None:
    assert PROFILES["keras-legacy"].default("eps_inside_sqrt") == WITH_MOMENTUM
    assert not profile("keras-legacy").eps_inside_sqrt
    assert profile("keras-legacy", momentum=1e-9).eps_inside_sqrt
    assert profile("keras-legacy", eps_inside_sqrt=True).eps_inside_sqrt
    assert not profile("keras-legacy", momentum=0.9, eps_inside_sqrt=False).eps_inside_sqrt


def test_the_gradient_momentum_of_dqn_is_no_heavy_ball() -> None:
    rule = profile("dqn")
    assert (rule.momentum, rule.decay, rule.centered, rule.initial_square_avg) == (0, 0.95, True, 0)


def test_adam_without_first_moment_is_the_profile_of_its_name() -> None:
    import torch

    from rmsprop.torch import RMSprop

    start = torch.linspace(-1, 1, 50, dtype=torch.float64)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    rule = profile("adam-b1-0", lr=0.03, eps=0.01)
    steppers = (
        RMSprop.from_rule([ours], rule),
        torch.optim.Adam([theirs], lr=rule.lr, betas=(0.0, rule.decay), eps=rule.eps),
    )
    for seed in range(200):
        gradient = torch.from_numpy(np.random.default_rng(seed).standard_normal(50))
        for p, optimizer in zip((ours, theirs), steppers, strict=True):
            p.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_explain_takes_a_profile_and_what_differs_from_it(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["explain", "--profile", "tf1", "--lr", "0.045", "--momentum", "0.9", "--eps", "1", "--json"]
    assert run(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert Rule(**found["rule"]) == profile("tf1", lr=0.045, momentum=0.9, eps=1.0)
    assert found["profile"]["source"] == PROFILES["tf1"].source
    assert run(["explain", "--profile", "keras", "--no-lr-in-momentum", "--momentum", "0.9"]) == 0
    assert "b ← 0.9·b + g/d" in capsys.readouterr().out
    assert run(["explain", "--profile", "tf1"]) == 2
    assert "lr must be given with profile 'tf1'" in " ".join(capsys.readouterr().err.split())


def test_train_takes_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    arguments = ["train", "digits", "--epochs", "1", "--profile", "sb3", "--lr", "0.003", "--out", str(out)]
    assert run(arguments) == 1  # one epoch is too short: v still holds most of its start at 1
    config = RunDirectory(out).config()
    assert config["rule"] == dataclasses.asdict(profile("sb3", lr=0.003))
    capsys.readouterr()


def test_the_table_of_conventions_is_that_of_the_profiles() -> None:
    page = conventions.PAGE.read_text(encoding="utf-8")
    assert conventions.up_to_date(page) == page
    changed = page.replace("| 0.99 |", "| 0.9 |", 1)
    assert changed != page == conventions.up_to_date(changed)


def test_the_help_of_convert_and_its_page_name_every_kind() -> None:
    page = (ROOT / "docs" / "checkpoints.md").read_text()
    text = convert.__doc__ or ""
    stated = text[text.index("Kinds:") : text.index("Options of the rule")].replace("(read only)", "")
    assert set(re.findall(r"[\w.-]*\w", stated.removeprefix("Kinds:"))) == set(KINDS)
    assert not [name for name in KINDS if f"`{name}`" not in page]


def test_what_a_library_cannot_choose_is_what_its_profile_says() -> None:
    for name in PROFILES.keys() & KINDS.keys():
        for field, value in KINDS[name].fixed.items():
            assert value == PROFILES[name].default(field), (name, field)
