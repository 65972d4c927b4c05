"""Settings of every test: warnings are errors (see pyproject.toml), one thread, no deadline for hypothesis."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Generator, Iterator

import hypothesis
import lighter
import pytest
import torch
from playwright.sync_api import Browser, sync_playwright

from rmsprop import native
from rmsprop.torch.private import KERNEL_DTYPES

os.environ.setdefault("KERAS_BACKEND", "jax")  # for tests that import Keras in this process; a process has one backend
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes that tests start: each worker of xdist has one core
# XLA compiles in a fifth of the time. Tests of the rule's arithmetic compile as users do: `test_jax.AS_USERS`.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0")
torch.set_num_threads(1)
multiprocessing.set_forkserver_preload(["torch"])  # its import takes seconds
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep imported modules and tests out of garbage collections: each collection takes a third of a second."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with many slow tests first: at the end, short tests fill all workers."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of a Chromium. Without one, skip the test, or fail where CI is set."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path:
            return path
    if os.environ.get("CI"):
        pytest.fail("no Chromium: run scripts/install-chromium")
    pytest.skip("no Chromium: run scripts/install-chromium")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """Run headless Chromium. It ends with the module: while it runs, its thread cannot run another event loop."""
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=[*quiet, "--disable-sync"])
        yield browser
        browser.close()


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train comparisons in this process, without workers."""
    lighter.without_workers(monkeypatch)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    lighter.without_figures(monkeypatch)


@pytest.fixture(params=["exchange", "methods"])
def reader(request: pytest.FixtureRequest) -> Iterator[str]:
    """Let the kernel read tensors through DLPack's exchange functions, then by methods of Tensor."""
    kernel = native.kernel
    if kernel is None:
        pytest.skip(native.missing() or "")
    if request.param == "methods":
        kernel.use_methods(KERNEL_DTYPES)
    elif kernel.uses_methods():
        pytest.skip("this torch has no DLPack exchange functions")
    yield str(request.param)
    kernel.use_exchange()
