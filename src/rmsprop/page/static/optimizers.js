// The optimizers beside RMSprop, with PyTorch's definitions, for one parameter; and the same as Python code.

import { Rule, init, update } from "./rule.js";

const adam = (lr) => Rule({ lr, decay: 0.999, momentum: 0.9, first_moment: true, bias_correction: true });

/** { name, start: state before the first step, step: (p, g, state, lr) → [p, state], python } */
export const OTHERS = {
  sgd: {
    name: "SGD", start: () => 0, step: (p, g, s, lr) => [p - lr * g, s],
    python: "def sgd(p, g, s, lr):\n    return p - lr * g, s\n",
  },
  momentum: {
    name: "momentum", start: () => 0,
    step(p, g, b, lr) {
      b = 0.9 * b + g;
      return [p - lr * b, b];
    },
    python: "def momentum(p, g, b, lr):\n    b = 0.9 * b + g\n    return p - lr * b, b\n",
  },
  adagrad: {
    name: "AdaGrad", start: () => 0,
    step(p, g, a, lr) {
      a = a + g * g;
      return [p - lr * g / (Math.sqrt(a) + 1e-10), a];
    },
    python: "def adagrad(p, g, a, lr):\n    a = a + g * g\n    return p - lr * g / (np.sqrt(a) + 1e-10), a\n",
  },
  adadelta: {
    name: "Adadelta", start: () => [0, 0],
    step(p, g, [v, moved], lr) {
      v = 0.9 * v + 0.1 * g * g;
      const u = Math.sqrt(moved + 1e-6) / Math.sqrt(v + 1e-6) * g;
      return [p - lr * u, [v, 0.9 * moved + 0.1 * u * u]];
    },
    python: `def adadelta(p, g, s, lr):
    v, moved = s
    v = 0.9 * v + 0.1 * g * g
    u = np.sqrt(moved + 1e-6) / np.sqrt(v + 1e-6) * g
    return p - lr * u, (v, 0.9 * moved + 0.1 * u * u)
`,
    pythonStart: "(0.0, 0.0)",
  },
  adam: {
    name: "Adam", start: (lr) => init(adam(lr)),
    step(p, g, s, lr) {
      const { p: after, state } = update(adam(lr), p, g, s);
      return [after, state];
    },
    python: `def adam(p, g, s, lr):
    return update(Rule(lr=lr, decay=0.999, momentum=0.9, first_moment=True, bias_correction=True), p, g, s)
`,
    pythonStart: "init(Rule(momentum=0.9), start)",
  },
};
