// One launch and its results.
#pragma once

#include <vector>

#include "kernels/problem.h"

namespace checks {

struct Schedule {
  unsigned long long seed = 0;
  int order = 0;  // forward, reverse, random
  int resident = 4;
  int parallel = 0;
  int yield_permille = 0;
};

struct Result {
  std::vector<float> losses;
  std::vector<float> scores;  // filled by `score` only; the rest by `select` only
  std::vector<float> values;
  std::vector<int64_t> indices;
  int32_t invalid = 0;
};

// `processors`: the number that the plan assumes; 0 for the real number.
rho_ext::Plan plan_of(const Problem& problem, bool select, const rho_ext::ForcedPlan& forced,
                      int processors = 0);
// Run one launch. Fails if the state is not zero afterwards.
Result run(const Problem& problem, const rho_ext::Plan& plan, const Schedule& schedule);

// All checks print what is wrong and end the program.
void check_scores(const Problem& problem, const rho_ext::Plan& plan, const Result& scored);
// The selection must be that of a stable sort of these scores.
void check_selection(const Problem& problem, const rho_ext::Plan& plan, const Result& selected,
                     const Result& scored);
void check_same(const Problem& problem, const rho_ext::Plan& plan, const Result& a, const Result& b,
                const char* what);

}  // namespace checks
