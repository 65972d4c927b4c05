// The rows of a table that a sparse gradient has entries for, stepped where they lie.
#pragma once

#include <cstdint>
#include <vector>

#include "run.hpp"

namespace rmsprop {

// One row of the gradient: of which row of the table, and its own number among the entries.
struct Entry {
  std::int64_t row, place;
};

// Which rows are touched.
struct Touched {
  std::vector<Entry> entries;        // by row, those of one row in the order of their places
  std::vector<std::int64_t> starts;  // the first entry of each row, and at last how many entries there are
};

// Puts entries in order, of a table that has `size` rows, and finds where rows start.
Touched touched(std::vector<Entry> entries, std::int64_t size);

// A step of them: plain pointers, since this is read by code that is compiled for each instruction set.
struct Rows {
  Task task;               // how memory is stepped; its arrays are those of the whole table, g the rows of all entries
  std::int64_t width;      // numbers in a row
  const Entry* entries;    // as in Touched
  const std::int64_t* starts;
  std::int64_t count;      // of touched rows
  std::int64_t* row_step;  // the step at which each row of the table stands; null if none lags
  std::int64_t step;       // of the table, before this one
  double decay;            // β: v and m of a row are multiplied by it for each step that the row lags
};

// Steps the touched rows, as run() does with tasks. Returns false if gradients had to be cleaned.
bool run(const Rows& rows, int threads, std::int64_t grain);

// Whether the sums of the entries, and their squares, are finite; steps nothing.
bool finite(const Rows& rows, int threads, std::int64_t grain);

}  // namespace rmsprop
