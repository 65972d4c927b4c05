"""What the documents say is true: their code runs, and their outputs and tables are what the scripts produce."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import re
from collections import Counter
from pathlib import Path

import ablation
import architecture
import claims
import evidence
import forked
import pytest
import readme
import sparse_picture
import tuning

from rmsprop.cli.app import COMMANDS, run

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src"
EXAMPLES = [
    ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(SOURCES.rglob("*.py"))
    if ">>>" in path.read_text()
]

PYTHON = {  # number of Python blocks
    "README.md": 1,
    "docs/index.md": 1,
    "docs/start.md": 1,
    "docs/pytorch.md": 5,
    "docs/diagnosis.md": 2,
    "docs/precision.md": 1,
    "docs/gpu.md": 1,
    "docs/jax.md": 1,
    "docs/keras.md": 1,
    "docs/pytensor.md": 1,
    "docs/porting.md": 1,
    "docs/recipes.md": 1,
    "docs/own-task.md": 1,
    "docs/rule.md": 2,
    "docs/conventions.md": 3,
    "docs/checkpoints.md": 6,
    "docs/clients.md": 2,
    "docs/numerics.md": 1,
    "docs/sparse.md": 1,
    "docs/scaling.md": 3,
    "docs/monitor.md": 1,
    "docs/lr-finder.md": 1,
    "docs/lab.md": 3,
    "docs/tasks.md": 3,
    "docs/claims.md": 1,
    "docs/tuning.md": 1,
    "conformance/README.md": 1,
}


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("name", PYTHON)
def test_the_python_of_the_documents_runs_in_order(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment after each print states its output, "says:" that on standard error. `train` accepts the task."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    assert len(blocks) == PYTHON[name]
    expected = re.findall(r"print\(.*\)  # (.*)", "".join(blocks))
    done = forked.python("\n".join(blocks), PYTENSOR_FLAGS="blas__ldflags=")  # PyTensor warns if it finds no BLAS
    assert done.stderr.splitlines() == re.findall(r"  # prints: (.*)", "".join(blocks))
    assert done.stdout.splitlines() == expected
    for task in (block for block in blocks if block.startswith("# my_task.py")):
        Path("my_task.py").write_text(task)
        assert run(["train", "my_task.py:make"]) == 0


def test_every_page_with_python_is_run() -> None:
    pages = (ROOT / "README.md", ROOT / "conformance" / "README.md", *(ROOT / "docs").glob("*.md"))
    assert {str(page.relative_to(ROOT)) for page in pages if "```python\n" in page.read_text()} == set(PYTHON)


def test_outputs_table_and_figure_are_what_the_script_writes() -> None:
    demo = json.loads(readme.DEMO.read_text())
    for path, renewed in readme.PAGES.items():
        text = path.read_text()
        assert renewed(text) == text, path
    assert readme.PICTURE.read_text() == readme.picture(demo)
    assert architecture.PICTURE.read_text() == architecture.picture()
    page = ablation.PAGE.read_text()
    assert ablation.up_to_date(page) == page
    page = evidence.PAGE.read_text()
    assert evidence.up_to_date(page) == page
    page = claims.PAGE.read_text()
    assert claims.up_to_date(page) == page
    page = tuning.PAGE.read_text()
    assert tuning.up_to_date(page) == page


@pytest.mark.slow
def test_sentences_on_the_evidence_are_those_of_the_stored_comparisons() -> None:
    tasks = [kept["summary"] for kept in json.loads(evidence.STORED.read_text())]
    verdicts = {each["task"]: {s["optimizer"]: s["verdict"] for s in each["scores"]} for each in tasks}
    adam = Counter(of_task["Adam"] for of_task in verdicts.values())
    words = {1: "one", 3: "three", 7: "seven"}
    said = f"Adam wins on {words[adam['better']]} of {words[len(tasks)]} and loses on {words[adam['worse']]}"
    assert said in (ROOT / "docs" / "when-not.md").read_text()
    assert verdicts["shakespeare"]["Adam"] == verdicts["shakespeare"]["momentum"] == "worse"
    better = list(verdicts["digits"].values()).count("better")
    assert f"{words[better]} of five optimizers do better" in " ".join((ROOT / "README.md").read_text().split())
    movies = verdicts["movies"]
    assert movies["SGD"] == movies["momentum"] == "worse"
    assert movies["Adam"] == movies["AdaGrad"] == movies["Adadelta"] == "no difference"
    assert "wins over both forms of SGD and ties with the adaptive ones" in (ROOT / "docs" / "when-not.md").read_text()


def test_the_page_of_sparse_gradients_says_what_its_scripts_found() -> None:
    """Recompute the moves of its table and picture. Times come from the stored results."""
    exact, lazy = sparse_picture.moves("exact"), sparse_picture.moves("lazy")
    assert exact == pytest.approx([sparse_picture.formula(period) for period in sparse_picture.PERIODS], rel=1e-6)
    assert lazy == pytest.approx([1.0] * len(sparse_picture.PERIODS), rel=1e-12)
    text = sparse_picture.DOCUMENT.read_text()
    assert sparse_picture.up_to_date(text, exact, lazy) == text
    assert sparse_picture.PICTURE.read_text() == sparse_picture.picture(exact, lazy)


def test_the_demo_is_the_one_that_make_demo_runs() -> None:
    demo = json.loads((ROOT / "docs" / "demo.json").read_text())
    assert demo["plain"]["summary"]["command"] == "rmsprop compare digits"
    assert demo["corrected"]["summary"]["command"] == "rmsprop compare digits --bias-correction"
    assert "$(BIN)/rmsprop compare digits\n" in (ROOT / "Makefile").read_text()
    assert demo["plain"]["summary"]["seconds"] < 60


def test_commands_of_the_guides_exist() -> None:
    guides = "README.md", "docs/start.md", "docs/install.md", "docs/run.md", "docs/own-task.md", "docs/processes.md"
    makefile = (ROOT / "Makefile").read_text()
    lines = [
        line
        for name in guides
        for block in re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) > 25
    seen = set()
    for line in lines:
        words = line.split("#")[0].split()
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE)
        elif "rmsprop" in words:  # also behind torchrun's options
            seen.add(words[words.index("rmsprop") + 1])
        else:
            assert words[:2] == ["pip", "install"]
    assert all(run([name, "--help"]) == 0 for name in seen)


def test_every_command_is_documented() -> None:
    documents = "\n".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    for name in COMMANDS:
        assert re.search(rf"\brmsprop {name.replace('_', '-')}\b", documents), f"README and docs/ lack rmsprop {name}"


def test_links_of_the_documents_lead_to_files() -> None:
    pages = [path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))]
    for name in (*pages, Path("conformance/README.md")):
        text = (ROOT / name).read_text()
        titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
        headings = {"#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        headings |= {f"#{anchor}" for anchor in re.findall(r'<a id="([\w-]+)">', text)}
        for target in re.findall(r"\]\(([^)]+)\)", text):
            file = ((ROOT / name).parent / target.partition("#")[0]).exists()
            assert target.startswith("https://") or target in headings or (target[0] != "#" and file), target


def test_what_security_says_of_pickle_is_so() -> None:
    """Unpicklers are in three files; torch loads weights only."""
    called = [
        (path.name, ast.unparse(node))
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call | ast.ClassDef)
    ]
    pickles = {name for name, code in called if re.match(r"(cloud)?pickle\.loads?\(|class .*Unpickler\):", code)}
    assert pickles == {"trial.py", "cifar10.py", "safe_pickle.py"}
    loads = [code for _, code in called if code.startswith("torch.load(")]
    assert len(loads) > 2
    assert all("weights_only=True" in code for code in loads)


def test_files_and_tests_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    folders = [ROOT / name for name in ("src", "tests", "scripts", "docs", "conformance")]
    files = {path.name for folder in folders for path in folder.rglob("*.py")}
    assert not set(re.findall(r"\w+\.py\b", text)) - files
    tests = re.findall(r"(tests/\w+\.py)::(\w+)", text)
    assert len(tests) > 10
    assert [name for file, name in tests if f"def {name}(" not in (ROOT / file).read_text()] == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in Keras
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings_give_what_they_say(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_what_the_table_of_differences_says_of_torch_is_so() -> None:
    """Test the left column of the table; test_torch tests the right one."""
    import torch

    zero = torch.ones(2)
    optimizer = torch.optim.RMSprop([zero], eps=0)
    zero.grad = torch.zeros(2)
    optimizer.step()
    assert zero.isnan().all()
    optimizer.param_groups[0]["momentum"] = 0.9
    with pytest.raises(KeyError):
        optimizer.step()
    torch.optim.RMSprop([torch.ones(1)], alpha=2)

    params = [torch.ones(3, 4), torch.ones(3, 4)]
    for p, fused in zip(params, (True, False), strict=True):
        p.grad = torch.arange(12.0).reshape(4, 3).t()
        torch.optim.Adam([p], eps=1.0, fused=fused).step()
    assert not torch.allclose(params[0], params[1])
