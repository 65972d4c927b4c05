"""rmsprop bench measures the contenders that it names, on small sizes. No test asks how fast anything is."""

from __future__ import annotations

import io
import itertools
import json
import re
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from rmsprop import InputError, native
from rmsprop.cli.app import run
from rmsprop.cli.bench import bench_table, show_bench
from rmsprop.cli.terminal import print_table
from rmsprop.lab import bench, bench_gpu, timing

pytestmark = pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
IDLE = {"share": 1.0, "spread": 0.02}
CONTENDERS = {
    "large": ["rmsprop", "torch", "torch, foreach", "torch, compiled", "memory limit"],
    "rich": ["rmsprop", "torch, foreach"],
    "many": ["rmsprop", "torch", "torch, foreach", "torch, fused Adam", "torch, compiled"],
    "policy": ["rmsprop", "torch", "torch, foreach", "torch, fused Adam", "torch, compiled"],
    "large-adam": [
        "rmsprop", "torch, fused Adam", "torch, foreach Adam", "torch, compiled Adam", "memory limit, 28 bytes"
    ],
    "many-adam": ["rmsprop", "torch, fused Adam", "torch, foreach Adam"],
    "policy-adam": ["rmsprop", "torch, fused Adam", "torch, foreach Adam", "torch, compiled Adam"],
    "policy-training": ["rmsprop", "torch"],
    "language-training": ["rmsprop", "torch"],
    **{
        f"{name}-statistics": ["rmsprop", "with sums", "with sums and histograms"]
        for name in ("large", "rich", "many", "policy")
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch warns while it compiles
def test_every_case_is_measured_beside_its_contenders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, case in bench.CASES.items():
        monkeypatch.setitem(bench.CASES, name, case._replace(repeats=min(case.repeats, 5)))
    monkeypatch.setattr(timing, "machine_load", lambda: IDLE)
    seen: list[tuple[str, int, int]] = []
    found = bench.bench(listen=lambda *progress: seen.append(progress), scale=1e-3)
    assert {name: [row["contender"] for row in case["rows"]] for name, case in found["cases"].items()} == CONTENDERS
    for case in found["cases"].values():
        for row in case["rows"]:
            assert 0 < row["low"] <= row["ratio"] <= row["high"]
            assert row["seconds"] > 0
            assert ("compile_seconds" in row) == row["contender"].startswith("torch, compiled")
        assert case["rows"][0]["ratio"] == 1
    assert seen[-1] == (bench.CASES["policy-statistics"].title, 5, 5)
    assert {(title, total) for title, _, total in seen} == {(c.title, c.repeats) for c in bench.CASES.values()}
    assert found["environment"]["kernel"] == native.kernel.instruction_set()  # type: ignore[union-attr]


def test_as_adam_every_contender_makes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "compiled", lambda optimizer: optimizer.step)
    for name in ("large-adam", "many-adam", "policy-adam"):
        steps: dict[str, Any] = dict(bench.CASES[name].contenders(1e-5))
        limit = steps.pop("memory limit, 28 bytes", None)
        assert (limit is not None) == (name == "large-adam")
        for _ in range(3):
            for step in steps.values():
                step()
        kept = [step.__self__.param_groups[0]["params"] for step in steps.values()]
        assert len(kept) == 3 + (name != "many-adam")
        for params in kept[1:]:
            torch.testing.assert_close(params, kept[0], rtol=0, atol=1e-6)


def test_a_memory_limit_moves_the_bytes_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step reads g, and reads and writes p, v and, as Adam, b, four bytes each. `move` moves 20 an element."""
    sizes: list[int] = []
    fake = SimpleNamespace(move=lambda *given: sizes.append(given[0].size))
    monkeypatch.setattr(native, "kernel", fake)
    for name in ("memory limit", "memory limit, 28 bytes"):
        bench.THEIRS[name]([torch.zeros(600), torch.zeros(400)])()
    assert [20 * size for size in sizes] == [1000 * 4 * (1 + 2 * 2), 1000 * 4 * (1 + 2 * 3)]


def test_a_table_fits_80_columns() -> None:
    rows = [
        {"contender": name, "seconds": 0.1234, "ratio": 12.34, "low": 11.11, "high": 13.33,
         **({"compile_seconds": 234.0} if "compiled" in name else {})}
        for name in bench.THEIRS
    ]  # fmt: skip
    cases = {name: {"title": case.title, "rows": rows} for name, case in bench.CASES.items()}
    console = Console(file=io.StringIO(), width=200, color_system=None)
    print_table(console, bench_table({"cases": cases}))
    assert max(map(len, console.file.getvalue().splitlines())) <= 80  # type: ignore[attr-defined]


def test_table_and_json_say_the_same(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a shortened case. With --json, standard output holds JSON alone."""
    short = bench.CASES["policy-training"]._replace(calls=1, repeats=3)
    monkeypatch.setitem(bench.CASES, "policy-training", short)
    assert run(["bench", "policy-training", "--json"]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"].values()
    assert case["title"] == short.title
    assert run(["bench", "policy-training"]) == 0
    text = capsys.readouterr().out
    assert short.title in text
    assert f"kernel {native.kernel.instruction_set()}" in text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("loads", "worst"),
    [
        ([IDLE, IDLE], ""),
        ([IDLE, {"share": 0.4, "spread": 0.1}], "got 40% of the processor time .* spanned 10% of their median"),
        ([{"share": 1.0, "spread": 0.31}, IDLE], "got 100% of the processor time .* spanned 31% of their median"),
    ],
)
def test_a_busy_machine_has_no_ratios(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, loads: list[dict[str, float]], worst: str
) -> None:
    """Each case is measured between two looks at the machine. The remedy is a command that runs."""
    short = bench.CASES["policy-training"]._replace(calls=1, repeats=3)
    monkeypatch.setitem(bench.CASES, "policy-training", short)
    looks = iter(loads * 2)
    monkeypatch.setattr(timing, "machine_load", lambda: next(looks))
    assert run(["bench", "policy-training"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert ("[" in text.replace("[middle half]", "")) == (not worst)
    assert (" busy" in text) == bool(worst)
    if worst:
        assert re.search(worst, text)
        (again,) = re.findall(r"measure again: rmsprop ([a-z -]+) (?=Intel|AMD|\S+.*threads)", text)
        assert run(again.split()) == 0


def test_other_work_shows_in_the_share_of_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate clocks: a thread that waits half of the time, and a loop over memory that takes turns."""
    wall, processor = itertools.count(0.0, 0.005), itertools.count(0.0, 0.105 * torch.get_num_threads() / 2)
    monkeypatch.setattr(time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(time, "process_time", lambda: next(processor))
    load = timing.machine_load()
    assert load == {"share": pytest.approx(0.5), "spread": pytest.approx(0, abs=1e-9)}
    assert timing.is_busy(load)
    slow = itertools.accumulate(itertools.cycle([0.001, 0.004, 0.001, 0.008]))
    monkeypatch.setattr(time, "perf_counter", lambda: next(slow))
    assert timing.machine_load()["spread"] == pytest.approx(4 / 4)


def test_on_a_gpu_every_case_is_measured_beside_its_contenders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the cases of GPUs on the CPU, with a device that tells how often it was waited for."""
    waits: list[object] = []
    short = {name: case._replace(calls=2, repeats=3) for name, case in bench_gpu.cases(torch.device("cpu")).items()}
    monkeypatch.setattr(bench, "CPU", torch.device("meta"))
    monkeypatch.setattr(bench_gpu, "cases", lambda device: short)
    monkeypatch.setattr(bench_gpu, "facts", lambda device: {"device": "a card", "triton": "3.6"})
    monkeypatch.setattr(bench_gpu, "compiled", lambda optimizer: optimizer.step)
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    monkeypatch.setattr(timing, "machine_load", lambda: IDLE)
    found = bench.bench(scale=1e-5)
    contenders = {name: [row["contender"] for row in case["rows"]] for name, case in found["cases"].items()}
    every = ["rmsprop", "torch, foreach", "torch, fused Adam", "torch, compiled", "device copy"]
    assert contenders == {
        "large": every, "medium": every, "many": [x for x in every if x != "torch, compiled"], "policy": every,
        "small": ["rmsprop", "torch, foreach, float32"],
    }  # fmt: skip
    assert len(waits) == 2 * 4 * sum(map(len, contenders.values()))
    console = Console(file=io.StringIO(), width=200, color_system=None)
    show_bench(console, found)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "a card, Triton 3.6, torch" in lines[-1]
    assert max(map(len, lines[:-1])) <= 80


def test_on_a_gpu_contenders_step_the_same_parameters_and_a_copy_moves_the_bytes_of_a_step() -> None:
    shapes, cpu = [(30,), (10,)], torch.device("cpu")
    steps: dict[str, Any] = bench_gpu._plain(lambda _: shapes, bench_gpu.ALL[:1], cpu, 1.0)
    for step in steps.values():
        step()
        step()
    ours, theirs = (step.__self__.param_groups[0]["params"] for step in steps.values())
    torch.testing.assert_close(ours, theirs)
    copy = bench_gpu.THEIRS["device copy"](ours)
    assert copy.args[0].nbytes == copy.func.__self__.nbytes == 40 * 10  # type: ignore[attr-defined]
    small: dict[str, Any] = dict(bench_gpu._small(cpu, 1e-6))
    for step in small.values():
        step()
    optimizer = small["rmsprop"].__self__
    (p,) = optimizer.param_groups[0]["params"]
    assert p.dtype == torch.bfloat16
    assert optimizer.state[p]["momentum_buffer"].dtype == torch.uint8


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(InputError, match=r"^--device must be auto or one of cpu.*, got 'gpu'"):
        bench.bench(device="gpu")


def test_an_unknown_case_is_named() -> None:
    with pytest.raises(InputError, match=r"^a case must be one of large, rich, many, .*, got 'huge'; omit it"):
        bench.bench(["huge"])


def test_without_the_kernel_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "kernel", None)
    monkeypatch.setattr(native, "_error", ModuleNotFoundError(), raising=False)
    with pytest.raises(InputError, match=r"^the installation must be one with the native kernel, got none; the native"):
        bench.bench(["policy"])
