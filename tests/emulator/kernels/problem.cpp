#include "kernels/problem.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace checks {
namespace {

using rho_ext::FloatType;
using rho_ext::Method;

constexpr int64_t kIgnored = -100;
constexpr int64_t kPoints = 50;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

size_t size_of(FloatType type) { return type == FloatType::kFloat32 ? 4 : 2; }

uint64_t hash(uint64_t x) {
  x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
  return x ^ (x >> 32);
}

// Multiples of 1/16 below 16: exact in every type.
double number(uint64_t seed) { return static_cast<double>(hash(seed) % 511) / 16 - 15.9375; }

void store(double value, FloatType type, unsigned char* to) {
  const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  if (type == FloatType::kFloat32) {
    std::memcpy(to, &bits, 4);
    return;
  }
  uint32_t half = bits >> 16;
  if (type == FloatType::kFloat16) {
    const uint32_t magnitude = std::isnan(value)   ? 0x7e00
                               : std::isinf(value) ? 0x7c00
                               : value == 0 ? 0
                                            : ((bits & 0x7fffffff) >> 13) - ((127 - 15) << 10);
    half = bits >> 31 << 15 | magnitude;
  }
  std::memcpy(to, &half, 2);
}

}  // namespace

Problem::Problem(const Shape& s)
    : shape(s),
      truth(static_cast<size_t>(s.rows)),
      stride_(s.classes + s.padding),
      // The last row ends with its last logit, not with its padding.
      logits_(static_cast<size_t>(start_of(s.rows - 1) + s.classes) * size_of(s.type)),
      labels_(static_cast<size_t>(s.rows)),
      ids_(static_cast<size_t>(s.rows)),
      il_(static_cast<size_t>(s.ids ? kPoints : s.rows)),
      bias_(static_cast<size_t>(s.rows)) {
  // NaN between the rows: reading it as a logit shows.
  std::fill(logits_.begin(), logits_.end(), 0xff);
  for (size_t i = 0; i < il_.size; ++i) {
    il_.data[i] = i % 19 == 4 ? std::numeric_limits<float>::quiet_NaN()
                              : static_cast<float>(number(1000 + i % shape.kinds)) / 8;
  }
  for (int64_t row = 0; row < s.rows; ++row) {
    fill_row(row);
  }
}

int64_t Problem::start_of(int64_t row) const {
  const int64_t skipped = shape.length > 0 ? row / shape.length : 0;
  return shape.offset + (row + skipped) * stride_;
}

void Problem::fill_row(int64_t row) {
  const uint64_t kind = static_cast<uint64_t>(row % shape.kinds);
  const int64_t classes = shape.classes;
  labels_.data[row] = static_cast<int64_t>(hash(kind) % classes);
  ids_.data[row] = static_cast<int32_t>(hash(kind + 7) % kPoints);
  bias_.data[row] = row % 31 == 8 ? -INFINITY : static_cast<float>(number(kind + 99));
  std::vector<double> logits(classes);
  for (int64_t i = 0; i < classes; ++i) {
    const bool masked = row % 7 == 2 && i < classes / 2;
    logits[i] = masked ? -kInfinity : number(kind * classes + i) / 2;
  }
  if (row % 23 == 7) {
    logits[hash(row) % classes] = kNan;
  }
  if (row % 11 == 3) {
    labels_.data[row] = kIgnored;
  } else if (row % 13 == 5) {
    labels_.data[row] = row % 2 == 0 ? classes : -1;
  } else if (row % 17 == 6) {
    ids_.data[row] = row % 2 == 0 ? kPoints : -1;
  }
  const size_t size = size_of(shape.type);
  unsigned char* to = logits_.begin() + start_of(row) * size;
  for (int64_t i = 0; i < classes; ++i) {
    store(logits[i], shape.type, to + i * size);
  }
  truth[row] = truth_of(logits, row);
}

Truth Problem::truth_of(const std::vector<double>& logits, int64_t row) const {
  const int64_t label = labels_.data[row];
  if (label == kIgnored) {
    return {0.0, -kInfinity};
  }
  const bool needs_il = rho_ext::uses_il(shape.method);
  const int64_t id = shape.ids ? ids_.data[row] : row;
  if (label < 0 || label >= shape.classes ||
      (needs_il && (id < 0 || id >= static_cast<int64_t>(il_.size)))) {
    return {kNan, kNan};
  }
  double sum = 0.0;
  double total = 0.0;
  for (double x : logits) {
    sum += std::exp(x);
    total += x;
  }
  const double log_sum = std::log(sum);
  const double mean = total / static_cast<double>(shape.classes);
  double loss = log_sum - logits[label];
  if (shape.smoothing > 0) {
    loss = (1 - shape.smoothing) * loss + shape.smoothing * (log_sum - mean);
  }
  double entropy = 0.0;
  double others = 0.0;
  double squares = 0.0;
  for (int64_t i = 0; i < shape.classes; ++i) {
    const double p = std::exp(logits[i] - log_sum);
    entropy -= p == 0 ? 0 : p * std::log(p);
    others += i == label ? 0 * p : p;
    squares += i == label ? 0 * p : p * p;
  }
  const double il = needs_il ? il_.data[id] : 0.0;
  const double norm = std::sqrt(others * others + squares);
  const double scores[] = {loss - il, loss, -il, norm, entropy, log_sum};
  const double score = scores[static_cast<int>(shape.method)];
  return {loss, shape.bias ? score + bias_.data[row] : score};
}

rho_ext::Batch Problem::batch() const {
  rho_ext::Batch batch{};
  batch.logits = logits_.begin() + shape.offset * size_of(shape.type);
  batch.type = shape.type;
  batch.rows = shape.rows;
  batch.classes = shape.classes;
  batch.length = shape.length > 0 ? shape.length : shape.rows;
  batch.stride = stride_;
  batch.sequence_stride = (shape.length + 1) * stride_;
  batch.labels = {labels_.begin(), 1, true};
  batch.method = shape.method;
  batch.ignore_index = kIgnored;
  batch.label_smoothing = shape.smoothing;
  if (rho_ext::uses_il(shape.method)) {
    batch.il = {il_.begin(), 1, FloatType::kFloat32};
    batch.il_size = static_cast<int64_t>(il_.size);
    if (shape.ids) {
      batch.ids = {ids_.begin(), 1, false};
    }
  }
  if (shape.bias) {
    batch.bias = {bias_.begin(), 1, FloatType::kFloat32};
  }
  return batch;
}

}  // namespace checks
