// One step of RMSprop in single precision, E1 to E9 without first_moment and amsgrad: the bits are the CPU kernel's.
//
// Each operation is computed in double and rounded once to float32 by f. That equals float32 arithmetic: a double has
// more than twice the bits of a float32. Scalars such as 1−β are computed in double and rounded once.

import { power } from "./exact.js";

const f = Math.fround;

/** Return the parameter and the averages after step t; `kappa` is κ of E5 for the format that stores the averages. */
export function step32(rule, t, param, grad, averages, kappa) {
  let p = f(param), g = f(grad);
  let { square_avg: v, grad_avg: m, momentum_buffer: b } = averages;
  const eta = f(rule.lr), beta = f(rule.decay), newShare = f(1 - rule.decay), mu = f(rule.momentum);
  const eps = f(rule.eps), k = f(kappa);
  if (rule.maximize) g = -g; // E1
  if (rule.weight_decay && rule.decoupled_weight_decay) p = f(p - f(f(rule.lr * rule.weight_decay) * p)); // E2
  else if (rule.weight_decay) g = f(g + f(f(rule.weight_decay) * p));
  v = f(f(beta * v) + f(f(newShare * g) * g)); // E3
  if (rule.centered) m = f(m + f(newShare * f(g - m))); // E4
  let s = v, v1 = v, m1 = m; // E5
  if (rule.bias_correction) {
    const powerOfBeta = power(rule.decay, t), weight = f(1 - powerOfBeta);
    s = f(Math.max(f(v - f(powerOfBeta * rule.initial_square_avg)), f(k * v)) / weight);
    v1 = f(v / weight);
    m1 = f(m / weight);
  }
  if (rule.centered) s = Math.max(f(s - f(m1 * m1)), f(k * v1));
  const d = rule.eps_inside_sqrt ? f(Math.sqrt(f(s + eps))) : f(f(Math.sqrt(s)) + eps); // E6
  let u = d !== 0 ? f(g / d) : 0; // E7
  if (rule.lr_in_momentum) u = f(eta * u);
  let r = u;
  if (rule.momentum) { // E8
    b = f(f(mu * b) + u);
    r = rule.nesterov ? f(u + f(mu * b)) : b;
  }
  p = rule.lr_in_momentum ? f(p - r) : f(p - f(eta * r)); // E9
  return { p, averages: { square_avg: v, grad_avg: m, momentum_buffer: b } };
}
