"""Measure the page of `rmsprop page` in headless Chromium: `python benchmarks/page.py`.

It prints the frames per second while six optimizers descend a surface, the time from a change of a setting to the
picture of it in each part, and how far the layout shifts while the page loads and plays.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Page, sync_playwright

from rmsprop.page.bundle import write

WATCH = "new PerformanceObserver(list => { for (const entry of list.getEntries()) window.shift += entry.value; })"
FILM = """async () => {
  const part = rmsprop.surface, times = [];
  part.settings.set({ adagrad: true, adadelta: true, steps: 300 });
  await new Promise(requestAnimationFrame);
  part.section.querySelector('.play').click();
  await new Promise(done => {
    const tick = now => {
      times.push(now);
      if (part.settings.values.t === Infinity && times.length > 10) done();
      else requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
  part.settings.set(part.settings.initial());
  return times.slice(1).map((time, i) => time - times[i]);
}"""
ANSWER = """async id => {
  const { settings } = rmsprop[id], times = [], key = 'beta' in settings.fields ? 'beta' : 'tensor';
  for (let k = 0; k < 21; k += 1) {
    const before = performance.now();
    settings.set({ [key]: key === 'beta' ? (k % 2 ? 0.9 : 0.95) : k % 4 });
    await new Promise(requestAnimationFrame);
    await new Promise(done => setTimeout(done));
    times.push(performance.now() - before);
  }
  settings.set(settings.initial());
  return times.slice(1);
}"""


def measure(page: Page) -> dict[str, Any]:
    """Return the figures of a page that is open."""
    frames = page.evaluate(FILM)
    parts = page.evaluate("Object.keys(rmsprop)")
    return {
        "frames": len(frames),
        "frames_per_second": round(1000 * len(frames) / sum(frames), 1),
        "slowest_frame_ms": round(max(frames), 1),
        "answer_ms": {part: round(median(page.evaluate(ANSWER, part)), 1) for part in parts},
        "layout_shift": page.evaluate("window.shift"),
    }


def main() -> None:
    """Measure and print."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with TemporaryDirectory() as folder, sync_playwright() as play:
        file = Path(folder) / "page.html"
        write(file)
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(f"window.shift = 0; {WATCH}.observe({{ type: 'layout-shift', buffered: true }});")
        page.goto(file.as_uri())
        page.wait_for_function("document.documentElement.dataset.ready")
        figures = {"load": list(os.getloadavg()), **measure(page)}
        chromium.close()
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
