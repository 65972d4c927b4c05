// Lines of equal height of a function, by marching squares.

/** Return the paths of `count` levels as text for SVG; `at` maps grid indices to points, `pixel` points to pixels. */
export function contours(value, [left, right, bottom, top], pixel, count = 12, columns = 80, rows = 56) {
  const heights = [], x = (i) => left + (right - left) * i / columns, y = (j) => bottom + (top - bottom) * j / rows;
  for (let j = 0; j <= rows; j += 1) for (let i = 0; i <= columns; i += 1) heights.push(value([x(i), y(j)]));
  const low = heights.reduce((a, b) => Math.min(a, b)), high = heights.reduce((a, b) => Math.max(a, b));
  const at = (i, j) => heights[j * (columns + 1) + i];
  const paths = [];
  for (let k = 0; k < count; k += 1) {
    const level = low + (high - low) * 10 ** (-3.2 * (1 - (k + 0.5) / count)); // closer together near the minimum
    let text = "";
    for (let j = 0; j < rows; j += 1) {
      for (let i = 0; i < columns; i += 1) {
        const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]], crossed = [];
        for (let side = 0; side < 4; side += 1) {
          const [a, b] = corners[side], [c, d] = corners[(side + 1) % 4], from = at(a, b) - level, to = at(c, d) - level;
          if (from < 0 === to < 0) continue;
          const share = from / (from - to);
          crossed.push(pixel([x(a + (c - a) * share), y(b + (d - b) * share)]));
        }
        for (let n = 0; n + 1 < crossed.length; n += 2) {
          const [[a, b], [c, d]] = [crossed[n], crossed[n + 1]];
          text += `M${a.toFixed(1)} ${b.toFixed(1)}L${c.toFixed(1)} ${d.toFixed(1)}`;
        }
      }
    }
    paths.push(text);
  }
  return paths;
}
