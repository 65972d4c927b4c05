"""Run several claims: keep each result at once, resume, and train where a claim needs it."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import rmsprop.rule
from rmsprop.errors import InputError, Received, require
from rmsprop.files import finite, write_atomically
from rmsprop.lab.claims.catalogue import AnyClaim
from rmsprop.lab.claims.claim import Claim
from rmsprop.lab.claims.result import Result, check_can_fail, run_claim
from rmsprop.lab.claims.stored import budget, comparison_key
from rmsprop.lab.claims.trainings import TrainingClaim
from rmsprop.lab.runs.directory import CONFIG, SUMMARY, RunDirectory
from rmsprop.lab.runs.interrupts import Interrupted, stop_signals
from rmsprop.lab.runs.lock import locked
from rmsprop.rule import Rule

RESULTS = "results.json"
Listener: TypeAlias = Callable[[AnyClaim, Result | None], None]  # None: the claim starts
TrainingListener: TypeAlias = Callable[[str, int, int, Any], None]


def run_claims(
    claims: Sequence[AnyClaim],
    *,
    seed: int = 0,
    out: Path | None = None,
    resume: bool = False,
    jobs: int | None = None,
    listen: Listener = lambda _claim, _result: None,
    listen_to_trainings: TrainingListener = lambda _stage, _done, _total, _row: None,
) -> list[Result]:
    """Run claims one after the other, and return their results.

    Parameters
    ----------
    claims
        From `CLAIMS`, or of one's own. Those of one's own are refused if no change of the rule changes a number.
    seed
        The first seed of each claim. Trainings have seeds of their own.
    out
        Directory for results.json, which is written after each claim, and for the trainings. Claims on trainings need
        it.
    resume
        Skip claims that `out` has results of, with the same seed and code.
    jobs
        Number of trainings at a time.
    listen
        Called with each claim before it runs, and with its result.
    listen_to_trainings
        Called with the progress of a comparison: stage, trainings done, their total, newest row.

    Raises
    ------
    InputError
        If an argument is out of range or changes nothing, a claim cannot run or cannot fail, or `out` has results.
    Interrupted
        After Ctrl-C or SIGTERM, at the end of the claim that is running.
    """
    trains = any(isinstance(claim, TrainingClaim) for claim in claims)
    require(seed >= 0, "--seed", "an integer >= 0", seed, "0 is the default")
    require(jobs is None or trains, "--jobs", "omitted without claims that train", jobs, "omit it")
    begun = out is not None and out.is_dir()
    found = Received("none" if out is None else f"{out}, where there is none")
    require(begun or not resume, "--resume", "given for a run that was begun", found, "omit --resume")
    session = _Session(seed, out, resume, jobs, listen, listen_to_trainings)
    if out is None:
        if trains:
            raise InputError("out", "a directory for claims on trainings", None, "pass one")
        return [session.run(claim) for claim in claims]
    path = out / RESULTS
    if path.exists() and not resume:
        found = Received(f"{out}, which has results")
        raise InputError("--out", "a new or empty directory", found, "choose another --out, or add --resume")
    with locked(out), stop_signals() as signals:
        kept = _kept(path)
        results = []
        for done, claim in enumerate(claims):
            if signals:
                raise Interrupted(f"interrupted after {done} of {len(claims)} claims")
            key = {"seed": seed, "code": _code(claim)}
            if claim.name in kept and kept[claim.name]["key"] == key:
                results.append(Result.of(kept[claim.name]["result"]))
                listen(claim, results[-1])
            else:
                results.append(session.run(claim))
                kept[claim.name] = {"key": key, "result": results[-1].facts()}
                write_atomically(path, json.dumps(finite(kept), indent=1) + "\n")
        return results


def _kept(path: Path) -> dict[str, Any]:
    """Return the results that a run has written, or none."""
    if not path.exists():
        return {}
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        found = Received(f"{path}: {error}")
        raise InputError("results to resume", "a file that rmsprop claims wrote", found, "remove the file") from None
    return kept


@dataclass(frozen=True)
class _Session:
    """The arguments of `run_claims`."""

    seed: int
    out: Path | None
    resume: bool
    jobs: int | None
    listen: Listener
    listen_to_trainings: TrainingListener

    def run(self, claim: AnyClaim) -> Result:
        """Run one claim, and check that one of the user's own can fail."""
        self.listen(claim, None)
        if isinstance(claim, TrainingClaim):
            result = self._train(claim)
        else:
            result = run_claim(claim, seed=self.seed)
            if claim.group == "own":
                check_can_fail(claim, result)
        self.listen(claim, result)
        return result

    def _train(self, claim: TrainingClaim) -> Result:
        """Compare on the tasks of a claim, in directories that other claims of the same run share."""
        from rmsprop.lab.comparison import compare  # brings the workers, which other claims do without
        from rmsprop.lab.find_task import load_task
        from rmsprop.lab_options import CompareOptions

        assert self.out is not None  # noqa: S101
        paths = {task: self.out / comparison_key(task, claim.ablate).replace(" --", "-") for task in claim.tasks}
        missing = [task for task, path in paths.items() if not (path / SUMMARY).exists()]
        for task in missing:  # before the first training: a package may be missing
            load_task(task)
        for task in missing:
            begun = self.resume and (paths[task] / CONFIG).exists()
            options = CompareOptions(
                ablate=claim.ablate, jobs=self.jobs, out=paths[task], resume=begun, **budget(task, claim.ablate)
            )
            compare(task, Rule(), options, listen=self.listen_to_trainings)
        runs = {task: RunDirectory(path) for task, path in paths.items()}
        summaries: dict[str, Any] = {task: run.summary() for task, run in runs.items()}
        numbers = claim.numbers(summaries)
        seconds = sum(summary["seconds"] for summary in summaries.values())
        seeds = min(run.config()["seeds"] for run in runs.values())
        return Result(claim.name, claim.judge(numbers), numbers, tuple(range(seeds)), seconds)


def _code(claim: AnyClaim) -> str:
    """Return a hash of the rule, and of the file and the bounds of a claim."""
    texts = [Path(rmsprop.rule.__file__).read_text(encoding="utf-8"), repr(claim.bounds)]
    if isinstance(claim, Claim):
        file = getattr(inspect.getmodule(claim.measure), "__file__", None)
        texts += [repr(claim.rule), Path(file).read_text(encoding="utf-8") if file else ""]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
