"""The commands that check and time what is here: bench, doctor."""

from __future__ import annotations

from pathlib import Path

from rmsprop.cli.common import Failure, Flag, print_result, stderr, stdout


def bench(*cases: str, json: Flag = False) -> None:
    """Time a step here beside torch's steps and the memory limit.

    Contenders take turns; ratios are medians over pairs, with the middle half.
    All cases take about ten minutes, most of them for torch.compile, and 6 GB
    of memory.

    Try:
      rmsprop bench policy
      rmsprop bench
      rmsprop bench large rich --json

    Parameters
    ----------
    cases
        Of large, rich, many, policy (these also with -statistics: what watching costs), policy-training,
        language-training; all if left out.
    json
        Print the measurements as JSON.
    """
    from rmsprop.cli.terminal import bench_progress, show_bench
    from rmsprop.lab.bench import bench as measure

    with bench_progress(stderr) as listen:
        found = measure(cases, listen)
    print_result(json, found, lambda: show_bench(stdout, found))


def doctor(run: Path | None = None, /, *, json: Flag = False) -> None:
    """Check the installation, or what the optimizer did in a training.

    Without RUN: versions, and real steps held against the rule. With RUN,
    be it finished, interrupted or diverged: what its statistics show, with
    causes and remedies. Exit status 1 if there is anything to mend, or if the
    training diverged or learned nothing.

    Try:
      rmsprop doctor
      rmsprop doctor runs/train-digits

    Parameters
    ----------
    run
        Directory of a run of train with its statistics; the installation is checked if left out.
    json
        Print the findings as JSON.
    """
    from rmsprop.cli.terminal import show_examined, show_findings

    if run is None:
        from rmsprop.cli.doctor import examine

        findings = examine()
        print_result(json, findings, lambda: show_findings(stdout, findings))
    else:
        from rmsprop.lab.examine import examine_run
        from rmsprop.lab.runs.directory import RunDirectory

        findings = examine_run(RunDirectory(run))
        print_result(json, findings, lambda: show_examined(stdout, findings))
    if not findings["healthy"]:
        raise Failure
