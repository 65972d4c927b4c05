// The RMSprop rule, E1 to E9, for one number in double precision: the bits are those of rmsprop/rule.py.
//
// Symbols: parameter p, gradient g, square average v and its maximum w, gradient average m, momentum buffer b, step
// t = 1, 2, …; η = lr, β = decay, ε = eps, μ = momentum, λ = weight_decay, v₀ = initial_square_avg, ψ = momentum_decay.
// Fields of rules and states have the names of the fields of `rmsprop.Rule` and `rmsprop.State`.

import { exp, log, power } from "./exact.js";

export const DEFAULTS = Object.freeze({
  lr: 0.01, decay: 0.99, eps: 1e-8, momentum: 0, weight_decay: 0, centered: false, nesterov: false,
  eps_inside_sqrt: false, initial_square_avg: 0, lr_in_momentum: false, bias_correction: false,
  decoupled_weight_decay: false, maximize: false, first_moment: false, momentum_decay: 0, amsgrad: false,
});
const { expm1 } = Math; // fdlibm's, in the C library as in Chromium and Node
export const KAPPA = 4 * Number.EPSILON; // 8 × unit roundoff

/** Return a rule: the fields given, and PyTorch's defaults. */
export function Rule(fields = {}) {
  return { ...DEFAULTS, ...fields };
}

/** Return the state before the first step. */
export function init(rule) {
  return { step: 0, square_avg: rule.initial_square_avg, grad_avg: 0, momentum_buffer: 0, max_square_avg: 0 };
}

/** Return the denominator d of E5 and E6 for the state after a step; η/d is the effective learning rate. */
export function denominator(rule, state) {
  let v = rule.amsgrad ? state.max_square_avg : state.square_avg, m = state.grad_avg, s = v;
  if (rule.bias_correction) { // E5
    const powerOfBeta = power(rule.decay, state.step), weight = 1 - powerOfBeta;
    s = Math.max(v - powerOfBeta * rule.initial_square_avg, KAPPA * v) / weight;
    v = v / weight;
    m = m / weight;
  }
  if (rule.centered) s = Math.max(s - m * m, KAPPA * v);
  return rule.eps_inside_sqrt ? Math.sqrt(s + rule.eps) : Math.sqrt(s) + rule.eps; // E6
}

const known = { key: "", weights: null }; // all elements of a step have the same weights

/** Return a and c of E7 at step t. */
function momentWeights(rule, t) {
  const key = [rule.momentum, rule.momentum_decay, rule.bias_correction, rule.nesterov, t].join();
  if (key !== known.key) Object.assign(known, { key, weights: computedWeights(rule, t) });
  return known.weights;
}

function computedWeights(rule, t) {
  const mu = rule.momentum, psi = rule.momentum_decay;
  if (!rule.bias_correction || mu === 0) return rule.nesterov ? [mu, 1 - mu] : [1, 0];
  const logMu = log(mu);
  let logProduct = t * logMu;
  if (!rule.nesterov) return [-1 / expm1(logProduct), 0];
  let muNow = mu, muNext = mu, logNext = (t + 1) * logMu;
  if (psi) {
    const logQ = psi * log(0.96);
    [muNow, muNext] = [t, t + 1].map((i) => mu * (1 - 0.5 * exp(i * logQ)));
    for (let k = 1; k <= 60; k += 1) {
      const logQk = k * logQ, weight = power(0.5, k) / k;
      if (weight * exp(logQk) < 1e-40) break; // the remaining terms change no bit
      logProduct = logProduct - weight * exp(logQk) * expm1(logQk * t) / expm1(logQk);
    }
    logNext = logProduct + log(muNext);
  }
  return [-muNext / expm1(logNext), (muNow - 1) / expm1(logProduct)];
}

/** Return the parameter after one step and the new state: { p, state, d, u, r }. The arguments do not change. */
export function update(rule, param, grad, state) {
  let p = param, g = grad;
  let { square_avg: v, grad_avg: m, momentum_buffer: b, max_square_avg: w } = state;
  const t = state.step + 1, eta = rule.lr, beta = rule.decay, mu = rule.momentum, lam = rule.weight_decay;
  if (rule.maximize) g = -g; // E1
  if (lam && rule.decoupled_weight_decay) p = p - (eta * lam) * p; // E2
  else if (lam) g = g + lam * p;
  v = beta * v + ((1 - beta) * g) * g; // E3
  if (rule.amsgrad) w = Math.max(w, v);
  if (rule.centered) m = m + (1 - beta) * (g - m); // E4
  const d = denominator(rule, { step: t, square_avg: v, grad_avg: m, max_square_avg: w }); // E5, E6
  let n = g;
  if (mu && rule.first_moment) {
    b = b + (1 - mu) * (g - b); // E7
    const [a, c] = momentWeights(rule, t);
    n = rule.nesterov ? a * b + c * g : a * b;
  }
  let u = d !== 0 ? n / d : 0;
  if (rule.lr_in_momentum) u = eta * u;
  let r = u;
  if (mu && !rule.first_moment) {
    b = mu * b + u; // E8
    r = rule.nesterov ? u + mu * b : b;
  }
  p = rule.lr_in_momentum ? p - r : p - eta * r; // E9
  return { p, state: { step: t, square_avg: v, grad_avg: m, momentum_buffer: b, max_square_avg: w }, d, u, r };
}
