"""Break the rule on purpose, one change at a time, and say which test notices (`make mutants`).

Each mutant is a copy of the source with one piece of text replaced. `make mutants PART=2/3` tries every third mutant,
from the second.

The exit status is 0 if the unchanged copy passes and every mutant is caught.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from table import MUTANTS, ROOT, SOURCES, Mutant

RECORDED = ROOT / "build" / "mutants" / "steps.bin"  # steps of the rule in NumPy, for the kernel to repeat
WORKERS = os.cpu_count() or 1


def copy_to(folder: Path) -> None:
    """Copy the sources, the tests and pyproject.toml."""
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def run_tests(copy: Path, tests: str) -> None:
    """Run the tests of the copy up to the first failure, and exit with pytest's status.

    Runs in a process of its own, forked from one that has imported torch and nothing of this package.
    """
    output = os.open(copy / "output", os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(copy)
    # The editable installation is found before sys.path. Remove its finder, here and in the tests' processes.
    undo = "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if 'rmsprop' not in type(f).__module__]\n"
    (copy / "src" / "sitecustomize.py").write_text(undo)
    exec(undo)  # noqa: S102
    os.environ["PYTHONPATH"] = str(copy / "src")
    sys.path.insert(0, str(copy / "src"))
    import pytest

    import rmsprop

    assert rmsprop.__file__.startswith(str(copy)), f"the copy is not what Python imports: {rmsprop.__file__}"
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests.split()]))


def caught_by_tests(mutant: Mutant, kernel: str) -> str | None:
    """Return the test that fails for `mutant`, or None if all pass."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_to(copy)
        shutil.copy(kernel, copy / "src" / "rmsprop")
        (copy / SOURCES / mutant.source.path).write_text(mutant.changed())
        process = multiprocessing.get_context("forkserver").Process(
            target=run_tests, args=(copy, mutant.test or mutant.source.tests)
        )
        process.start()
        process.join()
        if process.exitcode == 0:
            return None
        output = (copy / "output").read_text()
        failed = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S.*?)(?: - .*)?$", output, re.MULTILINE)
        assert failed is not None, output[-4000:]
        return failed.group(1)


def build(copy: Path) -> None:
    """Compile the replay of recorded steps; after the first build, only what has changed."""
    sources, target = str(copy / "tests" / "kernel"), str(copy / "build")
    tools = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    configure = ["cmake", "-S", sources, "-B", target, "-G", "Ninja", "-DBASELINE_ONLY=ON", "-DLEVEL=-O0"]
    for command in ([] if (copy / "build").exists() else [configure]) + [["cmake", "--build", target]]:
        subprocess.run(command, env=tools, check=True, capture_output=True)


def caught_by_replay(mutant: Mutant, copies: SimpleQueue[Path]) -> str | None:
    """Return the difference that the replay finds in the mutant's kernel, or None."""
    copy = copies.get()
    path = copy / SOURCES / mutant.source.path
    before = path.read_text()
    path.write_text(mutant.changed())
    build(copy)
    done = subprocess.run([copy / "build" / "replay", RECORDED], capture_output=True, text=True, check=False)
    path.write_text(before)
    copies.put(copy)
    if done.returncode == 0:
        return None
    assert done.stdout.startswith("different: "), done.stdout + done.stderr
    return f"replay: {done.stdout.strip()}"


def main() -> int:
    """Try all mutants or a part, such as 2/3, one on each core at a time. Print what caught each."""
    part, parts = map(int, sys.argv[1].split("/")) if len(sys.argv) > 1 else (1, 1)
    assert 1 <= part <= parts, f"the part must be K/N with 1 <= K <= N, got {sys.argv[1]}"
    mutants = [m for i, m in enumerate(MUTANTS) if not m.old or i % parts == part - 1]
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch"])
    find = [sys.executable, "-c", "from rmsprop import _kernel; print(_kernel.__file__)"]
    kernel = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run([sys.executable, ROOT / "tests" / "kernel" / "record.py", RECORDED], check=True)
    survivors = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()  # each copy is built once; later, only the files of a mutant are
        for number in range(WORKERS):
            copy = Path(folder) / str(number)
            copy_to(copy)
            build(copy)
            copies.put(copy)

        def try_out(mutant: Mutant) -> str | None:
            in_kernel = mutant.source.path.startswith("kernel/")
            return caught_by_replay(mutant, copies) if in_kernel else caught_by_tests(mutant, kernel)

        for mutant, caught in zip(mutants, pool.map(try_out, mutants), strict=True):
            print(f"{mutant.name:<38} {caught or 'all tests pass'}", flush=True)
            if (caught is None) != (not mutant.old):
                survivors.append(mutant.name)
    if survivors:
        print(f"not as it should be: {', '.join(survivors)}")
        return 1
    for file, count in Counter(mutant.source.path for mutant in mutants if mutant.old).items():
        print(f"{count:>4} {file}")
    print(f"{sum(bool(mutant.old) for mutant in mutants)} mutants, all caught")
    return 0


if __name__ == "__main__":
    sys.exit(main())
