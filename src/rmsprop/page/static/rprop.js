// Rprop, as `torch.optim.Rprop` defines it: step sizes grow while the sign of the gradient stays, and halve when it flips.

const GROW = 1.2, SHRINK = 0.5, LEAST = 1e-6, MOST = 50;

/** Return the positions of a parameter that starts at 0 and has these gradients. */
export function rprop(gradients, lr) {
  let p = 0, before = 0, size = lr;
  return gradients.map((g) => {
    const sign = Math.sign(g * before);
    const factor = sign > 0 ? GROW : sign < 0 ? SHRINK : 1;
    size = Math.min(Math.max(size * factor, LEAST), MOST);
    const used = sign < 0 ? 0 : g; // after a flip, Rprop waits for one step
    p = p - Math.sign(used) * size;
    before = used;
    return p;
  });
}

export const PYTHON_RPROP = `\
def rprop(gradients, lr):
    p, before, size, path = 0.0, 0.0, lr, []
    for g in gradients:
        sign = np.sign(g * before)
        size = min(max(size * (1.2 if sign > 0 else 0.5 if sign < 0 else 1.0), 1e-6), 50.0)
        before = 0.0 if sign < 0 else g
        p = p - float(np.sign(before)) * size
        path.append(p)
    return path
`;
