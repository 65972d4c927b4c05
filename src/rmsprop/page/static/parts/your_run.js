// The records of a run: effective rates, update sizes and findings over time.

import { axisOf, chartFigure, drawChart } from "../chart.js";
import { announce, h, newId, short } from "../dom.js";
import { number, shownStep } from "../fields.js";
import { LARGEST, recordsOf } from "../run_file.js";

const MOST = 40; // tensors in the table
const fields = { tensor: number("Tensor, by its place in the list", 0, { whole: true, max: 1e6 }), t: shownStep() };
const data = (name) => JSON.parse(document.getElementById(`data-${name}`)?.textContent ?? "null");
const sample = data("sample");
let run = data("run") ?? sample;

const namesOf = ({ records }) => [...new Set(records.flatMap((record) => Object.keys(record.tensors)))];
const seriesOf = ({ records }, name, key) => records.map((record) => [record.step, record.tensors[name]?.[key] ?? NaN]);

function ratesOf(record) {
  return Object.values(record.tensors).map((tensor) => tensor.effective_lr_median).filter((rate) => rate > 0);
}

const REMARKS = [ // what records alone show, the gravest first; causes and remedies need the findings
  [(tensor) => tensor.nonfinite > 0, (tensor) => `${tensor.nonfinite} elements are not finite`],
  [(tensor) => tensor.eps_share > 0.5, (tensor) => `ε governs ${short(100 * tensor.eps_share, 3)} % of the elements`],
  [(tensor) => tensor.update_ratio > 0.2, (tensor) => `the update is ${short(100 * tensor.update_ratio, 3)} % of the weight`],
];

/** Return the remarks on records up to `at`, one per kind and tensor: what was last seen, and how often. */
function remarks(records, at) {
  return REMARKS.flatMap(([holds, words]) => {
    const seen = new Map();
    for (const record of records.slice(0, at + 1)) {
      for (const [name, tensor] of Object.entries(record.tensors)) {
        if (holds(tensor)) seen.set(name, { count: (seen.get(name)?.count ?? 0) + 1, step: record.step, text: words(tensor) });
      }
    }
    return [...seen].map(([name, { count, step, text }]) => `Step ${step}: ${text} in ${name} (in ${count} of ${at + 1} records).`);
  });
}

function drawTable(table, record, chosen) {
  const tensors = Object.entries(record.tensors).sort(([, a], [, b]) => (b.update_ratio ?? 0) - (a.update_ratio ?? 0));
  const share = (x) => (x === null || x === undefined ? "–" : `${short(100 * x, 3)} %`);
  const value = (x) => (x === null || x === undefined ? "–" : short(x, 3));
  table.replaceChildren(h("caption", {}, `Step ${record.step}${tensors.length > MOST ? `, the ${MOST} largest of ${tensors.length} updates` : ""}`),
    h("thead", {}, h("tr", {}, ...["tensor", "effective rate", "update/weight", "gradient", "ε governs", "not finite"].map(
      (name, i) => h("th", { scope: "col", class: i ? "number" : "" }, name)))),
    h("tbody", {}, ...tensors.slice(0, MOST).map(([name, tensor]) => h("tr", { class: name === chosen ? "own" : "" },
      h("th", { scope: "row", class: "name" }, name), ...[value(tensor.effective_lr_median), value(tensor.update_ratio),
        value(tensor.gradient_rms), share(tensor.eps_share), value(tensor.nonfinite)].map((text) => h("td", { class: "number" }, text))))));
}

function drawFindings(list, record, at) {
  const found = (run.findings ?? []).filter(({ step }) => step <= record.step).map((finding) => h("li", {},
    h("strong", {}, `Step ${finding.step}: ${finding.text}`), h("p", {}, `Cause: ${finding.cause}.`), h("p", {}, `Remedy: ${finding.remedy}.`)));
  const seen = run.findings ? [] : remarks(run.records, at).slice(0, MOST).map((text) => h("li", {}, text));
  list.replaceChildren(...found, ...seen);
  if (!run.findings) list.append(h("li", {}, "For causes and remedies: rmsprop page FILE, or rmsprop watch FILE."));
  else if (!found.length) list.append(h("li", {}, `No finding up to step ${record.step}.`));
}

/** Return the box that takes a file, by dropping or by choosing. */
function loader(settings) {
  const said = h("p", { role: "status", class: "said" }), id = newId("file");
  const input = h("input", { id, type: "file", accept: ".jsonl,.json,.txt" });
  const box = h("div", { class: "drop" }, h("label", { for: id }, "Drop the statistics.jsonl of a run here, or choose it. It stays "
    + "in this browser."), input, said);
  async function load(file) {
    try {
      if (file.size > LARGEST) {
        throw new Error(`${file.name} has ${short(file.size / 1e6, 3)} MB. The page reads up to ${LARGEST / 1e6} MB; rmsprop watch reads any`);
      }
      const { records, note } = recordsOf(await file.text(), file.name);
      run = { name: file.name, records, findings: null };
      part.version += 1;
      settings.set({ ...settings.initial() });
      said.textContent = `${file.name}: ${records.length} measured steps. ${note}`;
    } catch (error) {
      said.textContent = `${error.message}. The picture still shows ${run.name}.`;
    }
    announce(said.textContent);
  }
  input.addEventListener("change", () => { if (input.files.length) load(input.files[0]); });
  for (const kind of ["dragover", "drop"]) box.addEventListener(kind, (event) => event.preventDefault());
  box.addEventListener("dragover", () => box.classList.add("over"));
  for (const kind of ["dragleave", "drop"]) box.addEventListener(kind, () => box.classList.remove("over"));
  box.addEventListener("drop", (event) => { if (event.dataTransfer.files.length) load(event.dataTransfer.files[0]); });
  return box;
}

/** Return the list of the run's tensors. */
function tensorList(settings) {
  const id = newId("tensor"), list = h("select", { id, onchange: () => settings.set({ tensor: Number(list.value) }) });
  let filled = null;
  const show = () => {
    if (filled !== run) list.replaceChildren(...namesOf(run).map((name, i) => h("option", { value: i }, name)));
    filled = run;
    list.value = Math.min(settings.values.tensor, namesOf(run).length - 1);
  };
  settings.listeners.push(show);
  show();
  return h("div", { class: "control profile", "data-key": "tensor" }, h("label", { for: id }, "Tensor"), list);
}

export const part = {
  id: "run", fields, version: 0, unit: "record",
  presets: [],
  groups: {},
  extras: (settings) => [tensorList(settings)],
  view(settings) {
    part.rates = chartFigure("run-rates", "Effective rate, median of each tensor");
    part.updates = chartFigure("run-updates", "Size of the update, relative to the weight");
    part.norms = chartFigure("run-norms", "Norms over all tensors");
    part.table = h("table", { class: "numbers" });
    part.findings = h("ul", { class: "findings" });
    part.title = h("p", { class: "run-name" });
    return [loader(settings), part.title, h("div", { class: "pair" }, part.rates, part.updates, part.norms),
      h("div", { class: "player-place" }), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of all tensors" }, part.table), part.findings];
  },
  compute: (s) => ({ run, names: namesOf(run), chosen: namesOf(run)[Math.min(s.tensor, namesOf(run).length - 1)] }),
  last: (result) => result.run.records.length - 1,
  draw({ names, chosen }, s) {
    const { records } = run, at = Math.min(s.t, records.length - 1), record = records[at], others = names.filter((name) => name !== chosen);
    const x = { min: records[0].step, max: Math.max(records.at(-1).step, records[0].step + 1), label: "step" };
    const chart = (figure, label, key) => {
      const series = [...others.slice(0, 20).map((name) => ({ style: "thin", points: seriesOf(run, name, key) })),
        { name: chosen, style: "main", points: seriesOf(run, chosen, key) }];
      drawChart(figure, { label: `${label} of ${names.length} tensors over the steps`, x, cursor: record.step, series,
        y: axisOf(series.flatMap((each) => each.points.map(([, value]) => value)), { label, log: true }) });
    };
    chart(part.rates, "rate", "effective_lr_median");
    chart(part.updates, "update/weight", "update_ratio");
    const norms = [["gradient", "gradient_norm", "second"], ["update", "update_norm", "main"]].map(([name, key, style]) => ({
      name, style, points: records.map((each) => [each.step, each[key] ?? NaN]) }));
    drawChart(part.norms, { label: "Norm of all gradients and of the update", x, cursor: record.step, series: norms,
      y: axisOf(norms.flatMap((each) => each.points.map(([, value]) => value)), { label: "norm", log: true }) });
    part.title.textContent = run === sample ? `Shown: ${run.name}, until you load your own.` : `Shown: ${run.name}.`;
    drawTable(part.table, record, chosen);
    drawFindings(part.findings, record, at);
  },
  summary({ names }, s) {
    const record = run.records[Math.min(s.t, run.records.length - 1)], rates = ratesOf(record);
    const spread = rates.length ? `effective rates of ${names.length} tensors differ by a factor of ${
      short(Math.max(...rates) / Math.min(...rates), 3)}` : "no effective rate is known";
    return `At step ${record.step}, ${spread}.`;
  },
  numbers: ({ chosen }) => ({ rates: seriesOf(run, chosen, "effective_lr_median").map(([, rate]) => rate) }),
  python: ({ chosen }) => `import json
from pathlib import Path

from rmsprop.monitor.findings import find

lines = Path("statistics.jsonl").read_text(encoding="utf-8").splitlines()
records = [record for record in map(json.loads, lines) if record.get("kind") == "statistics"]
shown = {"rates": [record["tensors"][${JSON.stringify(chosen)}]["effective_lr_median"] for record in records]}
print(shown, *find(records), sep="\\n")
`,
  /** By what factor effective rates of the sample's tensors differ at its end. */
  answer() {
    const rates = ratesOf(sample.records.at(-1)), factor = Math.max(...rates) / Math.min(...rates);
    return factor > 100 ? "100" : factor > 5 ? "10" : "1";
  },
};
