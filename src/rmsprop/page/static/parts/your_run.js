// The records of a run: effective rates, update sizes and findings over time.

import { axisOf, chartFigure, drawChart } from "../chart.js";
import { announce, h, newId, short } from "../dom.js";
import { number, shownStep } from "../fields.js";
import { LARGEST, recordsOf } from "../run_file.js";

const MOST = 40; // tensors in the table
const fields = { tensor: number("Tensor, by its place in the list", 0, { whole: true, max: 1e6 }), t: shownStep() };
const data = (name) => JSON.parse(document.getElementById(`data-${name}`)?.textContent ?? "null");
const sample = data("sample");
let run = named(data("run") ?? sample);

/** Return a run with the names of its tensors. */
function named(facts) {
  return { ...facts, names: [...new Set(facts.records.flatMap((record) => Object.keys(record.tensors)))] };
}

const seriesOf = ({ records }, name, key) => records.map((record) => [record.step, record.tensors[name]?.[key] ?? NaN]);

function ratesOf(record) {
  return Object.values(record.tensors).map((tensor) => tensor.effective_lr_median).filter((rate) => rate > 0);
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

/** List the findings up to a record, or say where to get them. Python finds them: the page has no rules of its own. */
function drawFindings(list, record) {
  const { findings, records, name } = run;
  const found = (findings?.findings ?? []).filter(({ step }) => step <= record.step).map((finding) => h("li", {},
    h("strong", {}, `Step ${finding.step}: ${finding.sentence}`), h("p", {}, `Cause: ${finding.cause}.`), h("p", {}, `Remedy: ${finding.remedy}.`)));
  const notes = [];
  if (!findings) notes.push(`${name} does not end with findings: its training goes on, or was killed. rmsprop page FILE finds them.`);
  else if (!found.length) notes.push(`No finding up to step ${record.step}.`);
  if (findings?.records < records.length) notes.push(`The monitor found them in ${findings.records} of ${records.length} records: the first and the newest.`);
  list.replaceChildren(...found, ...notes.map((note) => h("li", {}, note)));
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
      const { records, findings, note } = recordsOf(await file.text(), file.name);
      run = named({ name: file.name, records, findings });
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
    if (filled !== run) list.replaceChildren(...run.names.map((name, i) => h("option", { value: i }, name)));
    filled = run;
    list.value = Math.min(settings.values.tensor, run.names.length - 1);
  };
  settings.listeners.push(show);
  show();
  return h("div", { class: "control profile", "data-key": "tensor" }, h("label", { for: id }, "Tensor"), list);
}

export const part = {
  id: "run", fields, version: 0, unit: "record",
  presets: [],
  groups: {},
  view(settings) {
    part.rates = chartFigure("run-rates", "Effective rate, median of each tensor");
    part.updates = chartFigure("run-updates", "Size of the update, relative to the weight");
    part.norms = chartFigure("run-norms", "Norms over all tensors");
    part.table = h("table", { class: "numbers" });
    part.findings = h("ul", { class: "findings" });
    part.title = h("p", { class: "run-name" });
    const table = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of all tensors" }, part.table);
    return [loader(settings), part.title, tensorList(settings), h("div", { class: "pair" }, part.rates, part.updates, part.norms),
      h("div", { class: "player-place" }), table, part.findings];
  },
  compute: (s) => ({ chosen: run.names[Math.min(s.tensor, run.names.length - 1)] }),
  last: () => run.records.length - 1,
  draw({ chosen }, s) {
    const { records, names } = run, record = records[Math.min(s.t, records.length - 1)];
    const others = names.filter((name) => name !== chosen).slice(0, 20);
    const x = { min: records[0].step, max: Math.max(records.at(-1).step, records[0].step + 1), label: "step" };
    const chart = (figure, label, key) => {
      const series = [...others.map((name, i) => ({ name: i ? "" : "other tensors", style: "thin", points: seriesOf(run, name, key) })),
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
    part.title.textContent = run.records === sample.records ? `Shown: ${run.name}, until you load your own.` : `Shown: ${run.name}.`;
    drawTable(part.table, record, chosen);
    drawFindings(part.findings, record);
  },
  summary(result, s) {
    const record = run.records[Math.min(s.t, run.records.length - 1)], rates = ratesOf(record);
    const spread = rates.length ? `effective rates of ${run.names.length} tensors differ by a factor of ${
      short(Math.max(...rates) / Math.min(...rates), 3)}` : "no effective rate is known";
    return `At step ${record.step}, ${spread}.`;
  },
  numbers: ({ chosen }) => ({ rates: seriesOf(run, chosen, "effective_lr_median").map(([, rate]) => rate) }),
  python: ({ chosen }) => `import json
from pathlib import Path

from rmsprop.monitor.findings import find

records = []
for record in map(json.loads, Path("statistics.jsonl").read_text(encoding="utf-8").splitlines()):
    if record.get("kind") == "statistics":
        while records and records[-1]["step"] >= record["step"]:
            records.pop()  # a state was loaded, which undid this step
        records.append(record)
shown = {"rates": [record["tensors"][${JSON.stringify(chosen)}]["effective_lr_median"] for record in records]}
print(shown, *find(records), sep="\\n")
`,
  /** By what factor effective rates of the sample's tensors differ at its end. */
  answer() {
    const rates = ratesOf(sample.records.at(-1)), factor = Math.max(...rates) / Math.min(...rates);
    return factor > 100 ? "100" : factor > 5 ? "10" : "1";
  },
};
