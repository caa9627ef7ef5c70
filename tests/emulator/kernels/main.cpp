// Run one check of the kernels, by name: every path of their plan, at small sizes. The program ends
// with status 1 at the first difference.
#include <cstring>
#include <span>

#include "kernels/run.h"

namespace checks {
namespace {

using rho_ext::FloatType;
using rho_ext::ForcedPlan;
using rho_ext::Method;
using rho_ext::Plan;

constexpr auto kHalf = FloatType::kFloat16;
constexpr auto kBrain = FloatType::kBFloat16;

const Shape kShapes[] = {
    {.rows = 1, .classes = 1, .k = 1},
    {.rows = 2, .classes = 3, .k = 0, .method = Method::kLogSumExp},
    {.rows = 100, .classes = 304, .k = 40, .type = kBrain, .offset = 1},
    {.rows = 70,
     .classes = 37,
     .k = 70,
     .type = kHalf,
     .smoothing = 0.1,
     .padding = 3,
     .length = 9},
    {.rows = 21, .classes = 1001, .k = 7, .offset = 1},
    {.rows = 420, .classes = 5, .k = 280, .bias = true, .ids = false, .kinds = 4},
    {.rows = 150, .classes = 2, .k = 149, .method = Method::kNegIl, .kinds = 1},
    {.rows = 40, .classes = 130, .k = 20, .method = Method::kGradNorm, .length = 10},
    {.rows = 40, .classes = 531, .k = 9, .type = kBrain, .method = Method::kEntropy, .offset = 4},
    {.rows = 900, .classes = 2, .k = 700},
};

// Lane groups, a block for each row, several slices for each row.
const ForcedPlan kRegimes[] = {
    {.regime = 1}, {.regime = 2, .slices = 1}, {.regime = 2, .slices = 5}};
constexpr int kLastBlock = 1 + static_cast<int>(rho_ext::TopKStage::kLastBlock);
constexpr int kGrid = 1 + static_cast<int>(rho_ext::TopKStage::kGrid);

struct Blocks {
  int threads;
  int count;
};
const Blocks kBlocks[] = {{64, 1}, {64, 8}, {128, 3}, {512, 1}, {512, 3}};

// Every regime with every top-k stage, number of threads and blocks, and size of the sort.
void check_plans(int most_threads) {
  const Schedule schedule{.resident = 3};
  for (const Shape& shape : kShapes) {
    const Problem problem(shape);
    for (ForcedPlan forced : kRegimes) {
      Result before;
      for (const Blocks& blocks : kBlocks) {
        if (blocks.threads > most_threads) {
          continue;
        }
        // The threads of a block share a row or a slice. A lane group has the same lanes in any
        // block.
        const bool same_scores = forced.threads == blocks.threads || forced.regime == 1;
        forced.threads = blocks.threads;
        forced.blocks = blocks.count;
        const Plan plan = plan_of(problem, false, forced, 3);
        const Result scored = run(problem, plan, schedule);
        check_scores(problem, plan, scored);
        if (!before.scores.empty() && same_scores) {
          check_same(problem, plan, scored, before, "the number of blocks changes the scores");
        }
        before = scored;
        for (int stage : {kLastBlock, kGrid}) {
          for (int tile : {0, 8, 64}) {
            // Large blocks are slow, and merge like small ones.
            if (blocks.threads == 64 || tile == 0) {
              forced.top_k_stage = stage;
              forced.sort_tile = tile;
              const Plan selecting = plan_of(problem, true, forced, 3);
              check_selection(problem, selecting, run(problem, selecting, schedule), scored);
            }
          }
        }
      }
    }
  }
}

const Schedule kSchedules[] = {
    {.order = 0, .resident = 1},
    {.order = 1, .resident = 4},
    {.seed = 1, .order = 2, .resident = 2, .yield_permille = 300},
    {.seed = 2, .order = 2, .resident = 8, .yield_permille = 900},
    {.seed = 3, .order = 2, .resident = 5, .yield_permille = 500},
    {.seed = 4, .order = 0, .resident = 8, .parallel = 1},
    {.seed = 5, .order = 2, .resident = 3, .parallel = 1, .yield_permille = 300},
    {.seed = 6, .order = 1, .resident = 8, .parallel = 1, .yield_permille = 500},
};

// The same plan gives the same bits in any order of blocks and threads.
void check_schedules(std::span<const Shape> shapes, std::span<const Schedule> schedules) {
  for (const Shape& shape : shapes) {
    const Problem problem(shape);
    for (ForcedPlan forced : kRegimes) {
      forced.threads = 64;
      forced.blocks = 8;
      const Plan plan = plan_of(problem, false, forced);
      const Result scored = run(problem, plan, {});
      for (const Schedule& schedule : schedules) {
        check_same(problem, plan, run(problem, plan, schedule), scored, "other scores");
        for (int stage : {kLastBlock, kGrid}) {
          forced.top_k_stage = stage;
          // Sort once as many keys as a block can, once a key of each thread, once many runs.
          forced.sort_tile = stage == kGrid ? 16 : schedule.order == 2 ? 64 : 0;
          const Plan selecting = plan_of(problem, true, forced, schedule.resident);
          check_selection(problem, selecting, run(problem, selecting, schedule), scored);
        }
      }
    }
  }
}

// A device that cannot run all blocks of a cooperative launch at a time.
void check_fallback() {
  const Problem problem({.rows = 100, .classes = 10, .k = 30});
  const Plan scoring = plan_of(problem, false, {.regime = 1, .threads = 64});
  const Result scored = run(problem, scoring, {});
  const Plan plan = plan_of(problem, true, {.top_k_stage = kGrid, .threads = 64, .blocks = 16}, 64);
  check_selection(problem, plan, run(problem, plan, {.resident = 2}), scored);
}

void plans() { check_plans(512); }
void small_blocks() { check_plans(64); }
void schedules() { check_schedules(kShapes, kSchedules); }
// For TSan: the problems with many rows, long rows and many ties, one block at a time and in
// parallel.
void races() { check_schedules(std::span(kShapes).subspan(3, 3), std::span(kSchedules).last(5)); }

constexpr struct {
  const char* name;
  void (*run)();
} kChecks[] = {{"plans", plans},
               {"small_blocks", small_blocks},
               {"schedules", schedules},
               {"races", races},
               {"fallback", check_fallback}};

}  // namespace
}  // namespace checks

int main(int count, char** arguments) {
  for (const auto& check : checks::kChecks) {
    if (count == 2 && std::strcmp(arguments[1], check.name) == 0) {
      check.run();
      return 0;
    }
  }
  return 2;
}
