"""The summary of a search: how it ended, or what it has recorded so far."""

from __future__ import annotations

from rmsprop.environment import environment
from rmsprop.lab.runs.directory import RunDirectory
from rmsprop.lab.runs.schema import TuneConfig, TuneSummary
from rmsprop.lab.tuning import verdict
from rmsprop.lab.tuning.importances import importances
from rmsprop.lab.tuning.plan import space_to_json
from rmsprop.lab.tuning.storage import JOURNAL, open_storage
from rmsprop.lab.tuning.study import Study, begun
from rmsprop.lab.verdicts import CONFIDENCE

STUDY = "study"  # its name in the journal of its run


def summary_of(
    study: Study, config: TuneConfig, *, command: str, seconds: float, workers: int, status: str = "finished"
) -> TuneSummary:
    """Return the summary of a study from its trials."""
    candidates = verdict.judge_candidates(study)
    better = study.plan.higher_is_better
    return {
        "status": status,
        "task": config["task"],
        "metric": config["metric"],
        "metric_kind": config["metric_kind"],
        "higher_is_better": better,
        "command": command,
        "implementation": "",
        "environment": environment(),
        "trials": verdict.trial_facts(study),
        "candidates": candidates,
        "recommended": verdict.recommended(candidates, higher_is_better=better),
        "confidence": CONFIDENCE,
        "noise": study.noise(),
        "spaces": {name: space_to_json(study.space(name)) for name in study.searches},
        "widened": verdict.widened_ranges(study),
        "at_ends": verdict.ends(study),
        "importances": importances(
            study.searches["RMSprop"].trials(), study.space("RMSprop"), maximize=better, seed=study.plan.seed
        ),
        "failures": verdict.failures(study),
        "gradient_rms": study.plan.gradient_rms,
        "confirmed_on": config["confirmed_on"],
        "seconds": seconds,
        "workers": workers,
    }


def so_far(run: RunDirectory) -> TuneSummary | None:
    """Return what an unfinished search has recorded; None if its trials are in a database, or none has ended."""
    path = run.path / JOURNAL
    study = begun(open_storage(str(path)), STUDY) if path.exists() else None
    if study is None or not any(queue.ended() for queue in study.searches.values()):
        return None
    return summary_of(study, run.config(), command="", seconds=study.elapsed(), workers=0, status="unfinished")
