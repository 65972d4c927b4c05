"""`rmsprop claims`: what is said about RMSprop, run and judged."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from rmsprop.cli.common import Failure, Flag, Invoked, lab_run, print_result
from rmsprop.cli.terminal import Bars, stderr, stdout
from rmsprop.errors import InputError, require

if TYPE_CHECKING:
    from rmsprop.lab.claims.catalogue import AnyClaim
    from rmsprop.lab.claims.result import Result

_WIDTH = 79
_CHECK_SEED = 1000


def claims(
    *names: str,
    group: str | None = None,
    fast: Flag = False,
    all_claims: Annotated[bool, Parameter(name="--all", negative="")] = False,
    check: Flag = False,
    seed: int | None = None,
    out: Path | None = None,
    resume: Flag = False,
    jobs: int | None = None,
    report: Path | None = None,
    json: Flag = False,
    invocation: Invoked,
) -> None:
    """List sentences about RMSprop with their verdicts, or run them.

    Without NAMES and options: list the stored verdicts. With them: measure
    the numbers of each claim over seeds and judge it. A claim on trainings
    takes minutes or hours; the others take seconds.

    Try:
      rmsprop claims
      rmsprop claims two-cycle first-step
      rmsprop claims --fast --report claims.html
      rmsprop claims --check adam-better
      rmsprop claims my_claims.py

    Parameters
    ----------
    names
        Claims of the list, or Python files that define claims.
    group
        Run the claims of a group: arithmetic, convergence, noise, comparisons, engineering.
    fast
        Run all claims that need no training, less than two minutes together.
    all_claims
        Run all claims, those on trainings included: hours.
    check
        Compare each verdict with the stored one; exit status 1 if one differs. Other seeds are used. Claims on
        trainings are judged anew by the stored comparisons.
    seed
        First seed of each claim; 0 if omitted, with --check 1000.
    out
        Directory for results and trainings. If omitted: runs/claims-NAME, numbered, or none for a claim of seconds.
    resume
        Go on with the run in --out, or with the last one; give the same options.
    jobs
        Number of trainings at a time; one per core if omitted.
    report
        HTML file to write, with pictures.
    json
        Print claims, numbers and verdicts as JSON.
    """
    from rmsprop.lab.claims.stored import stored_results

    if report is not None:  # before claims that may run for hours
        good = report.parent.is_dir() and not report.is_dir()
        require(good, "--report", "a file in an existing directory", str(report), "create its directory")
    chosen = _chosen(names, group, fast=fast, all_claims=all_claims)
    if chosen is None:
        options = {"--check": check or None, "--resume": resume or None, "--seed": seed, "--out": out and str(out),
                   "--jobs": jobs}  # fmt: skip
        for option, value in options.items():
            remedy = "name them, or add --group, --fast or --all"
            require(value is None, option, "given with claims to run", value, remedy)
        pairs = _with_results(stored_results())
    else:
        label = group or ("fast" if fast else "all" if all_claims else Path(names[0]).stem)
        pairs = _run(
            chosen,
            check=check,
            seed=seed,
            out=out,
            label=label,
            resume=resume,
            jobs=jobs,
            quiet=json,
            invocation=invocation,
        )
    if report is not None:
        _write_report(report, pairs, invocation.command_line(), stored=chosen is None)
    before = stored_results() if check else {}
    facts = {"claims": [_facts(claim, result, before) for claim, result in pairs], "report": report and str(report)}

    def show() -> None:
        if chosen is None:
            show_list(stdout, pairs)
        else:
            show_results(stdout, pairs, before)
        if report is not None:
            stdout.print(f"\nreport: {report}", markup=False)

    print_result(json, facts, show)
    if any(_differs(result, before) for _, result in pairs):
        raise Failure


def _chosen(names: tuple[str, ...], group: str | None, *, fast: bool, all_claims: bool) -> list[AnyClaim] | None:
    """Return the claims to run; None to list the stored ones."""
    from rmsprop.lab.claims.catalogue import CLAIMS, claims_of, fast_claims, find_claims
    from rmsprop.lab.claims.own_file import claims_in

    ways = {"NAMES": bool(names), "--group": group is not None, "--fast": fast, "--all": all_claims}
    given = [way for way, is_given in ways.items() if is_given]
    if len(given) > 1:
        raise InputError("the claims to run", "chosen in one way", " and ".join(given), f"leave out {given[1]}")
    if names:
        found: list[AnyClaim] = []
        for name in dict.fromkeys(names):
            found += claims_in(Path(name)) if name.endswith(".py") else find_claims([name])
        return found
    if group is not None:
        return claims_of(group)
    if fast or all_claims:
        return fast_claims() if fast else list(CLAIMS.values())
    return None


def _run(
    chosen: Sequence[AnyClaim],
    *,
    check: bool,
    seed: int | None,
    out: Path | None,
    label: str,
    resume: bool,
    jobs: int | None,
    quiet: bool,
    invocation: Invoked,
) -> list[tuple[AnyClaim, Result]]:
    from rmsprop.lab.claims.catalogue import CLAIMS
    from rmsprop.lab.claims.session import run_claims
    from rmsprop.lab.claims.stored import from_comparisons, stored
    from rmsprop.lab.claims.trainings import TrainingClaim
    from rmsprop.lab.runs.directory import new_path

    by_name: dict[str, Result] = {}
    live = list(chosen)
    if check:
        foreign = [claim.name for claim in chosen if claim.name not in CLAIMS]
        if foreign:
            raise InputError("--check", "given with claims of the list", foreign[0], "it has no stored verdict")
        judged = [claim for claim in chosen if isinstance(claim, TrainingClaim)]
        by_name = {claim.name: from_comparisons(claim, stored()["comparisons"]) for claim in judged}
        live = [claim for claim in chosen if claim.name not in by_name]
        seed = _CHECK_SEED if seed is None else seed
    trains = any(isinstance(claim, TrainingClaim) for claim in live)
    if out is None and (len(live) > 1 or trains or resume):
        out = new_path("claims", label, resume=resume)

    with lab_run(quiet, invocation if out is not None else None), ClaimsProgress(stderr, len(live), trains) as progress:
        results = run_claims(
            live,
            seed=seed or 0,
            out=out,
            resume=resume,
            jobs=jobs,
            listen=progress.listen,
            listen_to_trainings=progress.on_training,
        )
    by_name |= {result.name: result for result in results}
    return [(claim, by_name[claim.name]) for claim in chosen]


class ClaimsProgress(Bars):
    """Show the progress of a run: bars on a terminal; elsewhere a line for each quarter of a comparison."""

    def __init__(self, console: Console, total: int, trains: bool) -> None:
        super().__init__(console)
        self._total, self._done = total, 0
        self._claims = self.add_bar("claims", total)
        self._trainings = self.add_bar("trainings") if trains else None

    def listen(self, claim: AnyClaim, result: Result | None) -> None:
        """Show the claim that runs, and the number of those that have run."""
        self._done += result is not None
        self.update(self._claims, completed=self._done, total=self._total, news=claim.name)

    def on_training(self, stage: str, done: int, total: int, _row: object) -> None:
        """Show the trainings done in a stage of a comparison."""
        if self._trainings is not None:
            self.update(self._trainings, completed=done, total=total, news=stage)
        if not self.console.is_terminal and (done % max(1, total // 4) == 0 or done == total):
            self.console.print(f"{stage}: {done} of {total} trainings", markup=False)


def _with_results(results: Mapping[str, Result]) -> list[tuple[AnyClaim, Result]]:
    from rmsprop.lab.claims.catalogue import CLAIMS

    return [(claim, results[name]) for name, claim in CLAIMS.items() if name in results]


def _differs(result: Result, before: Mapping[str, Result]) -> bool:
    return result.name in before and before[result.name].verdict != result.verdict


def _facts(claim: AnyClaim, result: Result, before: Mapping[str, Result]) -> dict[str, Any]:
    """Return a claim and its result for JSON."""
    bounds = [
        {**bound._asdict(), "status": bound.status(result.numbers[bound.number]), "condition": bound not in claim.says}
        for bound in claim.bounds
    ]
    texts = {name: getattr(claim, name) for name in ("group", "sentence", "expected", "notes")}
    source = claim.source._asdict()
    stored = {"stored_verdict": before[claim.name].verdict} if claim.name in before else {}
    return {**result.facts(), **texts, "source": source, "bounds": bounds, **stored}


def _write_report(path: Path, pairs: Sequence[tuple[AnyClaim, Result]], command: str, *, stored: bool) -> None:
    from rmsprop.lab.claims.stored import stored as stored_file
    from rmsprop.lab.report.claims import claims_content
    from rmsprop.lab.report.page import write_page
    from rmsprop.rule import __doc__ as equations

    facts = stored_file()
    when = f"Stored results of {facts['date']}, {facts['environment']}." if stored else "Measured by the command below."
    write_page(claims_content(pairs, command=command, when=when, equations=equations or ""), path)


def show_list(console: Console, pairs: Sequence[tuple[AnyClaim, Result]]) -> None:
    """Print claims with their stored verdicts by group, for a window of 80 columns."""
    from rmsprop.lab.claims.sentences import seconds_words
    from rmsprop.lab.claims.stored import counts

    group = ""
    for claim, result in pairs:
        if claim.group != group:
            console.print(f"{'' if not group else chr(10)}{claim.group}", style="bold", markup=False)
            group = claim.group
        _print_wrapped(console, f"{claim.name}: {result.verdict} ({seconds_words(result.seconds)})", "  ")
        _print_wrapped(console, claim.sentence, "    ", style="dim")
    parts = [f"{count} {kind}" for kind, count in counts([result.verdict for _, result in pairs]).items()]
    console.print(f"\n{len(pairs)} claims: {', '.join(parts)}.", markup=False)
    console.print("rmsprop claims NAME runs one; --fast all that need no training.", markup=False)


def show_results(console: Console, pairs: Sequence[tuple[AnyClaim, Result]], before: Mapping[str, Result]) -> None:
    """Print verdicts with the numbers that decide them."""
    from rmsprop.lab.claims.sentences import bound_words, measured_words, seconds_words
    from rmsprop.lab.claims.stored import counts

    for claim, result in pairs:
        _print_wrapped(console, f"{claim.name}: {result.verdict}", "", style="bold")
        if _differs(result, before):
            _print_wrapped(console, f"DIFFERS from the stored verdict: {before[result.name].verdict}", "  ")
        _print_wrapped(console, claim.sentence, "  ")
        _print_wrapped(console, f"Source: {claim.source.title}, {claim.source.where}.", "  ", style="dim")
        _print_wrapped(console, claim.expected, "  ", style="dim")
        for bound in claim.bounds:
            measured = result.numbers[bound.number]
            line = f"{bound.number}: {measured_words(measured)}; said {bound_words(bound)}: {bound.status(measured)}"
            _print_wrapped(console, line, "  - ")
        console.print(f"  ({len(result.seeds)} seeds, {seconds_words(result.seconds)})\n", style="dim", markup=False)
    parts = [f"{n} {kind}" for kind, n in counts([result.verdict for _, result in pairs]).items() if n]
    console.print(f"{len(pairs)} claim{'' if len(pairs) == 1 else 's'}: {', '.join(parts)}.", markup=False)
    if before:
        different = sum(_differs(result, before) for _, result in pairs)
        console.print(f"{different or 'No'} verdict{'s' if different > 1 else ''} differ{'s' if different < 2 else ''} "
                      "from the stored ones.", markup=False)  # fmt: skip


def _print_wrapped(console: Console, text: str, indent: str, style: str | None = None) -> None:
    after = " " * len(indent)
    for line in textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=after, break_long_words=False,
                              break_on_hyphens=False):  # fmt: skip
        console.print(line, markup=False, style=style)
