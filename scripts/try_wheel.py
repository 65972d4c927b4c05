"""Try an installed wheel with NumPy and nothing else, and print what was found as one line of JSON.

python scripts/try_wheel.py kernel|none

`scripts/check-wheels` runs this on each wheel, cibuildwheel on those of a release (pyproject.toml).
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import rmsprop
from rmsprop import Rule, native, rule

RULES = (
    Rule(),
    Rule(centered=True, momentum=0.9, nesterov=True, weight_decay=0.01),
    Rule(first_moment=True, momentum=0.9, bias_correction=True, amsgrad=True, decoupled_weight_decay=True),
)
SIZES = 1, 1000, 100_003
IMPORTS = """
import time
began = time.process_time()
import numpy
numpy_only = time.process_time()
import rmsprop
print(numpy_only - began, time.process_time() - numpy_only)
"""


def check_steps() -> None:
    """Compare three steps in place with the rule, bit for bit."""
    random = np.random.default_rng(0)
    for each in RULES:
        for dtype in (np.float32, np.float64):
            for size in SIZES:
                param: Any = random.normal(size=size).astype(dtype)
                state, expected = rmsprop.init(each, param), (param, rmsprop.init(each, param))
                param = param.copy()
                for _ in range(3):
                    grad = random.normal(size=size).astype(dtype)
                    _, state = rmsprop.update(each, param, grad, state, out=(param, state))
                    expected = rule.update(each, expected[0], grad, expected[1])
                    assert param.tobytes() == expected[0].tobytes(), (each, dtype, size)


def check_commands() -> None:
    """Ask the command line for its version, without its packages; write the page."""
    command = [sys.executable, "-m", "rmsprop"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == rmsprop.__version__, done.stdout
    done = subprocess.run([*command, "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    assert "pip install 'rmsprop[lab]'" in done.stderr, done.stderr
    with TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        subprocess.run([sys.executable, "-m", "rmsprop.page.bundle", str(page)], check=True, stdout=subprocess.DEVNULL)
        assert page.stat().st_size > 100_000


def installed_bytes(name: str) -> int:
    """Return the size of the files that the wheel of this name brought, without what Python compiled."""
    files = distribution(name).files or []
    return sum(Path(str(file.locate())).stat().st_size for file in files if file.suffix != ".pyc")


def import_seconds() -> list[float]:
    """Return the processor time to import NumPy, and then rmsprop: the least of five processes."""
    command = [sys.executable, "-I", "-c", IMPORTS]
    times = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(5)]
    return [min(float(row[i]) for row in times) for i in range(2)]


def main() -> None:
    """Check everything."""
    (wanted,) = sys.argv[1:]
    assert Path(rmsprop.__file__).is_relative_to(sys.prefix), f"not installed: {rmsprop.__file__}"
    if wanted == "kernel":
        assert native.kernel is not None, native.missing()
    else:
        assert "was not built" in str(native.missing()), native.missing()
    check_steps()
    check_commands()
    lines = str(distribution("rmsprop").read_text("WHEEL")).splitlines()
    numpy_seconds, seconds = import_seconds()
    found = {
        "tag": next(line.removeprefix("Tag: ") for line in lines if line.startswith("Tag: ")),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "instructions": native.kernel.instruction_set() if native.kernel else None,
        "bytes": installed_bytes("rmsprop"),
        "numpy_bytes": installed_bytes("numpy"),
        "import_seconds": round(seconds, 3),
        "numpy_import_seconds": round(numpy_seconds, 3),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
