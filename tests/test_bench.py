"""rmsprop bench measures the contenders that it names, on small sizes. No test asks how fast anything is."""

from __future__ import annotations

import json

import pytest

from rmsprop import InputError, native
from rmsprop.cli.app import run
from rmsprop.lab import bench

pytestmark = pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
CONTENDERS = {
    "large": ["rmsprop", "torch", "torch, foreach", "torch, compiled", "memory limit"],
    "rich": ["rmsprop", "torch, foreach"],
    "many": ["rmsprop", "torch", "torch, foreach", "torch, fused Adam", "torch, compiled"],
    "policy": ["rmsprop", "torch", "torch, foreach", "torch, fused Adam", "torch, compiled"],
    "policy-training": ["rmsprop", "torch"],
    "language-training": ["rmsprop", "torch"],
    **{
        f"{name}-statistics": ["rmsprop", "with sums", "with sums and histograms"]
        for name in ("large", "rich", "many", "policy")
    },
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch warns while it compiles
def test_every_case_is_measured_beside_its_contenders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, case in bench.CASES.items():
        monkeypatch.setitem(bench.CASES, name, case._replace(repeats=min(case.repeats, 5)))
    seen: list[tuple[str, int, int]] = []
    found = bench.bench(listen=lambda *progress: seen.append(progress), scale=1e-3)
    assert {name: [row["contender"] for row in case["rows"]] for name, case in found["cases"].items()} == CONTENDERS
    for case in found["cases"].values():
        for row in case["rows"]:
            assert 0 < row["low"] <= row["ratio"] <= row["high"]
            assert row["seconds"] > 0
            assert ("compile_seconds" in row) == (row["contender"] == "torch, compiled")
        assert case["rows"][0]["ratio"] == 1
    assert seen[-1] == (bench.CASES["policy-statistics"].title, 5, 5)
    assert {(title, total) for title, _, total in seen} == {(c.title, c.repeats) for c in bench.CASES.values()}
    assert found["environment"]["kernel"] == native.kernel.instruction_set()  # type: ignore[union-attr]


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


def test_an_unknown_case_is_named() -> None:
    with pytest.raises(InputError, match=r"^a case must be one of large, rich, many, .*, got 'huge'; leave it out"):
        bench.bench(["huge"])


def test_without_the_kernel_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "kernel", None)
    monkeypatch.setattr(native, "_error", ModuleNotFoundError(), raising=False)
    with pytest.raises(InputError, match=r"^the installation must be one with the native kernel, got none; the native"):
        bench.bench(["policy"])
