#include "rows.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace rmsprop {
namespace {

constexpr int kBits = 8;  // sorted by at a time

bool is_in_order(const std::vector<Entry>& entries) {
  return std::is_sorted(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.row < b.row; });
}

// Shared out by entries, of which a row may have many; each row is done at once, by the part that its first entry is in.
bool shared(const Rows& rows, RowSweep what, int threads, std::int64_t grain) {
  const std::int64_t *first = rows.starts, *last = first + rows.count;
  auto row = [&](std::int64_t entry) { return std::lower_bound(first, last, entry) - first; };
  return share(*last, rows.width, threads, grain,
               [&](std::int64_t begin, std::int64_t end) { return what(rows, row(begin), row(end)); });
}

}  // namespace

Touched touched(std::vector<Entry> entries, std::int64_t size) {
  if (!is_in_order(entries)) {  // a radix sort: ten times as fast here as one that compares
    std::vector<Entry> sorted(entries.size());
    for (int shift = 0; shift < 63 && (size - 1) >> shift; shift += kBits) {
      auto digit = [&](const Entry& entry) { return static_cast<std::size_t>(entry.row >> shift) % (1 << kBits); };
      std::array<std::size_t, (1 << kBits) + 1> at{};
      for (const Entry& entry : entries) ++at[digit(entry) + 1];
      for (std::size_t i = 1; i < at.size(); ++i) at[i] += at[i - 1];
      for (const Entry& entry : entries) sorted[at[digit(entry)]++] = entry;
      std::swap(entries, sorted);
    }
  }
  Touched found;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (i == 0 || entries[i].row != entries[i - 1].row) found.starts.push_back(static_cast<std::int64_t>(i));
  }
  found.starts.push_back(static_cast<std::int64_t>(entries.size()));
  found.entries = std::move(entries);
  return found;
}

bool run(const Rows& rows, int threads, std::int64_t grain) {
  return shared(rows, sweeps_in_use().rows[rows.task.stage.param == Type::f64], threads, grain);
}

bool finite(const Rows& rows, int threads, std::int64_t grain) {
  return shared(rows, sweeps_in_use().rows_finite[rows.task.stage.param == Type::f64], threads, grain);
}

}  // namespace rmsprop
