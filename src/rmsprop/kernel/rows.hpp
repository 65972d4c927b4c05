// Touched rows: the rows of a parameter for which a sparse gradient has entries. The kernel steps them in place.
#pragma once

#include <cstdint>
#include <vector>

#include "run.hpp"

namespace rmsprop {

// One entry of the gradient: its row in the table, and its position among the entries.
struct RowEntry {
  std::int64_t row, position;
};

struct TouchedRows {
  std::vector<RowEntry> entries;     // sorted by row, then by position
  std::vector<std::int64_t> starts;  // index of each row's first entry; then the number of entries
};

// Sorts the entries of a table of `size` rows and finds where each row starts.
TouchedRows sort_entries(std::vector<RowEntry> entries, std::int64_t size);

// One step of touched rows. Plain pointers, because code compiled for each instruction set reads them.
struct Rows {
  Task task;               // arrays of the whole table; g holds the rows of all entries
  std::int64_t width;      // numbers in a row
  const RowEntry* entries;  // as in TouchedRows
  const std::int64_t* starts;
  std::int64_t count;      // of touched rows
  std::int64_t* row_step;  // the last step of each row of the table; null if no row lags
  std::int64_t step;       // steps of the table before this one
  double decay;            // β: multiplies v and m of a row once for each step that the row lags
};

// Steps the touched rows. Returns false if it zeroed a non-finite gradient.
bool run(const Rows& rows, int threads, std::int64_t grain);

// Returns whether the rows' summed gradients and their squares are finite. Steps nothing.
bool finite(const Rows& rows, int threads, std::int64_t grain);

}  // namespace rmsprop
