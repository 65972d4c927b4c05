// Read the records of a run from a file of JSON lines, as `rmsprop.monitor` writes them.

export const LARGEST = 50e6; // bytes
const SHARES = ["effective_lr_median", "update_ratio", "gradient_rms", "eps_share"];

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isSize = (value) => value === null || value === undefined || (typeof value === "number" && value >= 0);
const isCount = (value) => value === undefined || value === null || (Number.isInteger(value) && value >= 0);

/** Return what is wrong with a record of statistics, null if nothing is. */
function faultOf(record) {
  if (!Number.isInteger(record.step) || record.step < 0) return "step must be a whole number";
  if (!isSize(record.gradient_norm) || !isSize(record.update_norm)) return "norms must be numbers or null";
  if (!isObject(record.tensors)) return "tensors must be an object";
  for (const tensor of Object.values(record.tensors)) {
    if (!isObject(tensor)) return "each tensor must be an object";
    if (!SHARES.every((key) => isSize(tensor[key])) || !isCount(tensor.nonfinite)) return "a tensor's statistics must be numbers";
  }
  return null;
}

/** Return what is wrong with the record of findings that ends a run, null if nothing is. */
function faultOfFindings({ records, findings }) {
  if (!Number.isInteger(records) || !Array.isArray(findings)) return "records must be a number, findings a list";
  const words = ["sentence", "cause", "remedy"];
  const whole = (finding) => isObject(finding) && Number.isInteger(finding.step) && words.every((key) => typeof finding[key] === "string");
  return findings.every(whole) ? null : "each finding must have a step, a sentence, a cause and a remedy";
}

/**
 * Return { records, findings, note } of a file's text; throw an Error that says what is wrong.
 *
 * findings is null unless they end the file. A program that loads a state goes back to an earlier step: records of the
 * steps that it undid are left out.
 */
export function recordsOf(text, name) {
  const lines = text.split("\n"), records = [];
  let note = "", findings = null;
  lines.forEach((line, i) => {
    if (line.trim() === "") return;
    let record;
    try {
      record = JSON.parse(line);
    } catch {
      if (i === lines.length - 1) {
        note = "Its last line is cut off and left out.";
        return;
      }
      throw new Error(`Line ${i + 1} of ${name} is not JSON. The page reads statistics.jsonl of a run`);
    }
    if (!isObject(record) || !["statistics", "findings"].includes(record.kind)) return;
    const isFindings = record.kind === "findings", fault = isFindings ? faultOfFindings(record) : faultOf(record);
    if (fault) throw new Error(`Line ${i + 1} of ${name} is no record of ${record.kind}: ${fault}`);
    findings = isFindings ? record : null;
    if (isFindings) return;
    while (records.length && records.at(-1).step >= record.step) records.pop();
    records.push(record);
  });
  if (!records.length) {
    throw new Error(`${name} has no record of statistics: another program wrote it. The page reads statistics.jsonl of a run`);
  }
  return { records, findings, note };
}
