#include "kernels/run.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>

#include "cuda_runtime.h"

namespace checks {
namespace {

using rho_ext::Plan;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class T>
std::vector<T> copy(const Exact<T>& from) {
  return {from.begin(), from.end()};
}

template <class T>
T* garbage(const Exact<T>& memory) {
  std::memset(memory.begin(), 0xee, memory.size * sizeof(T));
  return memory.begin();
}

[[noreturn]] void fail(const Problem& problem, const Plan& plan, const char* what, int64_t at) {
  const Shape& s = problem.shape;
  std::printf(
      "%s at %ld: n %ld C %ld k %ld type %d method %d; %s, %s, %d threads, %ld blocks, %ld "
      "slices, tile %ld\n",
      what, at, s.rows, s.classes, s.k, static_cast<int>(s.type), static_cast<int>(s.method),
      rho_ext::kRowRegimeNames[static_cast<int>(plan.regime)],
      rho_ext::kTopKStageNames[static_cast<int>(plan.top_k_stage)], plan.threads, plan.blocks,
      plan.slices, plan.sort_tile);
  std::fflush(stdout);
  // Not `exit`: the threads of the emulator still run.
  std::_Exit(1);
}

// Return true for equal bits or two NaN.
bool same(float a, float b) {
  return std::isnan(a) ? std::isnan(b) : std::memcmp(&a, &b, sizeof(a)) == 0;
}

// Return true if a number is roughly right. The tests of the ops measure its error.
bool near(float ours, double truth) {
  if (std::isnan(truth) || std::isinf(truth)) {
    return std::isnan(truth) ? std::isnan(ours) : ours == static_cast<float>(truth);
  }
  return std::abs(ours - truth) <= 1e-5 * std::max(1.0, std::abs(truth));
}

}  // namespace

Plan plan_of(const Problem& problem, bool select, const rho_ext::ForcedPlan& forced,
             int processors) {
  rho_ext::DeviceLimits limits;
  rho_ext::device_limits(limits);
  limits.processors = processors == 0 ? limits.processors : processors;
  const int64_t element_size = problem.shape.type == rho_ext::FloatType::kFloat32 ? 4 : 2;
  return rho_ext::make_plan(
      {problem.shape.rows, problem.shape.classes, element_size, select ? problem.shape.k : -1},
      limits, forced);
}

Result run(const Problem& problem, const Plan& plan, const Schedule& schedule) {
  emulator_configure(schedule.seed, schedule.order, schedule.resident, schedule.parallel,
                     schedule.yield_permille);
  const bool select = plan.top_k_stage != rho_ext::TopKStage::kNone;
  const size_t n = static_cast<size_t>(problem.shape.rows);
  const size_t k = select ? static_cast<size_t>(problem.shape.k) : 0;
  const Exact<float> losses(n), scores(select ? 0 : n), values(k);
  const Exact<int64_t> indices(k);
  const Exact<int32_t> invalid(select ? 1 : 0);
  rho_ext::Outputs outputs{};
  outputs.losses = garbage(losses);
  outputs.k = -1;
  if (select) {
    outputs.values = garbage(values);
    outputs.indices = garbage(indices);
    outputs.invalid = garbage(invalid);
    outputs.k = problem.shape.k;
  } else {
    outputs.scores = garbage(scores);
  }
  const Exact<uint32_t> state(rho_ext::kStateBytes / 4);
  std::fill(state.begin(), state.end(), 0);
  const Exact<char> scratch(plan.scratch_bytes);
  const rho_ext::Workspace workspace{state.begin(), garbage(scratch)};
  if (const char* error = rho_ext::launch(problem.batch(), outputs, plan, workspace, nullptr)) {
    fail(problem, plan, error, 0);
  }
  for (size_t i = 0; i < state.size; ++i) {
    if (state.data[i] != 0) {
      fail(problem, plan, "state left behind", static_cast<int64_t>(i));
    }
  }
  return {copy(losses), copy(scores), copy(values), copy(indices), select ? *invalid.begin() : 0};
}

void check_scores(const Problem& problem, const Plan& plan, const Result& scored) {
  for (size_t row = 0; row < scored.losses.size(); ++row) {
    if (!near(scored.losses[row], problem.truth[row].loss)) {
      fail(problem, plan, "wrong loss", static_cast<int64_t>(row));
    }
    if (!near(scored.scores[row], problem.truth[row].score)) {
      fail(problem, plan, "wrong score", static_cast<int64_t>(row));
    }
  }
}

void check_selection(const Problem& problem, const Plan& plan, const Result& selected,
                     const Result& scored) {
  const std::vector<float>& scores = scored.scores;
  std::vector<int64_t> rows;
  int32_t invalid = 0;
  for (size_t row = 0; row < scores.size(); ++row) {
    if (!same(selected.losses[row], scored.losses[row])) {
      fail(problem, plan, "another loss than score's", static_cast<int64_t>(row));
    }
    invalid += std::isnan(scores[row]);
    if (!std::isnan(scores[row]) && scores[row] != -kInfinity) {
      rows.push_back(static_cast<int64_t>(row));
    }
  }
  std::ranges::stable_sort(rows, [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
  rows.resize(std::max(rows.size(), selected.indices.size()), -1);
  for (size_t i = 0; i < selected.indices.size(); ++i) {
    const float value = rows[i] < 0 ? -kInfinity : scores[rows[i]];
    if (selected.indices[i] != rows[i] || selected.values[i] != value) {
      fail(problem, plan, "wrong selection", static_cast<int64_t>(i));
    }
  }
  if (selected.invalid != invalid) {
    fail(problem, plan, "wrong count of invalid rows", selected.invalid);
  }
}

void check_same(const Problem& problem, const Plan& plan, const Result& a, const Result& b,
                const char* what) {
  const auto differ = [](const std::vector<float>& x, const std::vector<float>& y) {
    return !std::ranges::equal(x, y, same);
  };
  if (differ(a.losses, b.losses) || differ(a.scores, b.scores) || differ(a.values, b.values) ||
      a.indices != b.indices || a.invalid != b.invalid) {
    fail(problem, plan, what, 0);
  }
}

}  // namespace checks
