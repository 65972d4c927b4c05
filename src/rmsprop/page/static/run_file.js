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

/** Return { records, note } of a file's text; throw an Error that says what is wrong. */
export function recordsOf(text, name) {
  const lines = text.split("\n"), records = [];
  let note = "";
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
    if (!isObject(record) || record.kind !== "statistics") return;
    const fault = faultOf(record);
    if (fault) throw new Error(`Line ${i + 1} of ${name} is no record of statistics: ${fault}`);
    if (records.length && record.step < records.at(-1).step) {
      throw new Error(`Line ${i + 1} of ${name} has step ${record.step} after step ${records.at(-1).step}`);
    }
    records.push(record);
  });
  if (!records.length) {
    throw new Error(`${name} has no record of statistics: another program wrote it. The page reads statistics.jsonl of a run`);
  }
  return { records, note };
}
