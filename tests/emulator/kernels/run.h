// One launch and what came out of it.
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
  std::vector<float> scores;  // of `score` only, like the rest of `select` only
  std::vector<float> values;
  std::vector<int64_t> indices;
  int32_t invalid = 0;
};

// `processors`: how many the plan believes in, 0 for as many as there are.
rho_ext::Plan plan_of(const Problem& problem, bool select, const rho_ext::ForcedPlan& forced,
                      int processors = 0);
// The state must be zero afterwards.
Result run(const Problem& problem, const rho_ext::Plan& plan, const Schedule& schedule);

// All of these end the program when something does not hold, and say what.
void check_scores(const Problem& problem, const rho_ext::Plan& plan, const Result& scored);
// What a stable sort of these scores gives.
void check_selection(const Problem& problem, const rho_ext::Plan& plan, const Result& selected,
                     const Result& scored);
void check_same(const Problem& problem, const rho_ext::Plan& plan, const Result& a, const Result& b,
                const char* what);

}  // namespace checks
