"""The table of hyperparameters has all fields of Rule, and its users refuse or name a field that they lack."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import cases
import jax.numpy as jnp
import numpy as np
import pytensor
import pytest
import torch

import rmsprop.explain
import rmsprop.jax
import rmsprop.pytensor
from rmsprop import InputError, Rule, init, update
from rmsprop.hyperparameters import ALIASES, EVERYWHERE, HYPERPARAMETERS, averages, names_in
from rmsprop.rule import AVERAGES
from rmsprop.torch import RMSprop

NAMES = [field.name for field in fields(Rule)]


def test_the_table_has_an_entry_for_each_field_of_rule() -> None:
    assert list(HYPERPARAMETERS) == NAMES
    assert set(EVERYWHERE) <= set(NAMES)
    for name, each in HYPERPARAMETERS.items():
        assert each.checked(getattr(Rule, name)) == getattr(Rule, name)
        assert (each.below is None) == isinstance(getattr(Rule, name), bool)


def test_rule_describes_each_field() -> None:
    described = re.findall(r"^    (\w+)\n        \S", Rule.__doc__ or "", re.MULTILINE)
    assert described == NAMES


def test_a_name_of_another_library_means_one_field() -> None:
    names = [name for each in HYPERPARAMETERS.values() for name in set(each.names.values())]
    assert len(names) == len(set(names)) == len(ALIASES)
    assert not set(names) & set(NAMES)
    assert names_in("torch", ("lr", "decay", "eps")) == {"lr": "lr", "alpha": "decay", "eps": "eps"}


@pytest.mark.parametrize("rule", cases.ALL_RULES.values(), ids=cases.ALL_RULES)
def test_the_table_says_which_averages_a_rule_keeps(rule: Rule) -> None:
    state = init(rule, np.ones(2))
    assert set(averages(rule)) == {name for name in AVERAGES if getattr(state, name) is not None}


def test_explain_has_words_for_each_field() -> None:
    assert set(rmsprop.explain.FIELDS) == set(NAMES)


# -- a variant that only NumPy has ------------------------------------------------------------------------------------


@pytest.fixture
def variant(monkeypatch: pytest.MonkeyPatch) -> type[cases.Variant]:
    """Return a subclass of Rule with the field `clip`, which the table and rule.py have."""
    monkeypatch.setitem(HYPERPARAMETERS, "clip", cases.CLIP)
    return cases.Variant


def from_torch(rule: Rule) -> object:
    return RMSprop.from_rule([torch.ones(2)], rule)


def from_jax(rule: Rule) -> object:
    return rmsprop.jax.rmsprop(rule).init(jnp.ones(2))


def from_pytensor(rule: Rule) -> object:
    weight = pytensor.shared(np.ones(2))
    return rmsprop.pytensor.updates(weight.sum(), [weight], rule)


def test_its_values_are_checked_and_it_steps_in_numpy(variant: type[cases.Variant]) -> None:
    with pytest.raises(InputError, match=r"^clip must be a number in \[0, 1\), got 2; 0 clips nothing$"):
        variant(clip=2)
    rule, p = variant(clip=0.5), np.ones(2)
    for out in (None, (p.copy(), init(rule, p))):  # the kernel lacks it: NumPy steps into out=
        assert update(rule, p, p, init(rule, p), out=out)[1].step == 1


@pytest.mark.parametrize("build", [from_torch, from_jax, from_pytensor])
def test_an_adapter_without_it_refuses_it_in_one_line(
    variant: type[cases.Variant], build: Callable[[Any], object]
) -> None:
    adapter = build.__name__.replace("from_", "rmsprop.")
    message = f"clip must be 0.0 in {adapter}, got 0.5; {adapter} lacks this variant; rmsprop.update has all"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        build(variant(clip=0.5))
    build(variant())


def test_explain_says_that_its_equations_lack_it(variant: type[cases.Variant]) -> None:
    text = variant(clip=0.5).explain()
    assert text.startswith("RMSprop with clip=0.5\n")
    assert "    (clip=0.5 changes the step, but has no equation here)\n" in text
    assert "clip" not in variant().explain()
    assert "(clip=0.5 changes the step" in variant(clip=0.5, momentum=0.9, first_moment=True).explain()
