// Functions of two parameters to descend. The Python code of each gradient has the same operations in the same order.
//
// `rates` are those of 1, 2, 5 times powers of ten with the lowest mean of log(1 + loss) over 300 steps, at angle 0.

const RAVINE = `\
def gradient(p):
    x, y = p
    along, across = COS * x + SIN * y, COS * y - SIN * x
    return np.array([COS * along - SIN * CURVATURE * across, SIN * along + COS * CURVATURE * across])
`;

function ravine(title, curvature, start, box, rates) {
  return {
    title, start, box, rates, turns: true,
    prepare: (angle) => ({ cos: Math.cos(angle * Math.PI / 180), sin: Math.sin(angle * Math.PI / 180), curvature }),
    value([x, y], { cos, sin }) {
      const along = cos * x + sin * y, across = cos * y - sin * x;
      return (along * along + curvature * across * across) / 2;
    },
    gradient([x, y], { cos, sin }) {
      const along = cos * x + sin * y, across = cos * y - sin * x;
      return [cos * along - sin * curvature * across, sin * along + cos * curvature * across];
    },
    python: ({ cos, sin }) => `COS, SIN, CURVATURE = ${cos}, ${sin}, ${curvature}.0\n\n\n${RAVINE}`,
  };
}

function plain(title, start, box, rates, value, gradient, code) {
  return { title, start, box, rates, value, gradient, turns: false, prepare: () => ({}),
    python: () => `def gradient(p):\n    x, y = p\n${code}` };
}

export const SURFACES = {
  ravine: ravine("Ravine, 100 : 1", 100, [-2, 1.2], [-2.6, 2.6, -1.6, 1.6],
    { rmsprop: 0.1, sgd: 0.01, momentum: 0.005, adagrad: 1, adadelta: 20, adam: 0.5 }),
  bowl: ravine("Bowl, 4 : 1", 4, [-2, 1.2], [-2.6, 2.6, -1.6, 1.6],
    { rmsprop: 0.2, sgd: 0.2, momentum: 0.05, adagrad: 1, adadelta: 20, adam: 0.5 }),
  saddle: plain("Saddle", [1.5, 0.01], [-2.6, 2.6, -1.6, 1.6],
    { rmsprop: 0.1, sgd: 1, momentum: 0.5, adagrad: 1, adadelta: 20, adam: 1 },
    ([x, y]) => (x * x - y * y) / 2 + y * y * y * y / 4, ([x, y]) => [x, y * y * y - y],
    "    return np.array([x, y * y * y - y])\n"),
  rosenbrock: plain("Rosenbrock’s valley", [-1.2, 1], [-1.9, 1.9, -0.7, 1.7],
    { rmsprop: 0.02, sgd: 0.005, momentum: 0.002, adagrad: 2, adadelta: 20, adam: 0.5 },
    ([x, y]) => (1 - x) * (1 - x) + 100 * (y - x * x) * (y - x * x),
    ([x, y]) => [-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)],
    "    return np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])\n"),
  beale: plain("Beale’s function", [-1.5, 1.5], [-4, 4, -2.2, 2.2],
    { rmsprop: 0.5, sgd: 0.005, momentum: 0.005, adagrad: 1, adadelta: 1, adam: 1 },
    ([x, y]) => (1.5 - x + x * y) ** 2 + (2.25 - x + x * y * y) ** 2 + (2.625 - x + x * y * y * y) ** 2,
    ([x, y]) => {
      const a = 1.5 - x + x * y, b = 2.25 - x + x * y * y, c = 2.625 - x + x * y * y * y;
      return [2 * a * (y - 1) + 2 * b * (y * y - 1) + 2 * c * (y * y * y - 1),
        2 * a * x + 4 * b * x * y + 6 * c * x * y * y];
    },
    `    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y * y, 2.625 - x + x * y * y * y
    dx = 2 * a * (y - 1) + 2 * b * (y * y - 1) + 2 * c * (y * y * y - 1)
    return np.array([dx, 2 * a * x + 4 * b * x * y + 6 * c * x * y * y])
`),
  quartic: plain("|x|⁴, flat at its minimum", [-2, 1.2], [-2.6, 2.6, -1.6, 1.6],
    { rmsprop: 0.5, sgd: 0.2, momentum: 0.05, adagrad: 2, adadelta: 50, adam: 0.5 },
    ([x, y]) => (x * x * x * x + y * y * y * y) / 4, ([x, y]) => [x * x * x, y * y * y],
    "    return np.array([x * x * x, y * y * y])\n"),
};
