#include "run.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <cmath>
#include <limits>
#include <mutex>
#include <system_error>
#include <thread>

#include "noise.hpp"

namespace rmsprop {
namespace {

struct InstructionSet {
  std::string name;
  const Sweeps* sweeps;
};

const std::vector<InstructionSet>& available() {
  static const std::vector<InstructionSet> found = [] {
    std::vector<InstructionSet> c;
#ifdef RMSPROP_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      c.push_back({"avx512", &avx512::sweeps()});
    }
    if (__builtin_cpu_supports("avx2")) c.push_back({"avx2", &avx2::sweeps()});
    c.push_back({"sse2", &baseline::sweeps()});
#elif defined(__aarch64__) || defined(_M_ARM64)
    c.push_back({"neon", &baseline::sweeps()});
#else
    c.push_back({"baseline", &baseline::sweeps()});
#endif
    return c;
  }();
  return found;
}

std::atomic<std::size_t> chosen{0};
std::atomic<Team> team{nullptr};
std::mutex tally_mutex;  // several threads may add to one parameter's tally

// Half the number of elements from which two threads are faster than one (benchmarks/threads.py).
constexpr std::int64_t kTeamGrain = 24576, kOwnGrain = 65536;

template <class T>
Scalars<T> scalars(const Rule& rule, Type state, double lr, const StepNumbers& numbers, double grad_scale) {
  Scalars<T> c;
  c.sign = static_cast<T>((rule.maximize ? -1.0 : 1.0) / grad_scale);
  c.lambda = static_cast<T>(rule.decoupled_weight_decay ? lr * rule.weight_decay : rule.weight_decay);
  c.beta = static_cast<T>(rule.decay);
  c.one_minus_beta = static_cast<T>(1 - rule.decay);
  c.decayed_v0 = static_cast<T>(numbers.power * rule.initial_square_avg);
  c.one_minus_power = static_cast<T>(1 - numbers.power);
  c.kappa = 4 * std::numeric_limits<T>::epsilon();  // 8 × unit roundoff
  if (state == Type::bf16) c.kappa = T(0x1p-5);
  if (state == Type::u8) c.kappa = T(0x1p-1);
  c.eps_inside = static_cast<T>(rule.eps_inside_sqrt ? rule.eps : 0);
  c.eps_outside = static_cast<T>(rule.eps_inside_sqrt ? 0 : rule.eps);
  c.one_minus_mu = static_cast<T>(1 - rule.momentum);
  c.a = static_cast<T>(numbers.a);
  c.c = static_cast<T>(numbers.c);
  c.mu = static_cast<T>(rule.momentum);
  c.lr_inside = static_cast<T>(rule.lr_in_momentum ? lr : 1);
  c.lr_outside = static_cast<T>(rule.lr_in_momentum ? 1 : lr);
  return c;
}

std::int64_t grain_or_default(std::int64_t grain) { return grain ? grain : team.load() ? kTeamGrain : kOwnGrain; }

// Calls `work` for the elements from begin to end. Elements are indexed over all tasks.
template <class Work>
bool run_part(const std::vector<Task>& tasks, std::int64_t begin, std::int64_t end, const Work& work) {
  bool good = true;
  std::int64_t first = 0;  // index of the task's first element
  for (const Task& task : tasks) {
    if (first >= end) break;
    std::int64_t block = task.block(), size = task.arrays.size;
    auto within = [&](std::int64_t at) {
      return std::min(size, (std::max<std::int64_t>(at - first, 0) + block - 1) / block * block);
    };
    if (within(begin) < within(end)) good &= work(task, within(begin), within(end));
    first += size;
  }
  return good;
}

// Uses torch's OpenMP team if there is one. The team's threads spin after their last work: a thread of our own would
// share a processor with one of them and take twice as long. Without a team, each call starts threads. A pool would be
// faster but would break in a forked process.
// Threads take chunks one by one: any number of threads completes all chunks.
template <class Work>
bool run_all(const std::vector<Task>& tasks, int threads, std::int64_t grain, const Work& work) {
  std::int64_t total = elements(tasks), parts = rmsprop::parts(tasks, threads, grain);
  if (parts <= 1) return run_part(tasks, 0, total, work);

  std::fenv_t settings;  // of the caller's floating-point unit, such as flushing subnormals; every thread uses them
  std::fegetenv(&settings);
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> good{true};
  // Many chunks per thread, so that a thread on a busy processor does fewer.
  std::int64_t chunks = std::max(parts, std::min(parts * 32, total / (16 * grain_or_default(grain))));
  auto border = [&](std::int64_t k) { return total / chunks * k + total % chunks * k / chunks; };
  auto run_chunks = [&] {
    std::fenv_t before;
    std::fegetenv(&before);
    std::fesetenv(&settings);
    for (std::int64_t k; (k = next++) < chunks;) {
      if (!run_part(tasks, border(k), border(k + 1), work)) good = false;
    }
    std::fesetenv(&before);
  };
  if (Team all = team) {
    all([](void* w) { (*static_cast<decltype(run_chunks)*>(w))(); }, &run_chunks, static_cast<unsigned>(parts), 0);
    return good;
  }
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<std::size_t>(parts - 1));
  try {
    while (static_cast<std::int64_t>(helpers.size()) < parts - 1) helpers.emplace_back(run_chunks);
  } catch (const std::system_error&) {  // no more threads are available: those started complete all chunks
  }
  run_chunks();
  for (std::thread& helper : helpers) helper.join();
  return good;
}

}  // namespace

Form Rule::form() const {
  Form form{Decay::none, Momentum::none, centered, bias_correction, amsgrad};
  if (weight_decay != 0) form.decay = decoupled_weight_decay ? Decay::decoupled : Decay::l2;
  if (momentum != 0 && first_moment) {
    form.momentum = nesterov ? Momentum::first_nesterov : Momentum::first_moment;
  } else if (momentum != 0) {
    form.momentum = nesterov ? Momentum::nesterov : Momentum::heavy_ball;
  }
  return form;
}

StepNumbers step_numbers(const Rule& rule, double t) {
  double mu = rule.momentum, psi = rule.momentum_decay, power = rule.bias_correction ? std::pow(rule.decay, t) : 0;
  if (mu == 0 || !rule.first_moment) return {power, 1, 0};
  if (!rule.bias_correction) return {power, rule.nesterov ? mu : 1, rule.nesterov ? 1 - mu : 0};
  double log_mu = std::log(mu), log_product = t * log_mu;
  if (!rule.nesterov) return {power, -1 / std::expm1(log_product), 0};
  double mu_now = mu, mu_next = mu, log_next = (t + 1) * log_mu;
  if (psi != 0) {
    volatile double base = 0.96;  // GCC would compute the logarithm itself, perhaps with another last bit
    double log_q = psi * std::log(base);
    mu_now = mu * (1 - 0.5 * std::exp(t * log_q));
    mu_next = mu * (1 - 0.5 * std::exp((t + 1) * log_q));
    for (int k = 1; k <= 60; ++k) {
      double log_qk = k * log_q, weight = std::ldexp(1.0, -k) / k;
      log_product = log_product - weight * std::exp(log_qk) * std::expm1(log_qk * t) / std::expm1(log_qk);
    }
    log_next = log_product + std::log(mu_next);
  }
  return {power, -mu_next / std::expm1(log_next), (mu_now - 1) / std::expm1(log_product)};
}

Constants constants(const Rule& rule, Type state, double lr, const StepNumbers& numbers, double grad_scale) {
  return {scalars<float>(rule, state, lr, numbers, grad_scale), scalars<double>(rule, state, lr, numbers, grad_scale)};
}

Task step_task(const Arrays& arrays, const Storage& storage, Form form, const Constants& constants, Tally* tally) {
  const Sweeps& sweeps = sweeps_in_use();
  bool wide = storage.param == Type::f64;
  const void* scalars = wide ? static_cast<const void*>(&constants.f64) : &constants.f32;
  Sweep sweep = (tally ? sweeps.measured : sweeps.plain)[wide][form.index()];
  return {arrays, storage, sweep, sweeps.staged[wide], sweeps.finite[wide], scalars, tally};
}

Task move_task(const Arrays& arrays) {
  return {arrays, {}, available()[chosen].sweeps->move, nullptr, nullptr, nullptr, nullptr};
}

void set_keys(Storage& storage, std::uint32_t seed, std::uint32_t index, std::uint32_t step) {
  std::uint32_t key = hash(hash(hash(seed) ^ index) ^ step);
  for (std::uint32_t i = 0; i < 5; ++i) storage.keys[i] = hash(key + i);
}

std::int64_t elements(const std::vector<Task>& tasks) {
  std::int64_t total = 0;
  for (const Task& task : tasks) total += task.arrays.size;
  return total;
}

std::int64_t parts(const std::vector<Task>& tasks, int threads, std::int64_t grain) {
  return std::min<std::int64_t>(threads, elements(tasks) / grain_or_default(grain));
}

void use_team(Team new_team) {
  team = new_team;
  // OpenMP's threads do not survive a fork: the child would wait for them forever.
  static const int once = pthread_atfork(nullptr, nullptr, [] { team = nullptr; });
  static_cast<void>(once);
}

bool has_team() { return team != nullptr; }

void use_own_threads(bool own) {
  static std::atomic<Team> kept{nullptr};
  if (own && team) kept = team.exchange(nullptr);
  if (!own && kept) team = kept.exchange(nullptr);
}

void Tally::add(const Tally& part) {
  for (int k = 0; k < kSums; ++k) {
    add(k, part.sums[k]);
    rounding[k] += part.rounding[k];
  }
  double largest = sums[kLargest], other = part.sums[kLargest];
  sums[kLargest] = largest != largest || other <= largest ? largest : other;
  for (int k = kLargest + 1; k < kColumns; ++k) sums[k] += part.sums[k];
  for (int k = 0; bins && k < kBins; ++k) bins[k] += part.bins[k];
}

void Tally::write(double* to) const {
  std::copy_n(sums, kColumns, to);
  for (int k = 0; k < kSums; ++k) {
    if (std::isfinite(rounding[k])) to[k] += rounding[k];  // not finite if the sum is infinite
  }
}

bool run(const std::vector<Task>& tasks, int threads, std::int64_t grain) {
  return run_all(tasks, threads, grain, [](const Task& task, std::int64_t begin, std::int64_t end) {
    if (task.direct()) return task.sweep(task.arrays, task.scalars, begin, end), true;
    auto step = [&](Tally* to) {
      return task.staged(task.arrays, task.storage, task.sweep, task.scalars, begin, end, to);
    };
    if (!task.tally || end - begin == task.arrays.size) return step(task.tally);
    Tally part;
    std::int64_t bins[kBins];
    if (task.tally->bins) {
      std::fill_n(bins, kBins, 0);
      part.bins = bins;
    }
    bool good = step(&part);
    std::lock_guard<std::mutex> lock(tally_mutex);
    task.tally->add(part);
    return good;
  });
}

bool finite(const std::vector<Task>& tasks, int threads, std::int64_t grain) {
  return run_all(tasks, threads, grain, [](const Task& task, std::int64_t begin, std::int64_t end) {
    return task.finite(task.arrays, task.storage, task.scalars, begin, end);
  });
}

bool share(std::int64_t count, std::int64_t each, int threads, std::int64_t grain,
           const std::function<bool(std::int64_t begin, std::int64_t end)>& work) {
  Task all{};
  all.arrays.size = count;
  grain = std::max<std::int64_t>(1, grain_or_default(grain) / std::max<std::int64_t>(1, each));
  return run_all({all}, threads, grain, [&](const Task&, std::int64_t begin, std::int64_t end) {
    return work(begin, end);
  });
}

const std::vector<std::string>& instruction_sets() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> n;
    for (const InstructionSet& set : available()) n.push_back(set.name);
    return n;
  }();
  return names;
}

std::string instruction_set() { return available()[chosen].name; }

const Sweeps& sweeps_in_use() { return *available()[chosen].sweeps; }

bool use_instruction_set(const std::string& name) {
  for (std::size_t i = 0; i < available().size(); ++i) {
    if (available()[i].name != name) continue;
    chosen = i;
    return true;
  }
  return false;
}

}  // namespace rmsprop
