"""The mutants: single changes to the source that break it, and the tests that must notice."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = Path("src/rmsprop")


class Source(NamedTuple):
    """A file of src/rmsprop and the tests for its mutants.

    `tests` names test files, or single tests where the others are slow. Mutants of the kernel need none: they are
    compiled, and the replay compares their steps with recorded ones.
    """

    path: str
    tests: str = ""


class Mutant(NamedTuple):
    """One change: what it breaks, its file, the text before and after. `test` replaces the tests of the file."""

    name: str
    source: Source
    old: str
    new: str
    test: str = ""

    def changed(self) -> str:
        """Return the changed text of the file."""
        text = (ROOT / SOURCES / self.source.path).read_text()
        if not self.old:
            return text
        assert text.count(self.old) == 1, f"{self.name}: {self.old!r} stands {text.count(self.old)} times"
        return text.replace(self.old, self.new)


RULE = Source("rule.py", "tests/test_rule.py")
ADAM = Source("rule.py", "tests/test_adam.py")
PAGE_RULE = Source("page/static/rule.js", "tests/test_page_rule.py::test_every_variant_has_the_bits_of_the_rule[Node]")
PAGE_EXACT = Source(
    "page/static/exact.js",
    "tests/test_page_rule.py::test_powers_and_logarithms_are_rounded_to_the_nearest_double[Node]",
)
PAGE_FLOAT32 = Source(
    "page/static/float32.js", "tests/test_page_rule.py::test_fewer_bits_are_those_of_the_kernel[Node]"
)
PAGE_BITS = Source(
    "page/static/low_precision.js", "tests/test_page_rule.py::test_fewer_bits_are_those_of_the_kernel[Node]"
)
TABLE = Source("hyperparameters.py", "tests/test_rule.py")
TENSORS = Source("torch/engines/arithmetic.py", "tests/test_torch.py")
TENSORS_ADAM = Source("torch/engines/arithmetic.py", "tests/test_adam.py")
STATE = Source("torch/state.py", "tests/test_torch.py")
STATE_DICT = Source("torch/state_dict.py", "tests/test_state.py")
FUSED = Source("torch/engines/cpu_kernel.py", "tests/test_fused.py")
FUSED_ONLY = Source("torch/engines/engine.py", "tests/test_fused.py")
TRITON = Source("torch/engines/triton_step.py", "tests/test_triton.py::test_every_variant_has_the_bits_of_the_rule")
TRITON_BITS = Source("torch/engines/triton_memory.py")
# Without the tests of scripts/check-triton and check-gpu, which copies lack.
TRITON_TESTS = "tests/test_triton.py --deselect=tests/test_triton.py::test_code_"
TRITON_TABLES = Source("torch/engines/triton_tables.py", TRITON_TESTS)
TRITON_ENGINE = Source("torch/engines/triton_kernel.py", TRITON_TESTS)
TRITON_COMPILER = Source("torch/engines/triton_compiler.py", TRITON_TESTS)
TRITON_TAKEN = Source("torch/engines/triton_taken.py", TRITON_TESTS)
TRITON_LAUNCHES = Source("torch/engines/triton_launches.py", TRITON_TESTS)
TRITON_ENDS = "tests/test_triton.py::test_numbers_at_the_ends_of_float32_have_the_bits_of_the_rule"
TRITON_HALF = "tests/test_triton.py::" + (
    "test_every_bfloat16_and_float16_is_read_and_every_tie_and_the_ends_are_rounded_as_by_torch"
)
TRITON_NAN = "tests/test_triton.py::test_every_nan_stays_nan_in_bfloat16"
TRITON_BAD = "tests/test_triton.py::test_elements_that_are_not_finite_count_as_zero"
TRITON_SKIP = "tests/test_triton.py::test_a_step_with_an_element_that_is_not_finite_is_skipped"
TRITON_NOISE = "tests/test_triton.py::test_stochastic_rounding_has_the_bits_of_tensor_operations"
TRITON_LARGEST = "tests/test_triton.py::test_stochastic_rounding_keeps_what_is_not_finite_and_the_largest_numbers"
TRITON_PACKED = "tests/test_triton.py::test_every_number_in_eight_bits_has_the_bits_of_tensor_operations"
TRITON_BLOCKS = "tests/test_triton.py::test_blocks_of_eight_bits_are_found_in_every_program"
TRITON_SCALER = "tests/test_triton.py::test_a_grad_scaler_divides_and_skips_without_a_wait"
TRITON_FUSED = "tests/test_triton.py::test_what_cannot_be_stepped_by_fused_true_raises_one_line"
TRITON_ROWS = "tests/test_triton.py::test_groups_have_their_own_numbers"
LOW = Source("torch/low_precision.py", "tests/test_low_precision.py")
BAD = Source("torch/nonfinite.py", "tests/test_nonfinite.py")
RANKS = Source("torch/distributed.py", "tests/test_nonfinite.py")
SPARSE = Source("torch/engines/sparse_rows.py", "tests/test_sparse.py tests/test_sparse_use.py")
STATISTICS = Source("torch/engines/copied_statistics.py", "tests/test_statistics.py")
JAX = Source("jax.py", "tests/test_jax.py::test_every_variant_equals_the_rule")
KERAS = Source("keras.py", "tests/keras_checks.py::test_every_variant_equals_the_rule")
PYTENSOR = Source("pytensor.py", "tests/test_pytensor.py::test_every_variant_equals_the_rule")
DICTS = Source(
    "profiles.py", "tests/test_state_sources.py::test_a_state_dict_states_its_version_and_a_newer_one_is_refused"
)
H5 = Source("checkpoint/formats/keras.py", "tests/test_checkpoint_like.py")
TREES = Source("checkpoint/formats/jax.py", "tests/test_checkpoint.py tests/test_checkpoint_like.py")
H5_ORDER = Source("checkpoint/formats/keras_layout.py", "tests/test_convert_keras_adam.py")
MOVING_ADAM = Source("checkpoint/bias_correction.py", "tests/test_convert_optax_adam.py")
MOVING = Source("checkpoint/conversion.py", "tests/test_checkpoint.py")
SCHEDULES = Source("recipes/schedules.py", "tests/test_recipes.py")
TRAINING = Source("lab/runs/training.py", "tests/test_training.py")
LOSSES = Source("lab/runs/recent_losses.py", "tests/test_train_options.py")
SHARED = Source(
    "lab/runs/shared_batches.py", "tests/test_processes.py::test_every_share_counts_as_it_does_in_the_whole_batch"
)
COMPARE = Source("lab/comparison.py", "tests/test_compare.py::test_a_widened_comparison_is_resumed_where_it_stopped")
VERDICTS = Source("lab/verdicts.py", "tests/test_compare.py::test_verdicts_follow_the_paired_intervals")
TRIAL = Source(
    "lab/runs/trial.py", "tests/test_compare.py::test_a_training_is_judged_by_its_last_epoch_and_not_by_its_best"
)
RATES = Source("lab/learning_rates.py", "tests/test_compare.py::test_the_rate_with_the_best_mean_wins")
WORKERS_PY = Source("lab/runs/workers.py", "tests/test_workers.py::test_a_worker_has_one_thread")
TRAIN = Source("lab/training_run.py", "tests/test_train.py::test_a_resumed_run_has_the_threads_that_it_began_with")
CURVE = Source(
    "monitor/lr_finder/curve.py",
    "tests/test_lr_finder.py::test_half_of_the_rate_where_the_median_curve_is_lowest",
)
WARM_START = Source(
    "monitor/lr_finder/warm_start.py", "tests/test_lr_finder.py::test_of_adam_the_second_beta_needs_no_steps"
)
DESCRIBED = Source("statistics.py", "tests/test_statistics_numpy.py")
ROLLOUTS = Source("lab/rollouts.py", "tests/test_reinforcement.py")
POLICIES = Source("lab/reinforcement.py", "tests/test_reinforcement.py")
EPISODES = Source("lab/episodes.py", "tests/test_reinforcement.py")
Q_LEARNING = Source("lab/q_learning.py", "tests/test_q_learning.py")
REPLAY = Source("lab/replay.py", "tests/test_q_learning.py")
GAN = Source("lab/adversarial.py", "tests/test_adversarial.py")
SPEECH = Source("lab/speech.py", "tests/test_speech.py")
SCORE = Source("lab/score.py", "tests/test_score.py")
LOSS_CALL = Source("lab/loss_call.py", "tests/test_score.py")
CHANCE = Source("lab/chance.py", "tests/test_chance.py")
CLAIM = Source("lab/claims/claim.py", "tests/test_claims.py -k not(seeds)")
CLAIM_RESULT = Source("lab/claims/result.py", "tests/test_claims.py -k not(seeds)")
CLAIM_SESSION = Source("lab/claims/session.py", "tests/test_claims.py -k not(seeds)")
CLAIM_TRAININGS = Source("lab/claims/trainings.py", "tests/test_claims.py -k not(seeds)")
OUTCOME = Source("lab/findings/outcome.py", "tests/test_thresholds.py")
PROGRESS = Source("lab/report/tuning_figures.py", "tests/test_tune_report.py -k best_so_far")
SLICES = Source("lab/report/tuning_slices.py", "tests/test_tune_report.py -k slice")
SCORE_AXIS = Source("lab/report/tuning_axes.py", "tests/test_tune_report.py -k bad_trials")
IMPORTANCES = Source("lab/tuning/importances.py", "tests/test_tune_report.py -k important")
LOCK = Source("lab/runs/lock.py", "tests/test_run_directory.py")
RUN_DIRECTORY = Source("lab/runs/directory.py", "tests/test_run_directory.py")
TASK_CODE = Source("lab/runs/task_code.py", "tests/test_task_code.py")
VOWELS = Source("lab/tasks/vowels.py", "tests/test_tasks.py::test_padding_of_vowels_changes_no_score")
MOVIES = Source("lab/tasks/movies.py", "tests/test_tasks.py::test_padding_of_movies_changes_no_logit")
CAUSAL = Source(
    "lab/tasks/shakespeare_transformer.py", "tests/test_tasks.py::test_a_transformer_sees_no_later_character"
)
CIFAR10 = Source("lab/tasks/cifar10.py", "tests/test_cifar10.py")
GRADIENTS = Source("monitor/findings/gradients.py", "tests/test_thresholds.py")
SPIKES = Source("monitor/findings/gradients.py", "tests/test_findings.py::test_a_spike_weighs_more_in_a_young_average")
DECAYS = Source("monitor/findings/weight_decay.py", "tests/test_thresholds.py")
HISTORY = Source("monitor/findings/history.py", "tests/test_thresholds.py")
POST_MORTEM = Source("monitor/post_mortem.py", "tests/test_post_mortem.py")
CHECKS = Source("torch/engines/param_step.py", "tests/test_faults.py")
GROUPS = Source("torch/groups.py", "tests/test_faults.py")
WRAPPED_GROUPS = Source("torch/groups.py", "tests/test_wrappers.py -k dropped")
WATCH = Source("monitor/watch.py", "tests/test_script.py -k optimizer_dies")
DECAY = Source("torch/decay.py", "tests/test_decay.py")
ERRORS = Source("errors.py", "tests/test_groups.py")
BUDGET = Source("checkpoint/formats/read_budget.py", "tests/test_checkpoint_files.py")
TORCH_FILE = Source("checkpoint/formats/torch_file.py", "tests/test_checkpoint_files.py")
PRIVATE = Source(
    "torch/private.py",
    "tests/test_older_torch.py::test_every_variant_is_stepped_and_watched_without_the_names_of_the_newest_torch",
)
STEP = Source("kernel/step.hpp")
HALF = Source("kernel/half.hpp")
RUN = Source("kernel/run.cpp")
SMALL = Source("kernel/low_precision.hpp")
STAGE = Source("kernel/stage.hpp")
NOISE = Source("kernel/noise.hpp")
ROWS = Source("kernel/row_sweep.hpp")
MEASURE = Source("kernel/measure.hpp")
SWEEP = Source("kernel/sweep.cpp")

MUTANTS = [
    Mutant("unchanged", RULE, "", ""),
    Mutant("E1 sign kept", RULE, "g = -g  # E1", "pass"),
    Mutant("E2 λ's sign", RULE, "g = g + lam * p", "g = g - lam * p"),
    Mutant("E2 λ decoupled, sign", RULE, "p = p - (eta * lam) * p", "p = p + (eta * lam) * p"),
    Mutant("E2 λ decoupled, without η", RULE, "(eta * lam) * p", "lam * p"),
    Mutant("E3 decay +1 %", RULE, "v = np.asarray(beta * v +", "v = np.asarray(1.01 * beta * v +"),
    Mutant("E3 decay −1 %", RULE, "v = np.asarray(beta * v +", "v = np.asarray(0.99 * beta * v +"),
    Mutant("E3 sign of 1−β", RULE, "((1 - beta) * g) * g", "((beta - 1) * g) * g"),
    Mutant("E4 decay", RULE, "m + (1 - beta) * (g - m)", "m + 0.99 * (1 - beta) * (g - m)"),
    Mutant("E5 floor of the variance", RULE, "s = maximum(s - m * m, kappa * v)", "s = s - m * m"),
    Mutant("E5 floor too high", RULE, "kappa = 4 *", "kappa = 4000 *"),
    Mutant("E5 floor of the correction", RULE, "maximum(v - power * rule.initial_square_avg, kappa * v)",
           "(v - power * rule.initial_square_avg)"),
    Mutant("E5 correction off by a step", RULE, "rule.decay**state.step", "rule.decay ** (state.step + 1)"),
    Mutant("E5 mean not corrected", RULE, "m = None if m is None else m / weight", "pass"),
    Mutant("E6 eps always inside", RULE, "if rule.eps_inside_sqrt else", "if True else"),
    Mutant("E6 eps always outside", RULE, "if rule.eps_inside_sqrt else", "if False else"),
    Mutant("E7 guard", RULE, "where=d != 0", "where=d == d"),
    Mutant("E8 lr never in the buffer", RULE, "u = eta * u", "u = u"),
    Mutant("E8 lr always in the buffer", RULE, "if rule.lr_in_momentum:", "if True:"),
    Mutant("E8 nesterov", RULE, "r = u + mu * b if rule.nesterov else b", "r = b"),
    Mutant("E8 momentum as an average", RULE, "np.asarray(mu * b + u)", "np.asarray(mu * b + (1 - mu) * u)"),
    Mutant("E3 maximum forgotten", RULE, "np.maximum(np.zeros_like(p) if w is None else w, v)", "v"),
    Mutant("E5 v in place of its maximum", RULE, '"max_square_avg" if rule.amsgrad else "square_avg"', '"square_avg"'),
    Mutant("E7 weight of the gradient average", RULE, "b + (1 - mu) * (g - b)", "b + mu * (g - b)"),
    Mutant("E7 a without its correction", RULE, "return -1 / xp.expm1(log_product), 0.0", "return 1.0, 0.0"),
    Mutant("E7 nesterov without c", RULE, "a * b + c * g if rule.nesterov else a * b", "a * b"),
    Mutant("E7 nesterov always", RULE, "(mu, 1 - mu) if rule.nesterov else (1.0, 0.0)", "(mu, 1 - mu)"),
    Mutant("E7 a, a step behind", RULE, "(t + 1) * log_mu", "t * log_mu"),
    Mutant("E7 schedule a step behind", RULE, "for i in (t, t + 1))", "for i in (t - 1, t))"),
    Mutant("E7 schedule, μₜ for μₜ₊₁", RULE, "return -mu_next / xp.expm1", "return -mu_now / xp.expm1"),
    Mutant("E7 schedule, ½", RULE, "(1 - 0.5 * xp.exp", "(1 - 0.505 * xp.exp"),
    Mutant("E7 schedule, 0.96", RULE, "psi * math.log(0.96)", "psi * math.log(0.9504)"),
    Mutant("E7 product of 20 terms", ADAM, "range(1, 61)", "range(1, 21)"),
    Mutant("E7 momentum 0", ADAM, " or (isinstance(mu, float) and mu == 0)", ""),
    Mutant("E8 after an average, too", RULE, "if mu and not rule.first_moment:", "if mu:"),
    Mutant("w is dropped", RULE, "State(t, v, m, b, w)", "State(t, v, m, b)"),
    Mutant("first_moment with η in the buffer", RULE, "if self.first_moment and self.lr_in_momentum:", "if False:"),
    Mutant("a schedule for everyone", RULE, "if self.momentum_decay and not (", "if False and not ("),
    Mutant("amsgrad, v₀ corrected", RULE, "if self.amsgrad and self.bias_correction and self.initial_square_avg:",
           "if False:"),
    Mutant("v₀ ignored", RULE, "np.full_like(param, rule.initial_square_avg)", "np.zeros_like(param)"),
    Mutant("bounds of decay", TABLE, '"decay", 1.0,', '"decay", 1.1,'),
    Mutant("tensors: E1 sign kept", TENSORS, "g = g.neg()  # E1", "pass"),
    Mutant("tensors: E2 λ's sign", TENSORS, "g.add(p, alpha=lam)", "g.add(p, alpha=-lam)"),
    Mutant("tensors: E2 λ decoupled, sign", TENSORS, ".mul(lr * lam), alpha=-1)", ".mul(lr * lam), alpha=1)"),
    Mutant("tensors: E3 decay +1 %", TENSORS, "v.mul_(beta).addcmul_", "v.mul_(1.01 * beta).addcmul_"),
    Mutant("tensors: E3 decay −1 %", TENSORS, "v.mul_(beta).addcmul_", "v.mul_(0.99 * beta).addcmul_"),
    Mutant("tensors: E4 decay", TENSORS, '["grad_avg"], g, 1 - beta', '["grad_avg"], g, 0.99 * (1 - beta)'),
    Mutant("tensors: E5 floor of the variance", TENSORS, "variance.maximum(v.mul(kappa))", "variance"),
    Mutant("tensors: E5 floor of the correction", TENSORS, "v.add(start).maximum(v.mul(kappa))", "v.add(start)"),
    Mutant("tensors: E5 mean not corrected", TENSORS, "m = None if m is None else m.div(weight)", "pass"),
    Mutant("tensors: E6 eps always outside", TENSORS, "if rule.eps_inside_sqrt:", "if False:"),
    Mutant("tensors: E6 eps always inside", TENSORS, "if rule.eps_inside_sqrt:", "if True:"),
    Mutant("tensors: E7 guard, one tensor", TENSORS, "return d.masked_fill(d == 0, math.inf)", "return d"),
    Mutant("tensors: E7 guard, many", TENSORS, "return d.masked_fill_zeros(math.inf)", "return d"),
    Mutant("tensors: E8 lr never in the buffer", TENSORS, "if rule.lr_in_momentum else", "if False else"),
    Mutant("tensors: E8 lr always in the buffer", TENSORS, "if rule.lr_in_momentum else", "if True else"),
    Mutant("tensors: E8 nesterov", TENSORS, "if rule.nesterov:", "if False:"),
    Mutant("tensors: E3 maximum forgotten", TENSORS_ADAM, 'averages["max_square_avg"].clamp_(_saved(v))', "pass"),
    Mutant("tensors: E5 v in place of its maximum", TENSORS_ADAM, '"max_square_avg" if rule.amsgrad else', ""),
    Mutant("tensors: E7 weight of the average", TENSORS_ADAM, "_average_(b, g, 1 - mu,", "_average_(b, g, mu,"),
    Mutant("tensors: E7 without a", TENSORS_ADAM, "n = b.mul(numbers.a)", "n = b.mul(1.0)"),
    Mutant("tensors: E7 nesterov without c", TENSORS_ADAM, "n.add(g.mul(numbers.c)) if rule.nesterov else n", "n"),
    Mutant("tensors: E7 order of the bits", TENSORS, "x.add_(g.add(x, alpha=-1).mul(weight))", "x.lerp_(g, weight)",
           "tests/test_low_precision.py"),
    Mutant("tensors: numbers of another step", TENSORS_ADAM, "moment_weights(rule, t,", "moment_weights(rule, t + 1,"),
    Mutant("tensors: E8 after an average, too", TENSORS_ADAM, "if b is not None and rule.first_moment:", "if False:"),
    Mutant("sparse: the maximum not caught up", SPARSE, "w.copy_(maximum)", "pass"),
    Mutant("state: w with a sign", RULE, 'SQUARES = ("square_avg", "max_square_avg")', 'SQUARES = ("square_avg",)',
           "tests/test_low_precision.py"),
    Mutant("state: v₀ ignored", STATE, "value = complex(start, start) if p.is_complex() else start", "value = 0.0"),
    Mutant("state: half state", STATE, "return COMPUTE.get(p.dtype, p.dtype)", "return p.dtype"),
    Mutant("loading: loaded state rounded", STATE_DICT, "state[name] = value.to(p.device)", "pass"),
    Mutant("fused: another path asked for", FUSED, 'or group["foreach"] is not None or', "or"),
    Mutant("fused: modes not seen", FUSED, "if modes:", "if False:"),
    Mutant("fused: reasons swallowed", FUSED_ONLY, 'if group["fused"] and indices:', "if False:"),
    Mutant("fused: group without gradients", FUSED_ONLY, '["fused"] and indices:', '["fused"]:', TRITON_FUSED),
    Mutant("Triton: unchanged", TRITON, "", ""),
    Mutant("Triton: E1 sign kept", TRITON, "g = tl.load(c + SIGN) * g", "g = g"),
    Mutant("Triton: E2 λ's sign", TRITON, "g = g + tl.load(c + LAMBDA) * p", "g = g - tl.load(c + LAMBDA) * p"),
    Mutant("Triton: E2 decoupled, sign", TRITON, "p = p - tl.load(c + LAMBDA) * p", "p = p + tl.load(c + LAMBDA) * p"),
    Mutant("Triton: E3 order", TRITON, "(tl.load(c + ONE_MINUS_BETA) * g) * g", "g * g * tl.load(c + ONE_MINUS_BETA)"),
    Mutant("Triton: E3 maximum of NaN", TRITON, "tl.where(v != v, v, maximum(w, v))", "maximum(w, v)", TRITON_ENDS),
    Mutant("Triton: E3 maximum not kept", TRITON, "store_average(w_address, w,", "(w_address, w,"),
    Mutant("Triton: E4 1−β", TRITON, "tl.load(c + ONE_MINUS_BETA) * (g - m)", "tl.load(c + BETA) * (g - m)"),
    Mutant("Triton: E5 v₀ kept", TRITON, "maximum(top - tl.load(c + DECAYED_V0), ", "maximum(top, "),
    Mutant("Triton: E5 mean not corrected", TRITON, "m_hat = quotient(m, weight)", "m_hat = m"),
    Mutant("Triton: E5 floor not corrected", TRITON, "v_hat = quotient(top, weight)", "v_hat = top"),
    Mutant("Triton: E5 no floor", TRITON, "s = maximum(s - m_hat * m_hat, tl.load(c + KAPPA) * v_hat)", "s -= m_hat"),
    Mutant("Triton: E5 minimum", TRITON, "return tl.where(a < b, b, a)", "return tl.where(a < b, a, b)"),
    Mutant("Triton: E6 ε only inside", TRITON, " + tl.load(c + EPS_OUTSIDE)", ""),
    Mutant("Triton: E6 ε only outside", TRITON, "root(s + tl.load(c + EPS_INSIDE))", "root(s)"),
    Mutant("Triton: E7 0/0", TRITON, "tl.where(d != 0, quotient(n, tl.where(d != 0, d, 1.0)), 0.0)", "quotient(n, d)"),
    Mutant("Triton: E7 c·g", TRITON, "n = n + tl.load(c + C) * g", "n = n + tl.load(c + A) * g"),
    Mutant("Triton: E7 1−μ", TRITON, "tl.load(c + ONE_MINUS_MU) * (g - b)", "tl.load(c + MU) * (g - b)"),
    Mutant("Triton: E8 η outside", TRITON, "u = tl.load(c + LR_INSIDE) * u", "u = u"),
    Mutant("Triton: E8 Nesterov", TRITON, "r = u + tl.load(c + MU) * b", "r = b + tl.load(c + MU) * u"),
    Mutant("Triton: E9 η inside", TRITON, "p = p - tl.load(c + LR_OUTSIDE) * r", "p = p - tl.load(c + LR_INSIDE) * r"),
    Mutant("Triton: 16 bits cut", TRITON_BITS, "(bits + 0x7FFF + ((bits >> 16) & 1)) >> 16", "bits >> 16", TRITON_HALF),
    Mutant("Triton: bfloat16 ties up", TRITON_BITS, "0x7FFF + ((bits >> 16) & 1)", "0x8000", TRITON_HALF),
    Mutant("Triton: bfloat16 NaN rounded", TRITON_BITS, "tl.where(x == x, ", "tl.where(bits == bits, ", TRITON_NAN),
    Mutant("Triton: noise of another average", TRITON, "mask, keys, 2, STATE", "mask, keys, 1, STATE", TRITON_NOISE),
    Mutant("Triton: one noise", TRITON_BITS, "tl.uint32) + elements", "tl.uint32) + 0 * elements", TRITON_NOISE),
    Mutant("Triton: keys of the first tensor", TRITON, "keys += KEYS * tl", "keys += 0 * tl", TRITON_NOISE),
    Mutant("Triton: noise not added", TRITON_BITS, "(magnitude + (noise >> 16))", "(magnitude + 0x8000)", TRITON_NOISE),
    Mutant("Triton: rounded to infinity", TRITON_BITS, "rounded > 0x7F7F, 0x7F7F", "rounded < 0, 0", TRITON_LARGEST),
    Mutant("Triton: infinity made finite", TRITON_BITS, "magnitude < 0x7F8", "magnitude < 0x7F9", TRITON_LARGEST),
    Mutant("Triton: sign lost", TRITON_BITS, "(rounded | ((bits >> 16) & 0x8000))", "rounded", TRITON_NOISE),
    Mutant("Triton: 8 bits, sign not read", TRITON_BITS, " | ((codes.to(tl.int32) & 128) << 24)", "", TRITON_PACKED),
    Mutant("Triton: 8 bits, sign not kept", TRITON_BITS, "codes | ((bits >> 24) & 128)", "codes", TRITON_PACKED),
    Mutant("Triton: 8 bits, subnormal codes", TRITON_BITS, "tl.where(k < 8, ", "tl.where(k < 0, ", TRITON_PACKED),
    Mutant("Triton: 8 bits, NaN not read", TRITON_BITS, "shared == 255, float", "shared == 256, float", TRITON_PACKED),
    Mutant("Triton: 8 bits, rounded up too far", TRITON_BITS, "+ ((1 << 20) - 1)) >> 23", ") >> 23", TRITON_PACKED),
    Mutant("Triton: 8 bits, exponent of infinity", TRITON_BITS, ">> 23, 254)", ">> 23, 255)", TRITON_PACKED),
    Mutant("Triton: 8 bits, codes too large", TRITON_BITS, "TOP << 3 | 7", "255", TRITON_PACKED),
    Mutant("Triton: 8 bits, small ones to 0", TRITON_BITS, "(magnitude != 0).to", "(magnitude < 0).to", TRITON_PACKED),
    Mutant("Triton: 8 bits, no noise", TRITON_BITS, "(noise >> 12).to", "(noise & 0).to", TRITON_PACKED),
    Mutant("Triton: 8 bits, block of NaN kept", TRITON_BITS, "tl.where(lost, 255, shared)", "shared", TRITON_PACKED),
    Mutant("Triton: 8 bits, exponents of block 0", TRITON_BITS, " + start // PACKED", "", TRITON_BLOCKS),
    Mutant("Triton: 8 bits, exponents not masked", TRITON_BITS, "* PACKED < (size", "* PACKED >= (size", TRITON_BLOCKS),
    Mutant("Triton: last block not stepped", TRITON, "offsets < (size - start).to(tl.int32)", "offsets < 0"),
    Mutant("Triton: block index", TRITON, "tl.load(at + 1).to(tl.int64) * BLOCK", "tl.load(at + 1).to(tl.int64)"),
    Mutant("Triton: scalars of the first row", TRITON, "NUMBERS * tl.load(row + SCALARS)", "0", TRITON_ROWS),
    Mutant("Triton: table kept", TRITON_TABLES, "is not None and table.lists == lists", "is not None"),
    Mutant("Triton: gradients count as written", TRITON_TABLES, "np.nonzero(used)[1] != 1", "np.nonzero(used)[1] != 6"),
    Mutant("Triton: NaN is finite", TRITON, "FLOAT32_LIMIT)) == 0", "FLOAT32_LIMIT)) < (g == g)", TRITON_BAD),
    Mutant("Triton: limit of float64", TRITON, "FLOAT64_LIMIT if", "FLOAT32_LIMIT if", TRITON_BAD),
    Mutant("Triton: zeroed not said", TRITON, "tl.store(zeroed + 0 * offsets, 1, bad)", "pass", TRITON_BAD),
    Mutant("Triton: not zeroed", TRITON, "g = tl.where(bad, 0.0, g)", "pass", TRITON_BAD),
    Mutant("Triton: not skipped", TRITON, "if tl.load(skip) != 0:", "if tl.load(skip) == 2:", TRITON_SKIP),
    Mutant("Triton: bad gradients not found", TRITON, "tl.store(found + 0 * offsets, 1, ", "(0, 1, ", TRITON_SKIP),
    Mutant("Triton: compiled again", TRITON_COMPILER, "_compiled.add(key)", "pass"),
    Mutant("Triton: announced often", TRITON_COMPILER, "seconds > 1 and not _told", "seconds > -1"),
    Mutant("Triton: old GPU taken", TRITON_COMPILER, "capability >= CAPABILITY", "capability"),
    Mutant("Triton: compiled in mid-step", TRITON_COMPILER, "if key in _compiled:", "if key:"),
    Mutant("Triton: skipped step counted", TRITON_ENGINE, "device: (~skip).to", "device: (~skip | skip).to"),
    Mutant("Triton: overlap stepped at once", TRITON_ENGINE, "if not self._overlapping:", "if True:"),
    Mutant("Triton: step not counted", TRITON_ENGINE, "_by_device([each.counter for each in taken])", "{}"),
    Mutant("Triton: version not counted", TRITON_ENGINE, "_version([each.p for each in taken])", "_version([])"),
    Mutant("Triton: λ without η on the device", TRITON_LAUNCHES, 'numbers["lam"] = lr * rule.weight_decay', "pass"),
    Mutant("Triton: device counts the step before", TRITON_LAUNCHES, "in work.taken]) + 1", "in work.taken])"),
    Mutant("Triton: loss scale not maximized", TRITON_LAUNCHES, "(-1.0 if rule.max", "(1.0 if rule.max", TRITON_SCALER),
    Mutant("nonfinite: GradScaler's skips counted", BAD, " & ~found.to(judgement.nonfinite.device)", "", TRITON_SCALER),
    Mutant("nonfinite: GradScaler not heard", BAD, "either([found, judgement.skip])", "judgement.skip", TRITON_SCALER),
    Mutant("Triton: other strides", TRITON_TAKEN, "_same_layout(p, g) else", "p is p else"),
    Mutant("Triton: other layout not seen", TRITON_TAKEN, "own.shape, own.stride()) != layout", "own.shape) == 0"),
    Mutant("Triton: other average not seen", TRITON_TAKEN, "x is not averages.get(name)", "False"),
    Mutant("Triton: other counter not seen", TRITON_TAKEN, 'known.counter is not state.get("step")', "False"),
    Mutant("Triton: other placements", TRITON_TAKEN, "if not _same_placements(p, g):", "if False:"),
    Mutant("Triton: gaps", TRITON_TAKEN, 'return REASONS["strides"]', "pass"),
    Mutant("kernel: unchanged", STEP, "", ""),
    Mutant("kernel: E1 sign kept", STEP, "g = c.sign * g;", ""),
    Mutant("kernel: E2 λ's sign", STEP, "g = g + c.lambda * p;", "g = g - c.lambda * p;"),
    Mutant("kernel: E2 λ decoupled, sign", STEP, "p = p - c.lambda * p;", "p = p + c.lambda * p;"),
    Mutant("kernel: E3 order", STEP, "(c.one_minus_beta * g) * g", "c.one_minus_beta * (g * g)"),
    Mutant("kernel: E4 as E3", STEP, "m = m + c.one_minus_beta * (g - m)",
           "m = c.beta * m + c.one_minus_beta * g"),
    Mutant("kernel: E5 NaN lost", STEP, "a < b ? b : a", "a > b ? a : b"),
    Mutant("kernel: E5 floor of the variance", STEP, "s = maximum(difference, floor);", "s = difference;"),
    Mutant("kernel: E5 floor of the correction", STEP, "maximum(difference, floor) / c", "difference / c"),
    Mutant("kernel: E5 mean not corrected", STEP, "m_hat = m / c.one_minus_power;", ""),
    Mutant("kernel: E6 eps never inside", STEP, "root(s + c.eps_inside)", "root(s)"),
    Mutant("kernel: E7 guard", STEP, "d != 0 ? n / d : T(0)", "n / d"),
    Mutant("kernel: E3 NaN lost by the maximum", STEP, "b != b ? b : maximum(a, b)", "maximum(a, b)"),
    Mutant("kernel: E5 by v beside its maximum", STEP, "top = w = maximum", "w = maximum"),
    Mutant("kernel: E7 average as E3", STEP, "b = b + c.one_minus_mu * (g - b)", "b = c.mu * b + c.one_minus_mu * g"),
    Mutant("kernel: E7 without c", STEP, "c.a * b + c.c * g", "c.a * b"),
    Mutant("kernel: E7 without a", STEP, ": c.a * b;", ": b;"),
    Mutant("kernel: E8 lr never in the buffer", STEP, "u = c.lr_inside * u;", ""),
    Mutant("kernel: E8 nesterov", STEP, "? u + c.mu * b : b", "? b : b"),
    Mutant("kernel: E9 without η", STEP, "p = p - c.lr_outside * r;", "p = p - r;"),
    Mutant("kernel: bfloat16, ties up", HALF, "(f >> 16 & 1u)", "1u"),
    Mutant("kernel: float16, ties up", HALF, "(magnitude >> 13 & 1u)", "1u"),
    Mutant("kernel: float16, subnormal", HALF, "magnitude < (113u << 23)", "magnitude < (112u << 23)"),
    Mutant("eight bits: noise shared", LOW, "_hash((key + i) & _MASK) for i", "_hash(key & _MASK) for i"),
    Mutant("eight bits: sign lost", LOW, "codes | (x.signbit().int() << 7) if", "codes if"),
    Mutant("eight bits: small ones 0", LOW, "codes.maximum((x != 0).int())", "codes"),
    Mutant("eight bits: not finite, and stored so", LOW, "largest >= 0x7F800000, 255", "largest >= 0x7F800000, 254"),
    Mutant("eight bits: range left", LOW, "(largest + (1 << 20) - 1)", "largest"),
    Mutant("eight bits: κ of float32", LOW, "torch.uint8: 2.0**-1", "torch.uint8: 2.0**-21"),
    Mutant("bfloat16: to nearest", LOW, "(_hash((indices + key) & _MASK) >> 16).int()", "0x8000"),
    Mutant("bfloat16: into infinity", LOW, ".clamp(max=0x7F7F)", ""),
    Mutant("not finite: squares not seen", BAD, "g.abs() < 2.0 ** (512 if", "g.abs() < 4.0 ** (512 if"),
    Mutant("not finite: ranks not asked", RANKS, "return value > 0", "return flag"),
    Mutant("sparse: rows not caught up", SPARSE, "rows.mul_(weight)", "pass"),
    Mutant("sparse: m not caught up", SPARSE, "for rows in averages.values():",
           "for rows in list(averages.values())[:1]:"),
    Mutant("sparse: a step too many", SPARSE, "(step - _take(row_step, row_indices))",
           "(step + 1 - _take(row_step, row_indices))"),
    Mutant("kernel: rows, m not caught up", ROWS, "catch_up(row_of(a.m), n, rows.decay, weight);", ""),
    Mutant("kernel: rows, maximum not raised", ROWS, "if (lag) raise_maximum", "if (false) raise_maximum"),
    Mutant("kernel: rows, ∞ times 0", ROWS, "weight == 0 && decay != 0", "false"),
    Mutant("kernel: rows, a step too many", ROWS, "rows.step - rows.row", "rows.step + 1 - rows.row"),
    Mutant("kernel: rows, only first entries", ROWS, "while (++entry != end)", "while (++entry < entry)"),
    Mutant("kernel: rows, step not noted", ROWS, "rows.row_step[row] = rows.step + 1;", ";"),
    Mutant("kernel: eight bits, small ones 0", SMALL, "codes[i] = k > least ? k : least;", "codes[i] = k;"),
    Mutant("kernel: noise shared by averages", RUN, "hash(key + i)", "hash(key)"),
    Mutant("kernel: blocks cut", RUN, "+ block - 1) / block * block", ")"),
    Mutant("kernel: eight bits, subnormal", SMALL, "k < 8 ?", "k < 7 ?"),
    Mutant("kernel: eight bits, range left", SMALL, "kInfinity) + (1 << 20) - 1)", "kInfinity))"),
    Mutant("kernel: eight bits, out of range", SMALL, "too_large ? limited : from", "from"),
    Mutant("kernel: bfloat16 into infinity", SMALL, "(sum < top ? sum : top)", "sum"),
    Mutant("kernel: last chunk not stored", STAGE, "if (previous->n) store_all(*previous);\n  return", "return"),
    Mutant("kernel: hash", NOISE, "x ^ x >> 15", "x ^ x >> 14"),
    Mutant("kernel: average without its sign", STAGE, "converted(a.m, storage.state, true,",
           "converted(a.m, storage.state, false,"),
    Mutant("kernel: noise of another average", STAGE, "true, storage.keys[3]", "true, storage.keys[2]"),
    Mutant("kernel: maximum with a sign", STAGE, "convert(from.w, a.w, storage.state, false,",
           "convert(from.w, a.w, storage.state, true,"),
    Mutant("kernel: noise of the maximum", STAGE, "true, storage.keys[4]", "true, storage.keys[1]"),
    Mutant("kernel: gradients not cleaned", STAGE, "limit<T>() ? g[i] : T(0)", "limit<T>() ? g[i] : g[i]"),
    Mutant("kernel: 1−β rounded twice", RUN, "static_cast<T>(1 - rule.decay)", "T(1) - static_cast<T>(rule.decay)"),
    Mutant("statistics: v after the step", STATISTICS, "name, param_step.p).clone()", "name, param_step.p)"),
    Mutant("statistics: a bin too high", STATISTICS, ".exponent - 1 ", ".exponent "),
    Mutant("kernel: statistics, v after the step", SWEEP, "history += v[i];", "history += x.v;"),
    Mutant("kernel: statistics, v beside its maximum", SWEEP, "has_w ? w : v;", "v;"),
    Mutant("kernel: statistics, eps by v", SWEEP, "s_bits = bits_of(x.s)", "s_bits = bits_of(x.v)"),
    Mutant("kernel: statistics, unchanged by 0", MEASURE, "(x != 0) & (change == 0)", "change == 0"),
    Mutant("kernel: statistics, squares too small", MEASURE, "sum > (sizeof(T)", "sum >= 0 * (sizeof(T)"),
    Mutant("kernel: statistics, parts not added", RUN, "add(k, part.sums[k]);", "sums[k] = part.sums[k];"),
    Mutant("kernel: last elements skipped", RUN, "+ total % chunks * k / chunks", ""),
    Mutant("jax: E1 sign kept", JAX, "g = -g  # E1", "pass"),
    Mutant("jax: E2 λ's sign", JAX, "g = g + lam * p  # E2", "g = g - lam * p"),
    Mutant("jax: E2 λ decoupled, without η", JAX, "(eta * lam) * p", "lam * p"),
    Mutant("jax: E3 decay", JAX, "v = beta * v +", "v = 1.01 * beta * v +"),
    Mutant("jax: E5 without floors", JAX, "kappa, jnp.maximum)", "kappa, lambda x, y: x)"),
    Mutant("jax: E8 nesterov", JAX, "r = u + mu * b if rule.nesterov else b", "r = b"),
    Mutant("jax: E3 the maximum forgets", JAX, "jnp.maximum(w, v)", "v"),
    Mutant("jax: E7 weights of g and b exchanged", JAX, "b + (1 - mu) * (g - b)", "b + mu * (g - b)"),
    Mutant("jax: E7 bias of b kept", JAX, "moment_weights(rule, step, jnp)", "moment_weights(rule, 1e9, jnp)"),
    Mutant("jax: E7 nesterov", JAX, "numbers.a * b + numbers.c * g if", "numbers.a * b if"),
    Mutant("jax: an array of v₀ with amsgrad", JAX, '"initial_square_avg" in arrays', "False",
           "tests/test_jax.py::test_numbers_beside_a_rule_go_before_its_own_and_follow_schedules"),
    Mutant("jax: w dropped without amsgrad", JAX, "else state.max_square_avg", "else None",
           "tests/test_jax.py::test_averages_that_a_rule_does_not_use_are_kept"),
    Mutant("jax: v₀ ignored", JAX, "average(variant.initial_square_avg)", "average(0.0)"),
    Mutant("jax: m dropped where not centered", JAX, "else state.grad_avg", "else None",
           "tests/test_jax.py::test_averages_that_a_rule_does_not_use_are_kept"),
    Mutant("jax: the count wraps", JAX, "optax.safe_increment(state.step)", "state.step + 1",
           "tests/test_jax.py::test_the_count_of_updates_stops_at_its_largest_number"),
    Mutant("jax: the first count is not on the mesh of the parameters", JAX,
           "isinstance(p.sharding, NamedSharding)", "False", "tests/test_jax_sharding.py"),
    Mutant("keras: E1 sign kept", KERAS, "g = -g  # E1", "pass"),
    Mutant("keras: E3 decay", KERAS, "v = beta * v +", "v = 1.01 * beta * v +"),
    Mutant("keras: E8 nesterov", KERAS, "r = u + mu * b if rule.nesterov else b", "r = b"),
    Mutant("keras: E3 the maximum forgets", KERAS, '_maximum(v, ops.convert_to_tensor(state["max_square_avg"], dtype))',
           "v"),
    Mutant("keras: E3 the maximum hides NaN", KERAS,
           '_maximum(v, ops.convert_to_tensor(state["max_square_avg"], dtype))',
           '_maximum(ops.convert_to_tensor(state["max_square_avg"], dtype), v)',
           "tests/keras_checks.py::test_the_maximum_does_not_hide_what_is_not_finite"),
    Mutant("keras: E7 weights of g and b exchanged", KERAS, "b + (1 - mu) * (g - b)", "b + mu * (g - b)"),
    Mutant("keras: E7 nesterov", KERAS, "a * b + c * g if", "a * b if"),
    Mutant("keras: a step behind", KERAS, "ops.cast(self.iterations + 1, dtype)", "ops.cast(self.iterations, dtype)"),
    Mutant("pytensor: E1 sign kept", PYTENSOR, "g = -g  # E1", "pass"),
    Mutant("pytensor: E3 decay", PYTENSOR, "beta * square_avg +", "1.01 * beta * square_avg +"),
    Mutant("pytensor: E3 the maximum forgets", PYTENSOR, "pt.maximum(max_square_avg, v)", "v"),
    Mutant("pytensor: E7 weights of g and b exchanged", PYTENSOR, "number(1 - rule.momentum) * (g", "mu * (g"),
    Mutant("pytensor: E7 nesterov", PYTENSOR, "a * b + c * g if", "a * b if"),
    Mutant("pytensor: E7 weights rounded to floatX", PYTENSOR, 'with autocast_float_as("float64"):', "if True:",
           "tests/test_pytensor.py::test_the_weights_of_the_moment_do_not_depend_on_floatx"),
    Mutant("pytensor: E8 nesterov", PYTENSOR, "r = u + mu * b if rule.nesterov else b", "r = b"),
    Mutant("state dicts: a newer version", DICTS, "or version > VERSION", "or False"),
    Mutant("keras files: not all numbers", H5, "if size > dataset.id.get_storage_size():", "if False:",
           "tests/test_checkpoint_like.py::test_a_keras_file_holds_all_of_its_numbers"),
    Mutant("keras files: blocks unequal", H5_ORDER, "len(found) <= 1 and", "True and",
           "tests/test_checkpoint_like.py::test_blocks_of_keras_variables_have_equal_shapes"),
    Mutant("keras files: b and v of Adam exchanged", H5_ORDER, '("momentum_buffer", "square_avg")',
           '("square_avg", "momentum_buffer")',
           "tests/test_convert_keras_adam.py::test_a_run_of_keras_continues_here_and_back_as_if_uninterrupted"),
    Mutant("keras files: batches counted as steps", H5, "_variables[0]), self._batches)", "_variables[0]), 1)",
           "tests/test_convert_keras_adam.py::test_accumulated_batches_are_no_steps"),
    Mutant("optax files: the count of a schedule", TREES, "counts = counts or _counts(", "counts = _counts(",
           "tests/test_convert_optax_adam.py::test_the_count_beside_v_is_that_of_the_bias_correction"),
    Mutant("conversion: the maximum the other way", MOVING_ADAM, "wide * weight if after else wide / weight",
           "wide / weight if after else wide * weight"),
    Mutant("conversion: ε of Keras' Adam not remarked", MOVING_ADAM,
           "ours.eps_before_correction != theirs.eps_before_correction", "False",
           "tests/test_convert_keras_adam.py::test_the_epsilon_of_keras_is_said_to_be_another"),
    Mutant("optax files: sign of the trace", TREES, "keys: -b for keys, b in", "b[keys] if b else None",
           "tests/test_checkpoint.py::test_optax_goes_on_in_ours_and_the_other_way"),
    Mutant("conversion: η the other way", MOVING, "operator.truediv if from_ else operator.mul",
           "operator.mul if from_ else operator.truediv",
           "tests/test_checkpoint.py::test_at_a_constant_rate_the_converted_state_gives_the_same_steps"),
    Mutant("conversion: the quotient rounded twice", MOVING, "np.complex128 if np.iscomplexobj(buffer) else np.float64",
           "buffer.dtype", "tests/test_checkpoint.py::test_a_quotient_is_rounded_once"),
    Mutant("schedules: linear a step late", SCHEDULES, "xp.maximum(run.total_steps - step, 0)",
           "xp.maximum(run.total_steps - step + 1, 0)",
           "tests/test_recipes.py::test_linear_schedules_end_at_0_and_stay_there"),
    Mutant("schedules: warm-up", SCHEDULES, "part = step / end", "part = (step + 1) / end",
           "tests/test_recipes.py::test_efficientnet_has_left_its_peak_behind_when_the_warm_up_ends "
           "tests/test_recipes.py::test_a_first_step_with_rate_0_changes_the_average_and_not_the_weight"),
    Mutant("training: the order of the first epoch", TRAINING, "SeedSequence([seed, epoch])", "SeedSequence([seed, 0])",
           "tests/test_training.py::test_every_epoch_has_an_order_of_its_own"),
    Mutant("training: losses lost on resume", TRAINING, 'list(state["losses"])', "[]",
           "tests/test_training.py::test_losses_since_the_last_record_are_kept"),
    Mutant("training: the rate does not fall", TRAINING, "            self.scheduler.step()\n", "",
           "tests/test_training.py::test_schedules_set_the_rate"),
    Mutant("training: the first loss that is not finite ends a training that skips it", LOSSES,
           "steps_per_epoch if self._keeps_weights else 1", "1"),
    Mutant("training: losses in a row that are not finite are forgotten on resume", TRAINING,
           'state.get("lost", 0)', "0", "tests/test_train_options.py"),
    Mutant("training: one state of random generators for all processes", TRAINING,
           'return {**first, "other_ranks": others} if others else first', "return first",
           "tests/test_processes.py::test_a_run_that_two_processes_resume_has_the_bits_of_one_that_was_not_stopped"),
    Mutant("shares: ignored targets count", SHARED,
           'call.weights.sum() if call.form == "classes" else call.divisor()', "examples"),
    Mutant("shares: a sum is scaled as a mean", SHARED,
           "(weight > 0) if self._is_sum else weight / whole", "weight / whole"),
    Mutant("shares: an average over nothing counts", SHARED, "found.masked_fill(weight == 0, 0.0)", "found"),
    Mutant("shares: DDP waits for parameters that have no gradient", SHARED, "find_unused_parameters=unused",
           "find_unused_parameters=False"),
    Mutant("compare: seeds that chose the rates", COMPARE, "range(tuning_seeds, tuning_seeds + seeds)", "range(seeds)",
           "tests/test_compare.py::test_final_trainings_have_other_seeds_than_those_that_chose_the_rates"),
    Mutant("compare: gradients not clipped", TRIAL, "trial.schedule], task.clip)", "trial.schedule])",
           "tests/test_compare.py::test_every_training_clips_as_the_task_says"),
    Mutant("compare: the best epoch", TRIAL,
           'epochs[-1]["validation_metric"]', 'max(e["validation_metric"] for e in epochs)',
           "tests/test_compare.py::test_a_training_is_judged_by_its_last_epoch_and_not_by_its_best"),
    Mutant("compare: the best for the median", VERDICTS, "metric=median(values),",
           "metric=max(values),"),
    Mutant("compare: half of a grid widened", RATES, "WIDENED_BY = 2 ", "WIDENED_BY = 1 ",
           "tests/test_compare.py::"
           "test_a_grid_is_widened_once_where_a_rate_at_its_end_is_best_and_for_all_optimizers_alike"),
    Mutant("compare: the highest where lower is better", RATES, "-metric if higher_is_better else metric, mean",
           "-metric, mean"),
    Mutant("workers: many threads", WORKERS_PY, "torch.set_num_threads(1)", "pass"),
    Mutant("train: threads of this process", TRAIN, 'torch.set_num_threads(made_with["threads"])', "pass"),
    Mutant("find-lr: nearer to the lowest point", CURVE, "DIVISOR = 2.0", "DIVISOR = 1.5"),
    Mutant("statistics in NumPy: bins", DESCRIBED, "BINS = 128", "BINS = 96"),
    Mutant("an older torch: its own check", PRIVATE, '"_cuda_graph_capture_health_check"', '"_no_such_check"'),
    Mutant("an older torch: dtypes in another order", PRIVATE, "torch.bfloat16,\n    torch.float16,",
           "torch.float16,\n    torch.bfloat16,", "tests/test_tensor_readers.py"),
    Mutant("E5 floor of what is left of v", RULE, "s = maximum(s - m * m, kappa * v)",
           "s = maximum(s - m * m, kappa * s)", "tests/test_floor.py"),
    Mutant("kernel: E5 floor of what is left of v", STEP, "c.kappa * v_hat", "c.kappa * s"),
    Mutant("state: another shape", STATE, "if shape != p.shape:", "if False:", "tests/test_shapes.py"),
    Mutant("state: counters of float32", STATE, "else torch.float64)  # MPS", "else torch.float32)  # MPS",
           "tests/test_counter.py"),
    Mutant("checks: another device", CHECKS, "if x.device != device:", "if False:"),
    Mutant("checks: two counts", CHECKS, "step.numel() != 1", "step.numel() > 2"),
    Mutant("checks: overlapping memory", CHECKS, "other_start < end and", "other_start < start and"),
    Mutant(
        "groups: dropped arguments from the class",
        WRAPPED_GROUPS,
        "group.setdefault(name, defaults.get(name, default))",
        "group.setdefault(name, default)",
    ),
    Mutant(
        "run: an optimizer outlives its program's last reference",
        WATCH,
        "weakref.finalize(optimizer, _end, monitor).atexit = False",
        "pass",
    ),
    Mutant("run: what an optimizer in a cycle did is lost", WATCH, 'if "_watched" in vars(self):', "if False:"),
    Mutant("groups: lr below 0", GROUPS, "if 0 <= lr < math.inf:", "if lr < math.inf:"),
    Mutant("errors: 2 as a flag", ERRORS, "flag in (0, 1)", "flag in (0, 1, 2)"),
    Mutant("decay groups: parametrized biases", DECAY, "if is_parametrized(layer):", "if not layer:"),
    Mutant("score: a loss that is better higher", SCORE,
           'Score(name, higher_is_better=False, kind="loss", loss_is_sum=call.is_sum)',
           'Score(name, higher_is_better=True, kind="loss", loss_is_sum=call.is_sum)'),
    Mutant("score: batches alike", SCORE, "_by_examples.add(float(loss), examples", "_by_examples.add(float(loss), 1"),
    Mutant("loss: logits as probabilities", LOSS_CALL, "border = 0.0 if", "border = 0.5 if"),
    Mutant("returns: beyond the end", ROLLOUTS, "discount * following * ~ends[step]", "discount * following"),
    Mutant("returns: time limits as ends", ROLLOUTS, "reward[cut] += discount *", "reward[cut] += 0 *"),
    Mutant("returns: advantages", ROLLOUTS, "returns - torch.cat(values)", "returns"),
    Mutant("returns: drawn actions alike", ROLLOUTS, "torch.Generator().manual_seed(seed)", "torch.Generator()"),
    Mutant("policies: entropy", POLICIES, "- self.entropy_weight *", "+ self.entropy_weight *"),
    Mutant("policies: rewards after the end", EPISODES, "returns += rewards * playing", "returns += rewards"),
    Mutant("policies: test episodes", EPISODES, '"test": 2', '"test": 1'),
    Mutant("policies: a score that is not finite", EPISODES, "if not scores.isfinite().all():", "if False:"),
    Mutant("dqn: targets beyond the end", Q_LEARNING, "* highest * ~drawn.terminated", "* highest"),
    Mutant("dqn: time limits as ends", Q_LEARNING, "terminated=bool(terminated[environment])", "terminated=ended"),
    Mutant("dqn: targets of the trained network", Q_LEARNING, "copy.deepcopy(model).requires_grad_(False)", "model"),
    Mutant("dqn: the target network never changes", Q_LEARNING, "% task.target_updates == 0", "% 1 == 1"),
    Mutant("dqn: exploration during the warm-up", Q_LEARNING, "self._steps - self._task.warm_up", "self._steps"),
    Mutant("dqn: a new memory in each epoch", Q_LEARNING, "if self._memory is None:\n            self._memory = self",
           "if True:\n            self._memory = self"),
    Mutant("dqn: the observation after the reset", Q_LEARNING, "if ended else observation",
           "if False else observation"),
    Mutant("replay: a frame too old", REPLAY, ".clamp(min=0) + before", ".clamp(min=0)"),
    Mutant("replay: entries without action", REPLAY, "self._acted[environment, index] = False", "pass"),
    Mutant("replay: counts lost on resume", REPLAY, "memory._added.copy_(", "memory._added.clone().copy_("),
    Mutant("gan: the generator's sign", GAN, "2 * images.detach() - images", "images"),
    Mutant("gan: a critic trained in both turns", GAN, "parameter.detach()", "parameter"),
    Mutant("gan: the clamp", GAN, "clamp(self.clamped(model), limit=self.limit)", "clamp((), limit=self.limit)"),
    Mutant("gan: a generator clamped by the recipe", GAN, "model.critic.parameters()", "model.parameters()"),
    Mutant("gan: test noise", GAN, '"test": 2', '"test": 1'),
    Mutant("gan: distance of covariances", GAN, "- 2 * both", "- both"),
    Mutant("speech: silence at both ends", SPEECH, "energies[loud[0] : loud[-1] + 1]", "energies"),
    Mutant("speech: a cache of another version", SPEECH, "[version, features, utterances]", "[features, utterances]"),
    Mutant("speech: voices that sound the same", SPEECH, "if other != number:", "if False:"),
    Mutant("speech: missing voices", SPEECH, "variants - known", "known - known"),
    Mutant("chance: margin", CHANCE, "STANDARD_ERRORS = 2.0", "STANDARD_ERRORS = 2.5"),
    Mutant("chance: share", CHANCE, "SHARE = 0.01", "SHARE = 0.0125"),
    Mutant("chance: the rarer of two", CHANCE, "counted - likely)", "likely)"),
    Mutant("claims: an interval that crosses its bound", CLAIM,
           "if self.low <= measured.low and measured.high <= self.high:", "if self.low <= measured.mean <= self.high:"),
    Mutant("claims: an undecided condition", CLAIM, '"open" in under and "fails" not in under', "False"),
    Mutant("claims: one that cannot fail", CLAIM_RESULT, "if other.verdict != result.verdict or", "if True or"),
    Mutant("claims: results of other seeds", CLAIM_SESSION, '{"seed": seed, "code": _code(claim)}',
           '{"code": _code(claim)}'),
    Mutant("claims: trainings that decide nothing", CLAIM_TRAININGS,
           'return FALSE if "fails" in found.values() else UNDECIDED', "return FALSE"),
    Mutant("outcome: way from chance", OUTCOME, "LEARNED_SHARE = 0.1 ", "LEARNED_SHARE = 0.125 "),
    Mutant("outcome: fitted", OUTCOME, "FITTED = 0.9 ", "FITTED = 0.675 "),
    Mutant("outcome: jump", OUTCOME, "LOSS_JUMP = 1.2 ", "LOSS_JUMP = 1.5 "),
    Mutant("outcome: moved", OUTCOME, "MOVED = 1.0 ", "MOVED = 1.25 "),
    Mutant("outcome: slow", OUTCOME, "SLOW = 0.9 ", "SLOW = 0.675 "),
    Mutant("outcome: steady", OUTCOME, "STEADY = 0.3 ", "STEADY = 0.375 "),
    Mutant("outcome: given back", OUTCOME, "GAVE_BACK = 0.25 ", "GAVE_BACK = 0.3125 "),
    Mutant("outcome: score given back", OUTCOME, "GAVE_BACK_SCORE = 0.05 ", "GAVE_BACK_SCORE = 0.0625 "),
    Mutant("outcome: well", OUTCOME, "WELL_TRAINED = 0.1 ", "WELL_TRAINED = 0.125 "),
    Mutant("outcome: thrown", OUTCOME, "HARMLESS_JUMP = 1.5 ", "HARMLESS_JUMP = 1.875 "),
    Mutant("findings: spikes", GRADIENTS, "limit = 10.0", "limit = 12.5"),
    Mutant("findings: a spike in a young average", SPIKES, 'if seen.group["bias_correction"] and beta:', "if False:"),
    Mutant("find-lr: warm-up of v", WARM_START, 'get("bias_correction") and not', 'get("x") and not'),
    Mutant("findings: zero gradients", GRADIENTS, "0.9, 0.8, 8", "0.9, 0.6, 8"),
    Mutant("findings: L2 decay", DECAYS, "least_pull, weak_pull = 10.0,", "least_pull, weak_pull = 7.5,"),
    Mutant("findings: far", HISTORY, "OUTLIER = 100.0", "OUTLIER = 125.0"),
    Mutant("post-mortem: spikes", POST_MORTEM, "SPIKE = 10.0", "SPIKE = 12.5"),
    Mutant("post-mortem: far", POST_MORTEM, "LEAP = 1000.0", "LEAP = 750.0"),
    Mutant("post-mortem: alike", POST_MORTEM, "_SAME_FACTOR = 6.0", "_SAME_FACTOR = 7.5"),
    Mutant("tune: the band of random orders", PROGRESS, "total - n - rank", "total - n"),
    Mutant("tune: trials that the time ended", SLICES, ' and t["reason"] != TIME_OVER]', "]"),
    Mutant("tune: diverged or stopped", SLICES, "failed[has_diverged(trial)]", "failed[not has_diverged(trial)]"),
    Mutant("tune: the edge of bad scores", SLICES, '_EDGE if summary["higher_is_better"] else 1 - _EDGE', "_EDGE"),
    Mutant("tune: the default off the axis", SCORE_AXIS, "min(middle, *kept)", "middle"),
    Mutant("tune: importances without failed trials", IMPORTANCES, "for t in ended_slots(trials).values() if t.params",
           "for t in ended_slots(trials).values() if t.values"),
    Mutant("lock: of a file that was removed", LOCK, "if os.path.samestat(os.fstat(handle), file.stat()):", "if True:"),
    Mutant("records: those of the checkpoint's step", RUN_DIRECTORY, 'if r["step"] <= step', 'if r["step"] < step'),
    Mutant("tasks: the state after padding", VOWELS, "lengths - 1]", "-1]"),
    Mutant("tasks: padding as a feature", MOVIES, "padding_idx=_PADDING, ", ""),
    Mutant("tasks: later characters", CAUSAL, "layer(x, src_mask=mask, is_causal=True)", "layer(x)"),
    Mutant("tasks: pickles are not checked", CIFAR10, "(module, name) in _ARRAYS, f", "True, f"),
    Mutant("reading: a quarter more", BUDGET, "2**28, 8", "2**28 + 2**26, 8"),
    Mutant("reading: a number beyond the storage", TORCH_FILE, "last >= storage.size", "last > storage.size"),
    Mutant("reading: expanded tensors for nothing", TORCH_FILE, "spend(size * width", "spend(0 * width"),
    Mutant("page: E3 in another order", PAGE_RULE, "((1 - beta) * g) * g", "(1 - beta) * (g * g)"),
    Mutant("page: the floor of E5", PAGE_RULE, "KAPPA * v) / weight", "0 * v) / weight"),
    Mutant("page: amsgrad's maximum", PAGE_RULE, "w = Math.max(w, v)", "w = v"),
    Mutant("page: eta in the buffer", PAGE_RULE, "u = eta * u", "u = u * 1"),
    Mutant("page: powers without their low part", PAGE_EXACT, "hi, lo + (a * bl + al * b)", "hi, lo"),
    Mutant("page: decay in float32", PAGE_FLOAT32, "f(1 - rule.decay)", "f(1 - f(rule.decay))"),
    Mutant("page: the floor of bfloat16", PAGE_BITS, "bfloat16: 2 ** -5", "bfloat16: 2 ** -6"),
    Mutant("page: the smallest code of squares", PAGE_BITS, "x !== 0 ? 1 : 0", "0"),
    Mutant("page: noise of another average", PAGE_BITS, "hash((key + i + 1) >>> 0)", "hash((key + i) >>> 0)"),
]  # fmt: skip
