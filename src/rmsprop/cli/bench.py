"""`rmsprop bench`: the time of a step on this machine."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmsprop.cli.common import Flag, print_result
from rmsprop.cli.terminal import Bars, print_table, stderr, stdout

if TYPE_CHECKING:
    from rich.progress import TaskID


def bench(*cases: str, device: str = "cpu", json: Flag = False) -> None:
    """Time a step here beside torch's steps and the memory limit.

    Contenders take turns. A ratio is the median over pairs; the middle half of
    the pairs lies in brackets. While other programs use the processors, no
    ratio is shown. All cases take 8 GB of memory and about ten minutes on the
    CPU, most of that for torch.compile.

    Try:
      rmsprop bench policy
      rmsprop bench
      rmsprop bench large rich --json
      rmsprop bench --device cuda

    Parameters
    ----------
    cases
        Any of large, rich, many, policy, policy-training, language-training; large, many, policy also with -adam at
        their end: our rule as Adam beside torch's Adam; the first four also with -statistics: what gathering
        statistics costs. On a GPU: large, medium, many, policy, small (8-bit state). All if omitted.
    device
        cpu, or a GPU such as cuda or cuda:1.
    json
        Print the measurements as JSON.
    """
    from rmsprop.lab.bench import bench as measure

    with BenchProgress(stderr) as progress:
        found = measure(cases, progress.listen, device=device)
    print_result(json, found, lambda: show_bench(stdout, found))


class BenchProgress(Bars):
    """Show the progress of the measurements: a bar for each case on a terminal, a line elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars: dict[str, TaskID] = {}

    def listen(self, case: str, done: int, total: int) -> None:
        """Show the number of repeats done."""
        if case not in self._bars:
            self._bars[case] = self.add_bar(case, total)
            if not self.console.is_terminal:
                self.console.print(f"measuring: {case}", markup=False)
        self.update(self._bars[case], completed=done)


def bench_table(found: dict[str, Any]) -> Table:
    """Return a table of each contender's time per step, and of its ratio to our time if the machine was idle."""
    from rmsprop.lab.timing import is_busy

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("step of")
    table.add_column("time", justify="right")
    table.add_column("times ours", justify="right")
    table.add_column("[middle half]".replace("[", r"\["))
    for case in found["cases"].values():
        table.add_row(f"[bold]{escape(case['title'])}[/bold]")
        busy = "load" in case and is_busy(case["load"])
        for i, row in enumerate(case["rows"]):
            wait = f" (compiled in {row['compile_seconds']:.0f} s)" if "compile_seconds" in row else ""
            half = escape(f"[{row['low']:.2f}–{row['high']:.2f}]") if i and not busy else ""
            ratio = ("busy" if busy else f"{row['ratio']:.2f}") if i else ""
            table.add_row(
                f"  {row['contender']}{wait}", duration(row["seconds"]), ratio, half,
                end_section=i == len(case["rows"]) - 1,
            )  # fmt: skip
    return table


def duration(seconds: float) -> str:
    """Return a time with three digits, in the largest unit that makes it 1 or more."""
    unit, factor = next((u, f) for u, f in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)) if seconds * f >= 1 or u == "µs")
    return f"{seconds * factor:.3g} {unit}"


def busy_warning(found: dict[str, Any]) -> str:
    """Return which cases other work disturbed, and how far; nothing if the machine was idle."""
    from rmsprop.lab.timing import IDLE_SHARE, IDLE_SPREAD, is_busy, worse

    busy = {name: case["load"] for name, case in found["cases"].items() if "load" in case and is_busy(case["load"])}
    if not busy:
        return ""
    load = reduce(worse, busy.values())
    return (
        f"The machine was busy during {', '.join(busy)}. The threads of this process got {load['share']:.0%} of the "
        f"processor time that they wanted (idle: {IDLE_SHARE:.0%} or more); the middle half of the times of a loop "
        f"over memory spanned {load['spread']:.0%} of their median (idle: up to {IDLE_SPREAD:.0%}). Stop the other "
        f"programs and measure again: rmsprop bench {' '.join(busy)}"
    )


def show_bench(console: Console, found: dict[str, Any]) -> None:
    """Print the table, and the machine it was measured on."""
    machine = found["environment"]
    print_table(console, bench_table(found))
    if warning := busy_warning(found):
        console.print(f"\n{warning}", markup=False)
    console.print()
    stepped_by = (
        f"kernel {machine['kernel']}" if "kernel" in machine else f"{machine['device']}, Triton {machine['triton']}"
    )
    console.print(
        f"{machine['processor']}, {machine['threads']} threads, {stepped_by}, torch {machine['torch']}", markup=False
    )
