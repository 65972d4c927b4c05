"""What is said about RMSprop: every verdict, the rule that changes it, and `rmsprop claims`."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rmsprop import Rule
from rmsprop.cli.app import run
from rmsprop.errors import InputError
from rmsprop.lab import comparison
from rmsprop.lab.claims import (
    CLAIMS,
    Bound,
    Claim,
    Number,
    Result,
    Source,
    TrainingClaim,
    check_can_fail,
    fast_claims,
    find_claims,
    near,
    run_claim,
    run_claims,
    session,
    stored,
    stored_results,
)  # fmt: skip
from rmsprop.lab.claims.counterexamples import threshold
from rmsprop.lab.claims.result import run_changed
from rmsprop.lab.runs.interrupts import Interrupted

STORED = stored_results()
FAST = [claim.name for claim in fast_claims()]
TRAINED = [claim.name for claim in CLAIMS.values() if isinstance(claim, TrainingClaim)]
OWN = """
import numpy as np
from rmsprop import Rule
from rmsprop.lab.claims import Bound, Claim, Source
from rmsprop.rule import init, update

def measure(rule, seeds):
    zero = np.zeros(len(seeds))
    after, _ = update(rule, zero, zero + 2.0, init(rule, zero))
    return {"step / η": MEASURED}

claim = Claim(name="mine", sentence="The first step is long.", source=Source("me", "here"), expected="It is.",
              rule=Rule(lr=0.1), measure=measure, says=(Bound("step / η", low=9.0),))
"""


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def own_file(measured: str = "np.abs(after) / rule.lr") -> str:
    Path("mine.py").write_text(OWN.replace("MEASURED", measured))
    return "mine.py"


def of(name: str) -> Claim:
    claim = CLAIMS[name]
    assert isinstance(claim, Claim)
    return claim


# -- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAST)
def test_other_seeds_give_the_stored_verdict_and_a_changed_rule_another_one(name: str) -> None:
    claim = of(name)
    assert run_claim(claim, seed=2000).verdict == STORED[name].verdict
    assert claim.changed
    assert run_changed(claim, seed=2000).verdict != STORED[name].verdict


@pytest.mark.parametrize("name", TRAINED)
def test_verdicts_on_trainings_are_those_of_the_stored_comparisons(name: str) -> None:
    claim = CLAIMS[name]
    assert isinstance(claim, TrainingClaim)
    comparisons = stored.stored()["comparisons"]
    assert stored.from_comparisons(claim, comparisons).verdict == STORED[name].verdict
    others = [{key: change(each) for key, each in comparisons.items()} for change in (mirrored, won)]
    verdicts = {stored.from_comparisons(claim, other).verdict for other in others}
    assert verdicts != {STORED[name].verdict}


def mirrored(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a comparison in which RMSprop and the other optimizer have exchanged their scores; rates are tenfold."""

    def exchanged(score: Any) -> Any:
        if not score["interval"]:
            return {**score, "lr": 10 * score["lr"]}
        low, high = score["interval"]
        return {**score, "difference": -score["difference"], "interval": [-high, -low]}

    whole = {"all_switches": exchanged(facts["all_switches"])} if "all_switches" in facts else {}
    return {**facts, "scores": [exchanged(score) for score in facts["scores"]], **whole}


def won(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a comparison in which RMSprop is clearly better than each other optimizer."""
    sign = -1 if facts["higher_is_better"] else 1
    lost = {"difference": sign * 0.1, "interval": sorted((sign * 0.05, sign * 0.15))}
    return {**facts, "scores": [{**score, **(lost if score["interval"] else {})} for score in facts["scores"]]}


def test_every_claim_has_a_result_that_its_numbers_give() -> None:
    assert list(STORED) == list(CLAIMS)
    for name, result in STORED.items():
        assert CLAIMS[name].judge(result.numbers) == result.verdict
        assert result.verdict
    undecided = [name for name, result in STORED.items() if result.verdict == "undecided at this budget"]
    assert undecided == ["reinforcement-learning"]  # by five seeds
    assert set(stored.stored()["captions"]) == {name for name in FAST if of(name).picture}


def test_source_of_each_claim_is_a_title_and_a_place() -> None:
    assert all(claim.source.title and claim.source.where for claim in CLAIMS.values())
    assert Source("a", "b") == ("a", "b")


def test_thresholds_are_those_that_were_found_by_hand() -> None:
    known = {3: 0.472313, 4: 0.700635, 8: 0.929017, 16: 0.983188, 32: 0.995938, 100: 0.999595}
    assert {size: round(threshold(size), 6) for size in known} == known


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (Number(0.5, 0.4, 0.6), "holds"),
        (Number(1.5, 1.4, 1.6), "fails"),
        (Number(1.0, 0.9, 1.1), "open"),
        (Number(np.nan, np.nan, np.nan), "open"),
    ],
)
def test_a_bound_holds_or_fails_for_a_whole_interval(number: Number, status: str) -> None:
    assert Bound("x", 0, 1).status(number) == status


def test_a_verdict_follows_from_bounds_and_condition() -> None:
    claim = dataclasses.replace(
        of("two-cycle"), says=(near("x", 0, 1),), only_if="y is small", where=(near("y", 0, 1),)
    )
    small, large, open_ = Number(0, 0, 0), Number(5, 5, 5), Number(1, 0.5, 1.5)
    verdicts = {
        (small, large): "true",
        (large, small): "true only if y is small",
        (large, large): "false",
        (large, open_): "undecided at this budget",
        (open_, small): "undecided at this budget",
    }
    assert {(x, y): claim.judge({"x": x, "y": y}) for x, y in verdicts} == verdicts


def test_a_claim_on_trainings_is_undecided_where_no_interval_decides() -> None:
    claim = CLAIMS["recurrent-networks"]
    assert isinstance(claim, TrainingClaim)
    open_, worse, better = Number(0, -1, 1), Number(-2, -3, -1), Number(2, 1, 3)
    names = [bound.number for bound in claim.says]
    assert claim.judge(dict.fromkeys(names, open_)) == "undecided at this budget"
    assert claim.judge(dict.fromkeys(names, worse)) == "true"
    assert claim.judge(dict.fromkeys(names, open_) | {names[0]: better}) == "false"


def test_an_interval_is_students_and_the_range_where_a_value_is_not_finite() -> None:
    assert Number.over([1.0, 2.0, 3.0], 3) == pytest.approx(
        (2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rel=1e-6
    )
    assert Number.over([1.0, np.inf, 3.0], 3) == (3.0, 1.0, np.inf)
    assert np.isnan(Number.over([1.0, np.nan], 2)).all()


# -- claims of one's own ----------------------------------------------------------------------------------------------


def test_a_claim_of_ones_own_runs_and_is_refused_if_no_rule_moves_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["claims", own_file()]) == 0
    assert "mine: true\n" in capsys.readouterr().out
    assert run(["claims", own_file("9.5")]) == 2
    assert capsys.readouterr().err == (
        "rmsprop: claim mine must be numbers that another rule changes, got the same numbers; let measure use the rule "
        "it receives\n"
    )


def test_a_claim_without_a_file_can_be_run_and_resumed(tmp_path: Path) -> None:
    measure = functools.partial(of("first-step").measure)
    claim = dataclasses.replace(of("first-step"), measure=measure, group="own")
    for resume in (False, True):
        assert run_claims([claim], out=tmp_path / "run", resume=resume)[0].verdict == "true"


def test_a_change_that_changes_nothing_is_refused() -> None:
    claim = dataclasses.replace(of("first-step"), changed={"amsgrad": True})
    with pytest.raises(InputError, match="numbers that changed="):
        check_can_fail(claim, run_claim(claim))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "the file of claims mine.py must be one that defines a rmsprop.lab.claims.Claim, got none"),
        ("x = ", "the file of claims mine.py must be one that Python can import, got SyntaxError"),
        (
            OWN.replace("MEASURED", "1") + "two = dataclasses.replace(claim)".join(["import dataclasses\n", "\n"]),
            "twice",
        ),
        (OWN.replace("MEASURED", "1 / 0"), "measure of claim mine must be one that runs"),
        (OWN.replace("MEASURED", "1").replace('{"step / η"', '{"way"'), "those of its bounds: 'step / η', got 'way'"),
        (OWN.replace("says=", 'only_if="x", says='), "only_if and where of claim mine must be given together"),
        (
            OWN.replace("MEASURED", "1").replace("says=", 'changed={"alpha": 0.9}, says='),
            "changed of claim mine must be fields of Rule, got 'alpha'",
        ),
        (OWN.replace("says=(Bound", "seeds=1, says=(Bound"), "seeds of claim mine must be 2 or more, got 1"),
        (OWN.replace('(Bound("step / η", low=9.0),)', "()"), "says of claim mine must be one Bound or more"),
    ],
)
def test_a_file_that_cannot_be_used_gives_one_line(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(text)
    assert run(["claims", "mine.py"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_list_has_every_claim_and_fits_a_narrow_window(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["claims"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) < 80
    assert all(any(line.startswith(f"  {name}: ") for line in lines) for name in CLAIMS)
    number = stored.counts([result.verdict for result in STORED.values()])
    assert lines[-2] == f"{len(CLAIMS)} claims: {', '.join(f'{count} {kind}' for kind, count in number.items())}."


def test_a_claim_is_printed_with_the_numbers_that_decide_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["claims", "first-step"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("first-step: true\n  The first step has the length")
    assert "- first step / η: 10; said = 10: holds" in out
    assert not Path("runs").exists()


def test_json_has_claim_numbers_and_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["claims", "gradient-scale", "--json", "--seed", "7"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)["claims"]
    assert facts["verdict"] == STORED["gradient-scale"].verdict
    assert facts["seeds"] == [7, 8, 9, 10, 11]
    assert [bound["status"] for bound in facts["bounds"]] == ["holds", "fails"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["twocycle"], "got 'twocycle'; did you mean two-cycle?"),
        (["?"], "got '?'; see rmsprop claims"),
        (["--group", "nois"], "--group must be one of arithmetic, convergence, noise, comparisons, engineering"),
        (["first-step", "--fast"], "the claims to run must be chosen in one way, got 'NAMES and --fast'"),
        (["--check"], "--check must be given with claims to run"),
        (["--seed", "3"], "--seed must be given with claims to run, got 3"),
        (["--out", "here"], "--out must be given with claims to run, got 'here'"),
        (["first-step", "--seed", "-1"], "--seed must be an integer >= 0, got -1"),
        (["first-step", "--jobs", "2"], "--jobs must be omitted without claims that train, got 2"),
        (["first-step", "--resume", "--out", "here"], "--resume must be given for a run that was begun, got here"),
        (
            ["first-step", "--report", "nowhere/all.html"],
            "--report must be a file in an existing directory, got 'nowhere",
        ),
        (["nothing.py"], "the file of claims must be a readable Python file, got nothing.py: No such file"),
    ],
)
def test_bad_input_gives_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["claims", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_check_compares_with_the_stored_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["claims", "--check", "first-step", "adam-better"]) == 0
    assert "No verdict differs from the stored ones." in capsys.readouterr().out
    other = {**STORED, "first-step": dataclasses.replace(STORED["first-step"], verdict="false")}
    monkeypatch.setattr(stored, "stored_results", lambda: other)
    assert run(["claims", "--check", "first-step"]) == 1
    out = capsys.readouterr().out
    assert "DIFFERS from the stored verdict: false" in out
    assert "1 verdict differs from the stored ones." in out
    assert run(["claims", "--check", own_file()]) == 2
    assert "--check must be given with claims of the list, got 'mine'" in capsys.readouterr().err


def test_a_report_has_verdicts_numbers_and_pictures() -> None:
    assert run(["claims", "decay-threshold", "window", "--report", "claims.html", "--out", "here"]) == 0
    text = Path("claims.html").read_text()
    assert "2 claims: 1 true, 1 false." in text
    assert "weight of the last 1/(1−β) gradients" in text
    assert text.count("data:image/svg+xml") == 1
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def noted(claim: Claim, *, seed: int) -> Result:
        ran.append(claim.name)
        return run_claim(claim, seed=seed)

    def stop(_claim: Any, result: Result | None) -> None:
        if result is not None:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(session, "run_claim", noted)
    chosen, out = find_claims(["first-step", "half-life"]), tmp_path / "run"
    with pytest.raises(Interrupted, match="interrupted after 1 of 2 claims"):
        run_claims(chosen, out=out, listen=stop)
    with pytest.raises(InputError, match="choose another --out, or add --resume"):
        run_claims(chosen, out=out)
    results = run_claims(chosen, out=out, resume=True)
    assert ran == ["first-step", "half-life"]
    assert [result.verdict for result in results] == ["true", "true"]
    run_claims(chosen, out=out, resume=True, seed=5)  # other seeds are another run
    assert ran == ["first-step", "half-life"] * 2
    (out / "results.json").write_text("{")
    with pytest.raises(InputError, match="results to resume must be a file that rmsprop claims wrote"):
        run_claims(chosen, out=out, resume=True)


def test_an_interrupted_command_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Result:
        os.kill(os.getpid(), signal.SIGINT)
        return STORED["first-step"]

    with monkeypatch.context() as context:  # not undo(), which leaves the test's directory
        context.setattr(session, "run_claim", interrupted)
        assert run(["claims", "first-step", "half-life"]) == 130
    assert capsys.readouterr().err == (
        "rmsprop: interrupted after 1 of 2 claims; go on with: rmsprop claims first-step half-life --resume\n"
    )
    assert run(["claims", "first-step", "half-life", "--resume"]) == 0


def test_a_claim_on_trainings_compares_on_each_task_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(task: str, _rule: Rule, options: Any, *, listen: Any) -> None:
        compared.append(task)
        listen("tuning", 1, 1, None)
        facts = stored.stored()["comparisons"][task]
        options.out.mkdir(parents=True)
        (options.out / "run.json").write_text(json.dumps({"seeds": 10}))
        (options.out / "summary.json").write_text(json.dumps(facts))

    monkeypatch.setattr(comparison, "compare", compare)
    monkeypatch.setattr("rmsprop.lab.find_task.load_task", lambda spec: SimpleNamespace(name=spec))
    monkeypatch.setattr(session, "RunDirectory", Directory)
    chosen = find_claims(["recurrent-networks", "sparse-data", "adam-better"])
    results = run_claims(chosen, out=tmp_path / "run")
    assert [result.verdict for result in results] == [STORED[claim.name].verdict for claim in chosen]
    assert sorted(compared) == ["digits", "letters", "mnist", "movies", "shakespeare", "vowels"]
    with pytest.raises(InputError, match="out must be a directory for claims on trainings"):
        run_claims(chosen)


def test_a_missing_package_is_named_before_the_first_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(spec: str) -> None:
        raise ModuleNotFoundError(f"task {spec} needs bokeh-sampledata: pip install 'rmsprop[sparse]'")

    monkeypatch.setattr("rmsprop.lab.find_task.load_task", missing)
    assert run(["claims", "sparse-data"]) == 1
    message = "rmsprop: task movies needs bokeh-sampledata: pip install 'rmsprop[sparse]'\n"
    assert capsys.readouterr().err == message


class Directory:
    """Reads what `compare` above has written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def config(self) -> Any:
        return json.loads((self.path / "run.json").read_text())

    def summary(self) -> Any:
        return json.loads((self.path / "summary.json").read_text())
