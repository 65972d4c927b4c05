"""From RMSprop to Adam, one switch at a time: the rules, their comparison, and how its result is shown."""

from __future__ import annotations

import dataclasses
import io
import itertools
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_compare import MINE, Canned

from rmsprop import InputError, Rule, profile
from rmsprop.cli.compare import show_comparison
from rmsprop.lab import comparison as compare_module
from rmsprop.lab.ablation import ablation
from rmsprop.lab.comparison import compare
from rmsprop.lab.report.page import write_report
from rmsprop.lab.runs.trial import OTHERS, Trial
from rmsprop.lab_options import OPTIMIZERS
from rmsprop.profiles import PROFILES

KEPT = ("lr", "weight_decay", "decoupled_weight_decay", "maximize")  # fields that no switch changes


@pytest.mark.parametrize("name", [name for name in PROFILES if name not in ("adam", "adamw")])
def test_each_rule_has_one_switch_more_and_the_last_is_adam(name: str) -> None:
    rule = profile(name, lr=0.02, weight_decay=0.1)
    rules = list(ablation(rule).values())
    kept = {field: getattr(rule, field) for field in KEPT}
    assert rules[0] == rule
    assert rules[-1] == profile("adam", **kept)
    changed = [
        {f.name for f in dataclasses.fields(Rule) if getattr(a, f.name) != getattr(b, f.name)}
        for a, b in itertools.pairwise(rules)
    ]
    assert all(changed)
    assert sum(map(len, changed)) == len(set().union(*changed))  # no field is switched twice
    together = [{"eps", "eps_inside_sqrt"}, {"first_moment", "lr_in_momentum"}, {"nesterov", "momentum_decay"}]
    assert all(len(fields) == 1 or fields in together for fields in changed)


def test_adam_itself_has_no_switch() -> None:
    with pytest.raises(InputError, match="--ablate must be given with a rule that differs from Adam, got Adam's"):
        ablation(profile("adam", lr=0.5, weight_decay=0.1))


def test_every_optimizer_is_torchs_but_for_rmsprop() -> None:
    assert set(OPTIMIZERS) == {"RMSprop", *OTHERS}  # another name would be trained as a rule of RMSprop


def canned_ablation(monkeypatch: pytest.MonkeyPatch, out: Path, **options: Any) -> tuple[Canned, Any, Any]:
    """Compare rules whose metric is known: an error that momentum lowers and bias correction raises."""

    def metric(trial: Trial) -> float:
        return 0.5 - 0.1 * (trial.rule.momentum > 0) + 0.2 * trial.rule.bias_correction + 0.01 * (trial.seed % 3)

    canned = Canned(metric)
    monkeypatch.setattr(compare_module, "Workers", canned)
    rates = (0.01, 0.03, 0.1)
    run, summary = compare(
        f"{MINE}:regression", learning_rates=rates, tuning_seeds=1, seeds=5, ablate=True, out=out, **options
    )
    return canned, run, summary


def test_what_each_switch_brings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    canned, run, summary = canned_ablation(monkeypatch, tmp_path / "run")
    names = list(ablation(Rule()))
    assert run.config()["optimizers"] == names
    assert [s["optimizer"] for s in summary["scores"]] == names  # in the order of the switches
    assert [s["verdict"] for s in summary["scores"]] == ["", "better", "no difference", "worse", "no difference"]
    differences = [s["difference"] for s in summary["scores"][1:]]
    assert differences == pytest.approx([-0.1, 0.0, 0.2, 0.0])
    assert summary["all_switches"]["difference"] == pytest.approx(0.1)
    assert summary["all_switches"]["verdict"] == "worse"
    rates = {t.lr for t in canned.trials if t.optimizer == "+ bias correction" and t.stage == "tune"}
    assert len(rates) >= 3  # each rule is tuned
    console = Console(file=io.StringIO(), width=80, color_system=None)
    show_comparison(console, run, None)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    rows = [line for line in shown.splitlines() if line.startswith("+")]
    assert len(rows) == 4  # no line is folded at 80 columns
    text = " ".join(shown.split())
    assert "Better with: + momentum 0.9 (-0.1 [-0.1, -0.1])." in text
    assert "From RMSprop to Adam, all switches together: worse (+0.1 [+0.1, +0.1])." in text
    page = write_report(run).read_text(encoding="utf-8")
    assert "From RMSprop to Adam on" in page
    assert "+ momentum before division" in page


def test_an_ablation_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, _, first = canned_ablation(monkeypatch, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    canned, _, again = canned_ablation(monkeypatch, tmp_path / "run", resume=True)
    assert canned.trials == []
    assert again["scores"] == first["scores"]
    with pytest.raises(InputError, match="must be the one asked for"):
        compare(f"{MINE}:regression", learning_rates=(0.01, 0.03, 0.1), tuning_seeds=1, seeds=5, out=tmp_path / "run")


def test_the_optimizers_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    canned = Canned(lambda trial: 0.5 + 0.1 * (trial.optimizer == "AdamW") + 0.01 * trial.seed)
    monkeypatch.setattr(compare_module, "Workers", canned)
    options: Any = {"learning_rates": (0.01, 0.03, 0.1), "tuning_seeds": 1, "seeds": 5}
    _, summary = compare(f"{MINE}:regression", optimizers=("AdamW", "SGD"), out=tmp_path / "run", **options)
    assert {s["optimizer"] for s in summary["scores"]} == {"RMSprop", "SGD", "AdamW"}
    with pytest.raises(InputError, match="got 'adamv'; did you mean Adam"):
        compare(f"{MINE}:regression", optimizers=("adamv",), **options)
    with pytest.raises(InputError, match="--optimizers must be at least one beside RMSprop"):
        compare(f"{MINE}:regression", optimizers=("RMSprop",), **options)
    with pytest.raises(InputError, match="--optimizers must be omitted with --ablate"):
        compare(f"{MINE}:regression", optimizers=("Adam",), ablate=True, **options)
