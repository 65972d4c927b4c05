// Run RMSprop and other optimizers on a surface.

import { gaussian } from "./noise.js";
import { OTHERS } from "./optimizers.js";
import { init, update } from "./rule.js";

const FAR = 1e100; // an optimizer that is farther than this from 0 has diverged, and stops

const rmsprop = (rule) => ({
  start: () => init(rule),
  step(p, g, s) {
    const { p: after, state, d } = update(rule, p, g, s);
    return [after, state, rule.lr / d];
  },
});

/** Return { path, losses, rates } of one optimizer; rates are RMSprop's effective rates of both parameters. */
export function descend(optimizer, surface, prepared, { start, steps, lr, noise = 0, seed = 0 }) {
  let p = [...start], states = p.map(() => optimizer.start(lr));
  const path = [p], losses = [surface.value(p, prepared)], rates = [];
  for (let t = 0; t < steps && Math.max(...p.map(Math.abs)) <= FAR; t += 1) {
    let g = surface.gradient(p, prepared);
    if (noise) g = g.map((x, i) => x + noise * gaussian(seed, 2 * t + i));
    const done = p.map((x, i) => optimizer.step(x, g[i], states[i], lr));
    p = done.map(([after]) => after);
    states = done.map(([, state]) => state);
    path.push(p);
    losses.push(surface.value(p, prepared));
    rates.push(done.map(([, , effective]) => effective));
  }
  return { path, losses, rates };
}

/** Return the runs of RMSprop with `rule` and of the others in `rates`, by name. */
export function race(rule, surface, prepared, options, rates) {
  const runs = { rmsprop: descend(rmsprop(rule), surface, prepared, { ...options, lr: rule.lr }) };
  for (const [name, lr] of Object.entries(rates)) {
    runs[name] = descend(OTHERS[name], surface, prepared, { ...options, lr });
  }
  return runs;
}
