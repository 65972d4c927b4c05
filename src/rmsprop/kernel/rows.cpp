#include "rows.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace rmsprop {
namespace {

constexpr int kBits = 8;  // per digit of the radix sort

bool is_sorted_by_row(const std::vector<RowEntry>& entries) {
  auto by_row = [](const RowEntry& a, const RowEntry& b) { return a.row < b.row; };
  return std::is_sorted(entries.begin(), entries.end(), by_row);
}

// Divides entries, not rows, among threads: a row may have many. The thread with a row's first entry steps the row.
bool share_rows(const Rows& rows, RowSweep sweep, int threads, std::int64_t grain) {
  const std::int64_t *first = rows.starts, *last = first + rows.count;
  auto row = [&](std::int64_t entry) { return std::lower_bound(first, last, entry) - first; };
  return share(*last, rows.width, threads, grain,
               [&](std::int64_t begin, std::int64_t end) { return sweep(rows, row(begin), row(end)); });
}

}  // namespace

TouchedRows sort_entries(std::vector<RowEntry> entries, std::int64_t size) {
  if (!is_sorted_by_row(entries)) {  // radix sort, ten times as fast as std::sort here
    std::vector<RowEntry> sorted(entries.size());
    for (int shift = 0; shift < 63 && (size - 1) >> shift; shift += kBits) {
      auto digit = [&](const RowEntry& entry) { return static_cast<std::size_t>(entry.row >> shift) % (1 << kBits); };
      std::array<std::size_t, (1 << kBits) + 1> at{};
      for (const RowEntry& entry : entries) ++at[digit(entry) + 1];
      for (std::size_t i = 1; i < at.size(); ++i) at[i] += at[i - 1];
      for (const RowEntry& entry : entries) sorted[at[digit(entry)]++] = entry;
      std::swap(entries, sorted);
    }
  }
  TouchedRows touched;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (i == 0 || entries[i].row != entries[i - 1].row) touched.starts.push_back(static_cast<std::int64_t>(i));
  }
  touched.starts.push_back(static_cast<std::int64_t>(entries.size()));
  touched.entries = std::move(entries);
  return touched;
}

bool run(const Rows& rows, int threads, std::int64_t grain) {
  return share_rows(rows, sweeps_in_use().rows[rows.task.storage.param == Type::f64], threads, grain);
}

bool finite(const Rows& rows, int threads, std::int64_t grain) {
  return share_rows(rows, sweeps_in_use().rows_finite[rows.task.storage.param == Type::f64], threads, grain);
}

}  // namespace rmsprop
