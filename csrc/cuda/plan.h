// How a launch is cut into blocks of threads: a pure function of the sizes and the device, so that
// the same call always computes in the same order.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace rho_ext {

// Who reduces a row.
enum class RowRegime : int32_t {
  kTeams,   // some lanes of a warp: a warp takes one row or, where they are short, several
  kSlices,  // a block, or several blocks with a slice each, whose sums the last block merges
};

// Who selects.
enum class Tail : int32_t {
  kNone,       // nobody: the op is `score`
  kLastBlock,  // the block that finishes last; no block ever waits for another
  kGrid,       // all blocks together, in a cooperative launch
};

inline constexpr const char* kRowRegimeNames[] = {"teams", "slices"};
inline constexpr const char* kTailNames[] = {"none", "last_block", "grid"};

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

// What tests force, so that small inputs reach every path; 0 leaves the choice to the plan.
struct ForcedPlan {
  int32_t regime = 0;  // 1 + RowRegime
  int32_t tail = 0;    // 1 + Tail; tells only how to select, not whether
  int32_t threads = 0;
  int32_t blocks = 0;
  int32_t slices = 0;
  int32_t sort_tile = 0;
};

struct Plan {
  RowRegime regime;
  Tail tail;
  int32_t processors;  // of the device
  int32_t threads;
  int32_t lanes;         // of a team; slices: threads
  int64_t slices;        // of a row
  int64_t slice_groups;  // groups of 16 bytes in a slice
  int64_t blocks;
  int64_t sort_tile;      // keys that one block sorts in its shared memory, a power of two
  int64_t winner_stride;  // keys from one array of winners to the other
  size_t shared_bytes;
  // Where the parts of the scratch memory begin, in bytes.
  size_t partials;
  size_t counts;
  size_t winners;
  size_t scratch_bytes;

  // Whether blocks tell each other something, by a ticket or by histograms.
  bool needs_state() const { return tail != Tail::kNone || slices > 1; }
};

// Threads of a block are a power of two up to here, because they share the digits evenly.
inline constexpr int32_t kMaxThreads = 512;
inline constexpr int32_t kUsualThreads = 256;
// Groups that a lane loads before it uses the first.
inline constexpr int32_t kUnroll = 4;
inline constexpr int64_t kGroupBytes = 16;
// Rows up to here go to a team each.
inline constexpr int64_t kWarpRowBytes = 8192;
// A batch up to here goes to one block, which needs no word with the others.
inline constexpr int64_t kSoloBytes = 65536;
inline constexpr int64_t kSoloRows = 1024;
// The last block alone is too slow beyond.
inline constexpr int64_t kLastBlockRows = 16384;
inline constexpr int64_t kSortTile = 4096;
inline constexpr int64_t kDigits = 2048;
// What blocks tell each other, of fixed size: counters, and a histogram for each of three digits.
inline constexpr size_t kStateBytes = 4 * (64 + 3 * kDigits);
// Row sums of a slice; select.cu checks the size.
inline constexpr size_t kPartialBytes = 24;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The largest power of two that is not larger.
inline int64_t power_below(int64_t value) {
  return static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(value, 1))));
}

// The smallest that is not smaller.
inline int64_t power_from(int64_t value) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(value, 1))));
}

inline size_t align16(size_t bytes) { return (bytes + 15) / 16 * 16; }

inline Plan make_plan(const Sizes& sizes, const DeviceLimits& device, const ForcedPlan& forced) {
  const int64_t n = sizes.rows;
  const int64_t row_bytes = sizes.classes * sizes.element_size;
  const int64_t groups = ceil_div(row_bytes, kGroupBytes);

  Plan plan{};
  plan.processors = device.processors;
  plan.regime = forced.regime != 0           ? static_cast<RowRegime>(forced.regime - 1)
                : row_bytes <= kWarpRowBytes ? RowRegime::kTeams
                                             : RowRegime::kSlices;
  const bool solo =
      plan.regime == RowRegime::kTeams && n <= kSoloRows && n * row_bytes <= kSoloBytes;
  plan.threads = forced.threads != 0 ? forced.threads : solo ? kMaxThreads : kUsualThreads;
  // As many blocks as run at a time: each takes further rows in turn.
  const int64_t resident = int64_t{device.processors} * (4 * kUsualThreads / plan.threads);
  plan.slices = 1;
  plan.slice_groups = groups;
  int64_t tiles = 0;
  if (plan.regime == RowRegime::kTeams) {
    // A few groups a lane: fewer, and what belongs to a row outweighs them; more, and neighbouring
    // lanes read memory far apart.
    plan.lanes = static_cast<int32_t>(std::min<int64_t>(power_below(groups / 2), 32));
    tiles = ceil_div(n, plan.threads / plan.lanes);
  } else {
    plan.lanes = plan.threads;
    // Slices where there are too few rows to keep all processors busy to the end.
    int64_t wanted =
        forced.slices != 0 ? forced.slices : ceil_div(4 * resident, std::max<int64_t>(n, 1));
    const int64_t least_groups = forced.slices != 0 ? 1 : plan.threads * kUnroll;
    wanted = std::clamp<int64_t>(wanted, 1, ceil_div(groups, least_groups));
    plan.slice_groups = ceil_div(groups, wanted);
    plan.slices = ceil_div(groups, plan.slice_groups);
    tiles = n * plan.slices;
  }
  plan.blocks = solo ? 1 : std::clamp<int64_t>(tiles, 1, resident);
  if (forced.blocks != 0) {
    plan.blocks = forced.blocks;
  }

  plan.tail = Tail::kNone;
  size_t end = 0;
  if (sizes.k >= 0) {
    const int64_t largest_tile = forced.sort_tile != 0 ? forced.sort_tile : kSortTile;
    plan.sort_tile = std::min(largest_tile, power_from(sizes.k));
    const bool large = n > kLastBlockRows || sizes.k > plan.sort_tile;
    const bool grid = forced.tail != 0 ? forced.tail == 1 + static_cast<int32_t>(Tail::kGrid)
                                       : large && device.cooperative;
    // Slices are merged by the last block, and there are few rows then.
    plan.tail = grid && plan.slices == 1 ? Tail::kGrid : Tail::kLastBlock;
    plan.shared_bytes = static_cast<size_t>(std::max(4 * kDigits, 8 * plan.sort_tile));
    end = align16(4 * static_cast<size_t>(n));  // keys
  }
  plan.partials = end;
  end += plan.slices > 1 ? align16(kPartialBytes * static_cast<size_t>(n * plan.slices)) : 0;
  plan.counts = end;
  end += plan.tail == Tail::kGrid ? align16(8 * static_cast<size_t>(plan.blocks)) : 0;
  plan.winners = end;
  if (sizes.k > plan.sort_tile || plan.tail == Tail::kGrid) {
    plan.winner_stride = ceil_div(sizes.k, 2) * 2;
    end += 16 * static_cast<size_t>(plan.winner_stride);
  }
  plan.scratch_bytes = end;
  return plan;
}

}  // namespace rho_ext
