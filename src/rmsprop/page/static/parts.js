// The parts in the order of the page.

import { part as two } from "./parts/two_parameters.js";

export const PARTS = [two];
