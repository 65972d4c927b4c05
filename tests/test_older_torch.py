"""On a torch without the newest release's private names, the kernel steps, and everything else works."""

from __future__ import annotations

import ast
from pathlib import Path

import forked
import pytest

import rmsprop
from rmsprop import native

# Makes torch look older to this package: removes the names that only newer releases have.
OLDER = """
import warnings
warnings.simplefilter("error")
import torch
from torch.optim import Optimizer
checked = []
Optimizer._cuda_graph_capture_health_check = lambda self: checked.append(self)
for cls, name in [(torch.Tensor, "__dlpack_c_exchange_api__"), (Optimizer, "_accelerator_graph_capture_health_check")]:
    if name in vars(cls):  # not if torch is older
        delattr(cls, name)
torch.__version__ = type(torch.__version__)("2.9.1+cpu")
torch._compile._disable_dynamo = lambda function: function  # what it does, without the seconds of the compiler's import
"""
STEPS = (
    OLDER
    + """
import cases, dataclasses, numpy as np, sys
from rmsprop import init, native, update
from rmsprop.monitor import Monitor
from rmsprop.torch import RMSprop
assert native.kernel.uses_methods()
KERNEL = f"native kernel ({native.kernel.instruction_set()})"
for name, rule in cases.RULES.items():
    for options in ({}, {"foreach": True}, {"capturable": True}, {"nonfinite": "skip"}):
        value, gradients = cases.problem(np.float64)
        params = [torch.tensor(value[:20]), torch.tensor(value[20:])]
        optimizer = RMSprop.from_rule(params, rule, **options)
        monitor, state = Monitor(optimizer, every=1), init(rule, value)
        for g in gradients[:3]:
            params[0].grad, params[1].grad = torch.tensor(g[:20]), torch.tensor(g[20:])
            optimizer.step()
            value, state = update(rule, value, g, state)
        np.testing.assert_allclose(torch.cat(params), value, rtol=1e-11, atol=1e-13, err_msg=name)
        assert (optimizer.implementation == KERNEL) is not ("foreach" in options or "capturable" in options)
        assert [r["step"] for r in monitor.records] == [1, 2, 3] and len(monitor.records[-1]["tensors"]) == 2
        RMSprop(params).load_state_dict(optimizer.state_dict())
        monitor.close()
table = torch.nn.Embedding(5, 2, sparse=True)
sparse = RMSprop(table.parameters())
table(torch.tensor([1, 3, 3])).sum().backward()
sparse.step()
assert sparse.implementation == KERNEL and sparse not in checked
operations = RMSprop(params, foreach=True)
operations.step()
assert operations in checked, "the check of older releases was not made"
assert "torch._dynamo" not in sys.modules
print("stepped")
"""
)


def test_a_torch_before_the_floor_is_refused_in_one_line() -> None:
    code = """
import torch
torch.__version__ = type(torch.__version__)("2.5.1+cu124")
try:
    import rmsprop.torch
except ImportError as error:
    print(error)
"""
    done = forked.python(code)
    needed = "rmsprop.torch needs PyTorch 2.6 or newer, got 2.5.1+cu124: pip install 'torch>=2.6'\n"
    assert (done.returncode, done.stdout) == (0, needed), done.stderr[-3000:]


def private_names(tree: ast.AST) -> list[str]:
    """Return the private names of torch that a module imports or reads from `torch`; torch documents `_foreach_…`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            found += [*(node.module or "").split("."), *(each.name for each in node.names)]
        if isinstance(node, ast.Attribute):
            if node.attr in ("_indices", "_values") and ast.unparse(node.value) != "self":  # of sparse tensors
                found.append(node.attr)
            parts, owner = [node.attr], node.value
            while isinstance(owner, ast.Attribute):
                parts.append(owner.attr)
                owner = owner.value
            found += parts if isinstance(owner, ast.Name) and owner.id == "torch" else []
    return [name for name in found if name.startswith("_") and not name.startswith(("__", "_foreach_"))]


def test_private_names_of_torch_stand_in_one_file() -> None:
    root = Path(rmsprop.__file__).parent
    found = {
        str(file.relative_to(root)): names
        for file in root.rglob("*.py")
        if (names := private_names(ast.parse(file.read_text(encoding="utf-8"))))
    }
    assert list(found) == ["torch/private.py"], found


@pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
def test_every_variant_is_stepped_and_watched_without_the_names_of_the_newest_torch() -> None:
    done = forked.python(STEPS)
    assert (done.returncode, done.stdout) == (0, "stepped\n"), done.stderr[-3000:]


COMPILED = (
    OLDER.replace("torch._compile._disable_dynamo = ", "_ = ")
    + """
from rmsprop.torch import RMSprop
warnings.simplefilter("ignore")  # torch's own, while it compiles
for options in ({}, {"foreach": True, "momentum": 0.5}):
    a, b = torch.ones(3), torch.ones(3)
    compiled, plain = RMSprop([a], **options), RMSprop([b], **options)
    step = torch.compile(compiled.step, backend="eager")
    for i in range(3):
        a.grad = b.grad = torch.full((3,), float(i + 1))
        step(), plain.step()
        for optimizer in (compiled, plain):
            optimizer.param_groups[0]["lr"] *= 0.5
    assert compiled._opt_called and not torch.equal(a, torch.ones(3))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
print("stepped")
"""
)


@pytest.mark.slow
@pytest.mark.skipif(native.kernel is None, reason=native.missing() or "")
def test_a_compiled_step_is_made_outside_of_graphs_there() -> None:
    done = forked.python(COMPILED)
    assert (done.returncode, done.stdout) == (0, "stepped\n"), done.stderr[-3000:]
