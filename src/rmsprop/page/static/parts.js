// The parts in the order of the page.

import { part as two } from "./parts/two_parameters.js";
import { part as average } from "./parts/average.js";
import { part as surface } from "./parts/surface.js";
import { part as edge } from "./parts/edge.js";
import { part as wrongWay } from "./parts/wrong_way.js";
import { part as dial } from "./parts/dial.js";
import { part as bits } from "./parts/bits.js";
import { part as yourRun } from "./parts/your_run.js";

export const PARTS = [two, average, surface, edge, wrongWay, dial, bits, yourRun];
