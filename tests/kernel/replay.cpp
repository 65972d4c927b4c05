// Replays recorded steps through the kernel and compares every bit: replay FILE. No Python here, so that it runs under
// sanitizers and emulators. tests/kernel/record.py writes the file and describes it.
#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "rows.hpp"

using namespace rmsprop;

namespace {

struct File {
  explicit File(const char* path) : stream(std::fopen(path, "rb")) {
    if (!stream) std::perror(path), std::exit(2);
  }
  ~File() { std::fclose(stream); }

  template <class T>
  bool read(T* into, std::size_t count = 1) {
    std::size_t n = std::fread(into, sizeof(T), count, stream);
    if (n != 0 && n != count) std::fprintf(stderr, "the file ends too early\n"), std::exit(2);
    return n == count;
  }

  std::FILE* stream;
};

constexpr int kArrays = 6;  // p, g, v, m, b, w

struct Header {
  double lr;
  StepNumbers numbers;
  double decay, eps, momentum, weight_decay, initial_square_avg;
  std::uint8_t centered, nesterov, eps_inside_sqrt, lr_in_momentum, bias_correction, decoupled, maximize;
  std::uint8_t first_moment, amsgrad, stochastic, cleaned, param, state, lag, unused[2];
  std::int64_t size;
};

// Memory of exactly the size needed, `shift` elements after the start of an allocation.
struct Piece {
  Piece(Type type, std::int64_t size, int shift)
      : bytes(bytes_for(type, size)), offset(bytes_of(type) * shift), memory(new unsigned char[offset + bytes]) {}
  static std::size_t bytes_for(Type type, std::int64_t size) {
    return static_cast<std::size_t>(type == Type::u8 ? packed_size(size) : size * bytes_of(type));
  }
  unsigned char* data() { return memory.get() + offset; }

  std::size_t bytes, offset;
  std::unique_ptr<unsigned char[]> memory;
};

bool is_nan(const unsigned char* at, Type type) {
  if (type == Type::u8) return false;
  if (type == Type::f64) {
    double x;
    std::memcpy(&x, at, 8);
    return x != x;
  }
  if (type == Type::f32) {
    float x;
    std::memcpy(&x, at, 4);
    return x != x;
  }
  std::uint16_t x;
  std::memcpy(&x, at, 2);
  return (x & 0x7fffu) > (type == Type::bf16 ? 0x7f80u : 0x7c00u);
}

struct Case {
  Header header;
  Rule rule;
  std::vector<unsigned char> before[kArrays], after[kArrays];
  double sums[kColumns];
  std::int64_t bins[kBins];

  Type type(int k) const { return static_cast<Type>(k < 2 ? header.param : header.state); }
};

// Returns whether the results have the recorded bits. The bits of a NaN may differ.
bool same(const Case& c, Piece* pieces, const std::string& how) {
  const char* names[kArrays] = {"p", "g", "v", "m", "b", "w"};
  for (int k = 0; k < kArrays; ++k) {
    auto element = static_cast<std::size_t>(bytes_of(c.type(k)));
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(c.after[k].size() / element); ++i) {
      const unsigned char *got = pieces[k].data() + static_cast<std::size_t>(i) * element;
      const unsigned char *wanted = c.after[k].data() + static_cast<std::size_t>(i) * element;
      if (std::memcmp(got, wanted, element) && !(is_nan(got, c.type(k)) && is_nan(wanted, c.type(k)))) {
        std::printf("different: %s[%" PRId64 "] of %" PRId64 ", form %d, types %d and %d, noise %d, cleaned %d, %s\n",
                    names[k], i, c.header.size, c.rule.form().index(), c.header.param, c.header.state,
                    c.header.stochastic, c.header.cleaned, how.c_str());
        return false;
      }
    }
  }
  return true;
}

Storage storage_of(const Case& c) {
  Storage storage;
  storage.param = c.type(0);
  storage.state = c.type(2);
  storage.stochastic = c.header.stochastic;
  storage.zero_nonfinite = c.header.cleaned;
  set_keys(storage, 3, 5, 7);  // as in record.py
  return storage;
}

std::string words(int threads, std::int64_t grain, int shift) {
  return instruction_set() + ", " + std::to_string(threads) + " threads of " + std::to_string(grain) +
         " elements or more, shift " + std::to_string(shift);
}

// Steps a case as a table with all rows touched, by entries out of order. Rows with an odd index have two entries. The
// first of the two is −0, which changes no sum.
bool replay_rows(const Case& c, std::int64_t width, int threads, std::int64_t grain, int shift) {
  std::vector<Piece> pieces;
  for (int k = 0; k < kArrays; ++k) {
    pieces.emplace_back(c.type(k), c.header.size, shift);
    std::copy(c.before[k].begin(), c.before[k].end(), pieces[k].data());
  }
  std::int64_t size = c.header.size / width, element = bytes_of(c.type(1));
  auto bytes = static_cast<std::size_t>(width * element);
  Piece values(c.type(1), 2 * size * width, shift);
  std::vector<RowEntry> entries;
  for (std::int64_t row = 1; row < size; row += 2) {
    auto* at = values.data() + entries.size() * bytes;
    for (std::size_t i = 0; i < bytes; ++i) at[i] = (i + 1) % static_cast<std::size_t>(element) ? 0 : 0x80;
    entries.push_back({row, static_cast<std::int64_t>(entries.size())});
  }
  for (std::int64_t row = size - 1; row >= 0; --row) {
    auto position = static_cast<std::int64_t>(entries.size());
    std::copy_n(c.before[1].data() + static_cast<std::size_t>(row) * bytes, bytes,
                values.data() + static_cast<std::size_t>(position) * bytes);
    entries.push_back({row, position});
  }
  constexpr std::int64_t kStep = 300;
  std::vector<std::int64_t> row_step(static_cast<std::size_t>(size), kStep - c.header.lag);
  TouchedRows touched = sort_entries(std::move(entries), size);
  Constants constants = rmsprop::constants(c.rule, c.type(2), c.header.lr, c.header.numbers);
  Form form = c.rule.form();
  void *m = form.centered ? pieces[3].data() : nullptr, *b = form.has_buffer() ? pieces[4].data() : nullptr;
  void *w = form.amsgrad ? pieces[5].data() : nullptr;
  Rows rows;
  rows.task = step_task({pieces[0].data(), values.data(), pieces[2].data(), m, b, w, c.header.size}, storage_of(c), form,
                        constants);
  rows.width = width;
  rows.entries = touched.entries.data();
  rows.starts = touched.starts.data();
  rows.count = static_cast<std::int64_t>(touched.starts.size()) - 1;
  rows.row_step = c.header.lag ? row_step.data() : nullptr;
  rows.step = kStep;
  rows.decay = c.rule.decay;
  run(rows, threads, grain);
  std::string how = words(threads, grain, shift) + ", in rows of " + std::to_string(width) + " that lag " +
                    std::to_string(c.header.lag);
  bool noted = !c.header.lag || std::all_of(row_step.begin(), row_step.end(), [](std::int64_t at) { return at == kStep + 1; });
  if (!noted) std::printf("different: the step of a row, %s\n", how.c_str());
  return noted && same(c, pieces.data(), how);
}

bool replay_rows(const std::vector<Case>& cases, int threads, std::int64_t grain, int shift) {
  for (const Case& c : cases) {
    if (c.type(2) != Type::f32 && c.type(2) != Type::f64) continue;
    for (std::int64_t width : {std::int64_t{1}, std::int64_t{15}, c.header.size / 2}) {
      if (width && c.header.size % width == 0 && !replay_rows(c, width, threads, grain, shift)) return false;
    }
  }
  return true;
}

// Returns whether the statistics are those recorded: counts exactly, sums to a relative 1e-6 (float64: 1e-12).
bool same_statistics(const Case& c, const Tally& tally, const std::string& how) {
  double sums[kColumns], tolerance = c.type(0) == Type::f64 ? 1e-12 : 1e-6;
  tally.write(sums);
  for (int k = 0; k < kColumns; ++k) {
    double got = sums[k], wanted = c.sums[k];
    bool good = got == wanted || (std::isnan(got) && std::isnan(wanted)) ||
                (k <= kLargest && std::fabs(got - wanted) <= tolerance * std::fabs(wanted));
    if (good) continue;
    std::printf("different: statistic %d of %" PRId64 ", %.17g and not %.17g, form %d, types %d and %d, cleaned %d, %s\n",
                k, c.header.size, got, wanted, c.rule.form().index(), c.header.param, c.header.state, c.header.cleaned,
                how.c_str());
    return false;
  }
  for (int k = 0; k < kBins; ++k) {
    if (tally.bins[k] == c.bins[k]) continue;
    std::printf("different: bin %d of %" PRId64 ", form %d, types %d and %d, %s\n", k, c.header.size,
                c.rule.form().index(), c.header.param, c.header.state, how.c_str());
    return false;
  }
  return true;
}

// Steps all cases in one call, as an optimizer steps its tensors. Measures them if `measured`.
bool replay(const std::vector<Case>& cases, int threads, std::int64_t grain, int shift, bool measured) {
  std::vector<Constants> constants;
  std::vector<std::vector<Piece>> pieces(cases.size());
  std::vector<Task> tasks;
  constants.reserve(cases.size());
  std::vector<std::int64_t> bins(cases.size() * kBins);
  std::vector<Tally> tallies(cases.size());
  for (std::size_t n = 0; n < cases.size(); ++n) tallies[n].bins = &bins[n * kBins];
  for (std::size_t n = 0; n < cases.size(); ++n) {
    const Case& c = cases[n];
    for (int k = 0; k < kArrays; ++k) {
      pieces[n].emplace_back(c.type(k), c.header.size, shift);
      std::copy(c.before[k].begin(), c.before[k].end(), pieces[n][k].data());
    }
    constants.push_back(rmsprop::constants(c.rule, c.type(2), c.header.lr, c.header.numbers));
    auto at = [&](int k) { return static_cast<void*>(pieces[n][k].data()); };
    Form form = c.rule.form();
    void *m = form.centered ? at(3) : nullptr, *b = form.has_buffer() ? at(4) : nullptr;
    void *w = form.amsgrad ? at(5) : nullptr;
    tasks.push_back(step_task({at(0), at(1), at(2), m, b, w, c.header.size}, storage_of(c), form, constants.back(),
                              measured ? &tallies[n] : nullptr));
  }
  run(tasks, threads, grain);
  std::string how = words(threads, grain, shift) + (measured ? ", measured" : "");
  bool good = true;
  for (std::size_t n = 0; n < cases.size() && good; ++n) {
    good = same(cases[n], pieces[n].data(), how);
    if (good && measured) good = same_statistics(cases[n], tallies[n], how);
  }
  return good;
}

}  // namespace

int main(int count, char** arguments) {
  int most = count == 3 ? std::atoi(arguments[2]) : 8;
  if (count < 2 || count > 3 || most < 1) {
    std::fprintf(stderr, "usage: replay FILE [THREADS], with at most so many of 1, 2, 3 and 8 threads\n");
    return 2;
  }
  File file(arguments[1]);
  std::vector<Case> cases, lagging;  // only rows can lag
  Header h;
  while (file.read(&h)) {
    Case c;
    c.header = h;
    c.rule = {h.decay, h.eps, h.momentum, h.weight_decay, h.centered != 0, h.nesterov != 0, h.eps_inside_sqrt != 0,
              h.initial_square_avg, h.lr_in_momentum != 0, h.bias_correction != 0, h.decoupled != 0, h.maximize != 0,
              h.first_moment != 0, 0, h.amsgrad != 0};  // a and c include momentum_decay
    for (auto* arrays : {c.before, c.after}) {
      for (int k = 0; k < kArrays; ++k) {
        arrays[k].resize(Piece::bytes_for(c.type(k), h.size));
        if (!arrays[k].empty()) file.read(arrays[k].data(), arrays[k].size());
      }
    }
    file.read(c.sums, kColumns);
    file.read(c.bins, kBins);
    (h.lag ? lagging : cases).push_back(std::move(c));
  }
  if (cases.empty()) {
    std::fprintf(stderr, "%s holds no case\n", arguments[1]);
    return 2;
  }
  int runs = 0;
  for (const std::string& name : instruction_sets()) {
    use_instruction_set(name);
    for (int threads : {1, 2, 3, 8}) {
      if (threads > most) break;
      for (std::int64_t grain : {1, 100}) {
        for (int shift : {0, 1}) {
          for (bool measured : {false, true}) {
            if (!replay(cases, threads, grain, shift, measured)) return 1;
            ++runs;
          }
          for (const auto* all : {&cases, &lagging}) {
            if (!replay_rows(*all, threads, grain, shift)) return 1;
          }
          ++runs;
        }
      }
    }
    // Two callers at once, as from two Python threads.
    bool good[2];
    std::thread other([&] { good[1] = replay(cases, 2, 1, 0, true); });
    good[0] = replay(cases, 2, 1, 0, true);
    other.join();
    if (!good[0] || !good[1]) return 1;
    runs += 2;
  }
  std::printf("%zu cases, %d times, on", cases.size() + lagging.size(), runs);
  for (const std::string& name : instruction_sets()) std::printf(" %s", name.c_str());
  std::printf(": every bit as recorded\n");
}
