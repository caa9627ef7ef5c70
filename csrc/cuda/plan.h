// The launch plan: blocks, threads, slices and scratch memory. It depends only on the sizes and the
// device, so the same call always computes in the same order.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace rho_ext {

// The threads that reduce a row.
enum class RowRegime : int32_t {
  kLaneGroups,  // a group of lanes: a warp takes one row, or several short ones
  kSlices,      // a block, or several blocks with a slice each; the last block merges their sums
};

// The blocks that select the top k after all rows are scored.
enum class TopKStage : int32_t {
  kNone,       // the op is `score`: nothing is selected
  kLastBlock,  // the block that finishes last; no block waits for another
  kGrid,       // all blocks together, in a cooperative launch
};

inline constexpr const char* kRowRegimeNames[] = {"lane_groups", "slices"};
inline constexpr const char* kTopKStageNames[] = {"none", "last_block", "grid"};

struct DeviceLimits {
  int32_t processors = 0;
  bool cooperative = false;
};

struct Sizes {
  int64_t rows;
  int64_t classes;
  int64_t element_size;
  int64_t k;  // negative: no selection
};

// Parts of a plan that a test forces, so that small inputs reach every path. 0 means not forced.
struct ForcedPlan {
  int32_t regime = 0;       // 1 + RowRegime
  int32_t top_k_stage = 0;  // 1 + TopKStage; ignored by `score`
  int32_t threads = 0;
  int32_t blocks = 0;
  int32_t slices = 0;
  int32_t sort_tile = 0;
};

struct Plan {
  RowRegime regime;
  TopKStage top_k_stage;
  int32_t processors;  // multiprocessors of the device
  int32_t threads;
  int32_t lanes;        // lanes of a group; for slices: threads of a block
  int32_t group_rows;   // rows that a group of lanes takes at a time
  int64_t slices;       // slices of a row
  int64_t slice_packs;  // packs of 16 bytes in a slice
  int64_t blocks;
  int64_t sort_tile;      // keys that one block sorts in its shared memory, a power of two
  int64_t winner_stride;  // keys from one array of winners to the other
  size_t shared_bytes;
  // Offsets into the scratch memory, in bytes.
  size_t partials;
  size_t winners;
  size_t scratch_bytes;

  // True if blocks exchange data through `State`: a ticket or histograms.
  bool needs_state() const { return top_k_stage != TopKStage::kNone || slices > 1; }
};

// No run on a GPU has confirmed the constants from here to kSortTile: they follow from reasoning.
//
// A block has a power of two of threads, so that they share the digits evenly.
inline constexpr int32_t kMaxThreads = 512;
inline constexpr int32_t kSliceThreads = 256;
// Threads that a multiprocessor runs at a time, with 64 registers each.
inline constexpr int32_t kBusyThreads = 1024;
// The mask of a warp function that all lanes call.
inline constexpr unsigned kAllLanes = 0xffffffffu;
// Packs of 16 bytes that a lane loads before it uses the first one.
inline constexpr int32_t kUnroll = 4;
inline constexpr int64_t kPackBytes = 16;
// Rows up to this size go to a group of lanes each.
inline constexpr int64_t kWarpRowBytes = 8192;
// So do longer ones if there are enough for the warps of the device.
inline constexpr int64_t kManyRowsBytes = 32768;
inline constexpr int64_t kManyRows = 24;  // of a multiprocessor, which runs 32 warps
// A batch up to this size goes to one block, which has no other block to wait for.
inline constexpr int64_t kOneBlockBytes = 65536;
inline constexpr int64_t kOneBlockRows = 1024;
// With more rows the last block alone is too slow.
inline constexpr int64_t kLastBlockRows = 16384;
inline constexpr int64_t kSortTile = 4096;
// Sorted tiles that are merged at a time.
inline constexpr uint32_t kMergedRuns = 4;
// Keys that a thread sorts in its registers.
inline constexpr int32_t kHeldKeys = 8;
inline constexpr int64_t kDigits = 2048;
// Size of `State`: counters, and a histogram for each of three digits.
inline constexpr size_t kStateBytes = 4 * (64 + 3 * kDigits);
// Size of RowSums, the sums of a slice; row_sums.cuh checks it.
inline constexpr size_t kPartialBytes = 24;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The largest power of two <= value.
inline int64_t power_below(int64_t value) {
  return static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(value, 1))));
}

// The smallest power of two >= value.
inline int64_t power_from(int64_t value) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(value, 1))));
}

inline size_t align16(size_t bytes) { return (bytes + 15) / 16 * 16; }

inline Plan make_plan(const Sizes& sizes, const DeviceLimits& device, const ForcedPlan& forced) {
  const int64_t n = std::max<int64_t>(sizes.rows, 1);
  const int64_t row_bytes = sizes.classes * sizes.element_size;
  const int64_t packs = ceil_div(row_bytes, kPackBytes);

  Plan plan{};
  plan.processors = device.processors;
  const bool lane_groups =
      row_bytes <= (n < kManyRows * device.processors ? kWarpRowBytes : kManyRowsBytes);
  plan.regime = forced.regime != 0 ? static_cast<RowRegime>(forced.regime - 1)
                : lane_groups      ? RowRegime::kLaneGroups
                                   : RowRegime::kSlices;
  const bool one_block = plan.regime == RowRegime::kLaneGroups && n <= kOneBlockRows &&
                         n * row_bytes <= kOneBlockBytes;
  // Lane groups compute the same in blocks of any size, and a large one selects faster.
  plan.threads = forced.threads != 0                     ? forced.threads
                 : plan.regime == RowRegime::kLaneGroups ? kMaxThreads
                                                         : kSliceThreads;
  // No more blocks than run at a time: each takes several rows, one after another.
  const int64_t resident = forced.blocks != 0 ? forced.blocks
                           : one_block ? 1
                                       : int64_t{device.processors} * (kBusyThreads / plan.threads);
  plan.slices = 1;
  plan.slice_packs = packs;
  int64_t tiles = 0;
  if (plan.regime == RowRegime::kLaneGroups) {
    // Two or three packs of 16 bytes a lane. With fewer, the work per row dominates. With more,
    // neighbouring lanes read memory far apart.
    plan.lanes = static_cast<int32_t>(std::min<int64_t>(power_below(packs / 2), 32));
    // As many rows a group as there are for all: the inputs and results of neighbouring rows are
    // read and written together. At most one for each of its lanes, in equal rounds.
    const int64_t groups = resident * (plan.threads / plan.lanes);
    const int64_t rounds = ceil_div(n, groups * plan.lanes);
    plan.group_rows = static_cast<int32_t>(ceil_div(n, groups * rounds));
    tiles = ceil_div(n, plan.threads / plan.lanes * plan.group_rows);
  } else {
    plan.lanes = plan.threads;
    // Cut rows into slices where there are too few rows to keep all processors busy.
    int64_t wanted = forced.slices != 0 ? forced.slices : ceil_div(4 * resident, n);
    const int64_t least_packs = forced.slices != 0 ? 1 : plan.threads * kUnroll;
    wanted = std::clamp<int64_t>(wanted, 1, ceil_div(packs, least_packs));
    plan.slice_packs = ceil_div(packs, wanted);
    plan.slices = ceil_div(packs, plan.slice_packs);
    tiles = n * plan.slices;
  }
  plan.blocks = forced.blocks != 0 ? forced.blocks : std::min(tiles, resident);

  plan.top_k_stage = TopKStage::kNone;
  size_t end = 0;
  if (sizes.k >= 0) {
    const int64_t largest_tile = forced.sort_tile != 0 ? forced.sort_tile : kSortTile;
    plan.sort_tile =
        std::min({largest_tile, int64_t{kHeldKeys} * plan.threads, power_from(sizes.k)});
    const bool large = n > kLastBlockRows || sizes.k > plan.sort_tile;
    const bool grid = forced.top_k_stage != 0
                          ? forced.top_k_stage == 1 + static_cast<int32_t>(TopKStage::kGrid)
                          : large && device.cooperative;
    int64_t merged = plan.sort_tile;
    while (merged < sizes.k) {
      merged *= kMergedRuns;
    }
    // Smaller tiles, which more blocks sort, if they need no more merging.
    plan.sort_tile /= merged > plan.sort_tile && merged / 2 >= sizes.k ? 2 : 1;
    // The last block merges slices. There are few rows then, so it also selects quickly.
    plan.top_k_stage = grid && plan.slices == 1 ? TopKStage::kGrid : TopKStage::kLastBlock;
    const int64_t held = plan.sort_tile > plan.threads ? kHeldKeys : 1;
    plan.shared_bytes = static_cast<size_t>(std::max(4 * kDigits, 8 * held * kMaxThreads));
    end = align16(4 * static_cast<size_t>(n));  // keys
  }
  plan.partials = end;
  end += plan.slices > 1 ? align16(kPartialBytes * static_cast<size_t>(n * plan.slices)) : 0;
  plan.winners = end;
  if (sizes.k > plan.sort_tile || plan.top_k_stage == TopKStage::kGrid) {
    plan.winner_stride = ceil_div(sizes.k, 2) * 2;
    end += 16 * static_cast<size_t>(plan.winner_stride);
  }
  plan.scratch_bytes = end;
  return plan;
}

}  // namespace rho_ext
