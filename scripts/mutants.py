"""Break the rule on purpose, one change at a time, and say which test notices (`make mutants`).

Each mutant is a copy of the source with one piece of text replaced. Exit status 0 only if the unchanged copy passes
and every mutant is caught.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RULE, TENSORS, OPTIMIZER = "rule.py", "torch/tensors.py", "torch/optimizer.py"
TESTS = {RULE: "tests/test_rule.py", TENSORS: "tests/test_torch.py", OPTIMIZER: "tests/test_torch.py"}


class Mutant(NamedTuple):
    """One change: what it breaks, where, and the text before and after."""

    name: str
    file: str
    old: str
    new: str


MUTANTS = [
    Mutant("unchanged", RULE, "", ""),
    Mutant("E1 sign kept", RULE, "g = -g  # E1", "pass"),
    Mutant("E2 λ's sign", RULE, "g = g + lam * p", "g = g - lam * p"),
    Mutant("E2 λ decoupled, sign", RULE, "p = p - (eta * lam) * p", "p = p + (eta * lam) * p"),
    Mutant("E2 λ decoupled, without η", RULE, "(eta * lam) * p", "lam * p"),
    Mutant("E3 decay +1 %", RULE, "v = beta * v +", "v = 1.01 * beta * v +"),
    Mutant("E3 decay −1 %", RULE, "v = beta * v +", "v = 0.99 * beta * v +"),
    Mutant("E3 sign of 1−β", RULE, "((1 - beta) * g) * g", "((beta - 1) * g) * g"),
    Mutant("E4 decay", RULE, "m = m + (1 - beta) * (g - m)", "m = m + 0.99 * (1 - beta) * (g - m)"),
    Mutant("E5 floor of the variance", RULE, "s = np.maximum(s - m * m, kappa * s)", "s = s - m * m"),
    Mutant("E5 floor too high", RULE, "kappa = 4 *", "kappa = 4000 *"),
    Mutant("E5 floor of the correction", RULE, "np.maximum(v - power * rule.initial_square_avg, kappa * v)",
           "(v - power * rule.initial_square_avg)"),
    Mutant("E5 correction off by a step", RULE, "power = rule.decay**t", "power = rule.decay ** (t + 1)"),
    Mutant("E5 mean not corrected", RULE, "m = None if m is None else m / (1 - power)", "pass"),
    Mutant("E6 eps always inside", RULE, "if rule.eps_inside_sqrt else", "if True else"),
    Mutant("E6 eps always outside", RULE, "if rule.eps_inside_sqrt else", "if False else"),
    Mutant("E7 guard", RULE, "where=d != 0", "where=d == d"),
    Mutant("E8 lr never in the buffer", RULE, "u = eta * u", "u = u"),
    Mutant("E8 lr always in the buffer", RULE, "if rule.lr_in_momentum:", "if True:"),
    Mutant("E8 nesterov", RULE, "r = u + mu * b if rule.nesterov else b", "r = b"),
    Mutant("E8 momentum as an average", RULE, "b = mu * b + u", "b = mu * b + (1 - mu) * u"),
    Mutant("v₀ ignored", RULE, "np.full_like(param, rule.initial_square_avg)", "np.zeros_like(param)"),
    Mutant("bounds of decay", RULE, '"decay": (1.0,', '"decay": (1.1,'),
    Mutant("tensors: E1 sign kept", TENSORS, "g = g.neg()  # E1", "pass"),
    Mutant("tensors: E2 λ's sign", TENSORS, "g = g.add(p, alpha=lam)", "g = g.add(p, alpha=-lam)"),
    Mutant("tensors: E2 λ decoupled, sign", TENSORS, ".mul(lr * lam), alpha=-1)", ".mul(lr * lam), alpha=1)"),
    Mutant("tensors: E3 decay +1 %", TENSORS, "v.mul_(beta)", "v.mul_(1.01 * beta)"),
    Mutant("tensors: E3 decay −1 %", TENSORS, "v.mul_(beta)", "v.mul_(0.99 * beta)"),
    Mutant("tensors: E4 decay", TENSORS, "m.lerp_(g, 1 - beta)", "m.lerp_(g, 0.99 * (1 - beta))"),
    Mutant("tensors: E5 floor of the variance", TENSORS, ".maximum(s.mul(kappa))", ""),
    Mutant("tensors: E5 floor of the correction", TENSORS, ".maximum(v.mul(kappa))", ""),
    Mutant("tensors: E5 mean not corrected", TENSORS, "m.div(fresh) if rule.centered and m is", "m if m is"),
    Mutant("tensors: E6 eps always outside", TENSORS, "if rule.eps_inside_sqrt:", "if False:"),
    Mutant("tensors: E6 eps always inside", TENSORS, "if rule.eps_inside_sqrt:", "if True:"),
    Mutant("tensors: E7 guard, one tensor", TENSORS, "return d.masked_fill(d == 0, math.inf)", "return d"),
    Mutant("tensors: E7 guard, many", TENSORS, "return d.masked_fill_zeros(math.inf)", "return d"),
    Mutant("tensors: E8 lr never in the buffer", TENSORS, "if rule.lr_in_momentum else", "if False else"),
    Mutant("tensors: E8 lr always in the buffer", TENSORS, "if rule.lr_in_momentum else", "if True else"),
    Mutant("tensors: E8 nesterov", TENSORS, "if rule.nesterov:", "if False:"),
    Mutant("optimizer: v₀ ignored", OPTIMIZER, "complex(fill, fill) if p.is_complex() else fill)", "0)"),
    Mutant("optimizer: half state", OPTIMIZER, "dtype = _COMPUTE.get(p.dtype, p.dtype)", "dtype = p.dtype"),
    Mutant("optimizer: loaded state rounded", OPTIMIZER, "if p.dtype in _COMPUTE:", "if False:"),
]  # fmt: skip


def try_out(mutant: Mutant) -> str | None:
    """Return the test that fails for `mutant`, None if all pass."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / "src" / "rmsprop" / mutant.file
        text = path.read_text()
        if mutant.old:
            assert text.count(mutant.old) == 1, f"{mutant.name}: {mutant.old!r} stands {text.count(mutant.old)} times"
            path.write_text(text.replace(mutant.old, mutant.new))
        # The editable installation finds the package ahead of sys.path; sitecustomize runs after it and undoes that.
        (copy / "src" / "sitecustomize.py").write_text(
            "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if 'rmsprop' not in type(f).__module__]\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
        where = subprocess.run(
            [sys.executable, "-c", "import rmsprop; print(rmsprop.__file__)"],
            env=environment, cwd=copy, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert where.startswith(str(copy)), f"the copy is not what Python imports: {where}"
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", TESTS[mutant.file]]
        done = subprocess.run(command, env=environment, cwd=copy, capture_output=True, text=True, check=False)
        failed = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
        if done.returncode == 0:
            return None
        assert failed is not None, done.stdout[-2000:] + done.stderr[-2000:]
        return failed.group(1)


def main() -> int:
    """Try every mutant, two at a time, and print what caught it."""
    survivors = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for mutant, caught in zip(MUTANTS, pool.map(try_out, MUTANTS), strict=True):
            print(f"{mutant.name:<38} {caught or 'all tests pass'}", flush=True)
            if (caught is None) != (mutant.name == "unchanged"):
                survivors.append(mutant.name)
    if survivors:
        print(f"not as it should be: {', '.join(survivors)}")
        return 1
    print(f"{len(MUTANTS) - 1} mutants, all caught")
    return 0


if __name__ == "__main__":
    sys.exit(main())
