// A batch with every kind of row, in memory of exactly its size, and its expected results.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/launch.h"

namespace checks {

struct Shape {
  int64_t rows;
  int64_t classes;
  int64_t k;
  rho_ext::FloatType type = rho_ext::FloatType::kFloat32;
  rho_ext::Method method = rho_ext::Method::kRho;
  double smoothing = 0.0;
  int64_t offset = 0;   // start of the first logit, in elements
  int64_t padding = 0;  // elements between rows
  int64_t length = 0;   // rows of a sequence, after which the logits have one more; 0: one sequence
  bool bias = false;
  bool ids = true;
  int64_t kinds = INT64_MAX;  // different rows; fewer make ties
};

struct Truth {
  double loss;
  double score;
};

// Memory that ends with its last element, so that AddressSanitizer sees accesses past it.
template <class T>
struct Exact {
  explicit Exact(size_t count) : size(count), data(new T[count]) {}
  T* begin() const { return data.get(); }
  T* end() const { return data.get() + size; }

  size_t size;
  std::unique_ptr<T[]> data;
};

class Problem {
 public:
  explicit Problem(const Shape& shape);

  const Shape shape;
  rho_ext::Batch batch() const;
  std::vector<Truth> truth;

 private:
  int64_t start_of(int64_t row) const;
  void fill_row(int64_t row);
  Truth truth_of(const std::vector<double>& logits, int64_t row) const;

  int64_t stride_;
  Exact<unsigned char> logits_;
  Exact<int64_t> labels_;
  Exact<int32_t> ids_;
  Exact<float> il_;
  Exact<float> bias_;
};

}  // namespace checks
