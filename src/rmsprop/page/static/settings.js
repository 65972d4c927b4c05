// The values of a part's settings, and the address that restores them: #PART?PART.KEY=VALUE&…

export class Settings {
  constructor(id, fields) {
    this.id = id;
    this.fields = fields;
    this.values = this.initial();
    this.listeners = [];
  }

  initial() {
    return Object.fromEntries(Object.entries(this.fields).map(([key, field]) => [key, field.initial]));
  }

  /** Change settings; `byUser` is false for changes that should not move the address, such as frames of a film. */
  set(changes, byUser = true) {
    Object.assign(this.values, changes);
    for (const listener of this.listeners) listener(changes, byUser);
  }

  /** Change the settings that differ from `values`. */
  become(values) {
    const { fields } = this, differing = Object.keys(fields).filter(
      (key) => fields[key].text(this.values[key]) !== fields[key].text(values[key]));
    if (differing.length) this.set(Object.fromEntries(differing.map((key) => [key, values[key]])), false);
  }

  /** Return whether the settings are the initial ones but for `changes`. */
  equals(changes) {
    const wanted = { ...this.initial(), ...changes };
    return Object.entries(this.fields).every(
      ([key, field]) => field.kind === "step" || field.text(this.values[key]) === field.text(wanted[key]));
  }

  /** Return [key in the address, text] of each setting that differs from its initial value. */
  changed() {
    return Object.entries(this.fields)
      .map(([key, field]) => [`${this.id}.${key}`, field.text(this.values[key]), field.text(field.initial)])
      .filter(([, text, initial]) => text !== initial)
      .map(([key, text]) => [key, text]);
  }
}

/** Return the fragment of the address for these parts, with `current` in view. */
export function fragment(parts, current) {
  const pairs = parts.flatMap((settings) => settings.changed());
  const query = pairs.map(([key, text]) => `${key}=${encodeURIComponent(text)}`).join("&");
  return `#${current}${query ? `?${query}` : ""}`;
}

/** Set the parts to what a fragment says, all others to their initial values. Return the faults. */
export function restore(parts, text) {
  const [, query = ""] = text.split(/\?(.*)/s);
  const faults = [], changes = new Map(parts.map((settings) => [settings, settings.initial()]));
  for (const [name, value] of new URLSearchParams(query)) {
    const [id, key] = name.split(".");
    const settings = parts.find((one) => one.id === id);
    if (!settings || !Object.hasOwn(settings.fields, key ?? "")) {
      faults.push(`${name} is no setting of this page`);
      continue;
    }
    try {
      changes.get(settings)[key] = settings.fields[key].parse(value);
    } catch (error) {
      faults.push(`${error.message}, not ${value.slice(0, 40)}`);
    }
  }
  for (const [settings, values] of changes) settings.become(values);
  return faults;
}
