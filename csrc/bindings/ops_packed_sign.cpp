// Products with packed signs for torch's CPU backend: inference alone, no gradients. `begin` is
// [2 * rows + 1] where the matrix lies in lists, else empty (csrc/cpu/packed_sign.h).

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/operand.h"
#include "bindings/parallel.h"
#include "bindings/workspace.h"
#include "cpu/packed_sign.h"

namespace sparsefl {
namespace {

// What an element of triples and one of lists costs, in flops of the kernels that kSerialFlops
// counts: at 4096 x 4096 on two cores of a Zen 4, 15 and 350 ps.
constexpr int64_t kFlopsAWeight = 1, kFlopsAnIndex = 32;
// Samples whose sums are held at a time, and pixels of a convolution's tile.
constexpr int64_t kChunk = 16;

struct Packed {
  const Tensor &begin, &data;

  bool in_lists() const { return begin.numel() > 0; }
  Lists lists() const {
    return {sparsefl::data<int32_t>(begin),
            reinterpret_cast<const uint16_t*>(sparsefl::data<int16_t>(data))};
  }
  const uint16_t* words() const {
    return reinterpret_cast<const uint16_t*>(sparsefl::data<int16_t>(data));
  }
  int64_t flops(int64_t rows, int64_t columns) const {
    return in_lists() ? kFlopsAnIndex * data.numel() : kFlopsAWeight * rows * columns;
  }
};

int64_t bytes_of_bits(int64_t bits) { return (bits + 7) / 8; }

std::tuple<Tensor, Tensor> pack(const Tensor& support, const Tensor& negative, int64_t rows,
                                int64_t columns, int64_t groups, int64_t nnz, bool lists) {
  const SignBits bits{data<uint8_t>(support), data<uint8_t>(negative), rows, columns};
  if (lists) {
    Tensor begin = empty_of(support, {2 * rows + 1}, ScalarType::Int);
    Tensor index = empty_of(support, {nnz}, ScalarType::Short);
    pack_lists(bits, mutable_data<int32_t>(begin),
               reinterpret_cast<uint16_t*>(mutable_data<int16_t>(index)));
    return {begin, index};
  }
  const int64_t in_group = rows / groups;
  const int64_t size = packed_blocks(in_group) * packed_words(columns) * kPackedRows;
  Tensor words = empty_of(support, {groups * size}, ScalarType::Short);
  int64_t rank = 0;
  for (int64_t g = 0; g < groups; ++g) {
    rank = pack_triples(bits, g * in_group, in_group, rank,
                        reinterpret_cast<uint16_t*>(mutable_data<int16_t>(words)) + g * size);
  }
  return {empty_of(support, {0}, ScalarType::Int), words};
}

std::tuple<Tensor, Tensor> unpack(const Tensor& begin, const Tensor& packed_data, int64_t rows,
                                  int64_t columns, int64_t groups, int64_t nnz) {
  const Packed packed{begin, packed_data};
  Tensor support = empty_of(begin, {bytes_of_bits(rows * columns)}, ScalarType::Byte);
  Tensor negative = empty_of(begin, {bytes_of_bits(nnz)}, ScalarType::Byte);
  auto *kept = mutable_data<uint8_t>(support), *signs = mutable_data<uint8_t>(negative);
  std::fill_n(kept, support.numel(), uint8_t{0});
  std::fill_n(signs, negative.numel(), uint8_t{0});
  if (packed.in_lists()) {
    unpack_lists(packed.lists(), rows, columns, kept, signs);
    return {support, negative};
  }
  const int64_t in_group = rows / groups;
  const int64_t size = packed_blocks(in_group) * packed_words(columns) * kPackedRows;
  int64_t rank = 0;
  for (int64_t g = 0; g < groups; ++g) {
    rank = unpack_triples(packed.words() + g * size, g * in_group, in_group, columns, rank, kept,
                          signs);
  }
  return {support, negative};
}

// The inputs as the kernels read them: as they are, or every sample rounded to integers of a scale.
class Inputs {
 public:
  Inputs(const Tensor& x, bool rounded)
      : x_(torch::stable::contiguous(x)),
        features_(features_of(x)),
        memory_(rounded ? x.numel() * int64_t{sizeof(float)} : 0),
        scales_(rounded ? x.size(0) : 0) {
    if (!rounded) return;
    const int64_t parts =
        std::min(thread_parts(kFlopsACopy * x.numel()), std::max<int64_t>(x.size(0), 1));
    for_parts(parts, [&](int64_t p) {
      const int64_t end = x.size(0) * (p + 1) / parts;
      for (int64_t n = x.size(0) * p / parts; n < end; ++n) {
        scales_[n] = quantise(data<float>(x_) + n * features_, features_,
                              memory_.as<float>() + n * features_);
      }
    });
  }

  const float* sample(int64_t n) const {
    return (rounded() ? memory_.as<float>() : data<float>(x_)) + n * features_;
  }
  bool rounded() const { return memory_.as<float>() != nullptr; }
  float scale(int64_t n) const { return scales_.empty() ? 1 : scales_[n]; }

 private:
  Tensor x_;
  int64_t features_;
  Workspace memory_;
  std::vector<float> scales_;
};

// Adds up blocks [begin, end) of a group's rows for up to kChunk samples, and hands every sample's
// sums to take(sample, first row, rows, sums).
template <class Sum, class Take>
void run_triples(const TripleArgs& args, int64_t rows, int64_t begin, int64_t end,
                 const Take& take) {
  const int64_t ld = (end - begin) * kPackedRows;
  const Workspace sums(args.samples * ld * int64_t{sizeof(Sum)});
  if constexpr (std::is_same_v<Sum, float>) {
    packed_sign_kernels().triples(args, begin, end, sums.as<Sum>(), ld);
  } else {
    packed_sign_kernels().triples_int8(args, begin, end, sums.as<Sum>(), ld);
  }
  const int64_t first = begin * kPackedRows;
  for (int64_t s = 0; s < args.samples; ++s) {
    take(s, first, std::min(ld, rows - first), sums.as<Sum>() + s * ld);
  }
}

template <class Take>
void run_triples(bool rounded, const TripleArgs& args, int64_t rows, int64_t begin, int64_t end,
                 const Take& take) {
  if (rounded) return run_triples<int32_t>(args, rows, begin, end, take);
  run_triples<float>(args, rows, begin, end, take);
}

class Linear {
 public:
  Linear(const Tensor& x, const Packed& packed, int64_t rows, float magnitude,
         const std::optional<Tensor>& bias, bool rounded)
      : packed_(packed),
        inputs_(x, rounded),
        batch_(x.size(0)),
        columns_(x.size(1)),
        rows_(rows),
        magnitude_(magnitude),
        bias_(data<float>(bias)),
        y_(empty_of(x, {batch_, rows})) {}

  Tensor run() const {
    if (batch_ == 0) return y_;
    if (packed_.in_lists() && batch_ > 1) {
      run_lanes();
      return y_;
    }
    const int64_t parts = thread_parts(packed_.flops(rows_, columns_) * batch_);
    // By rows, so that a thread's part of the matrix stays in its caches; else by samples.
    const int64_t blocks = packed_blocks(rows_);
    const bool by_rows = blocks >= 2 * parts || batch_ < parts;
    for_parts(parts, [&](int64_t p) {
      const int64_t extent = by_rows ? blocks : batch_;
      const int64_t begin = extent * p / parts, end = extent * (p + 1) / parts;
      if (begin == end) return;
      if (by_rows) {
        run_part(begin, end, 0, batch_);
      } else {
        run_part(0, blocks, begin, end);
      }
    });
    return y_;
  }

 private:
  // Of all samples, where the matrix lies in triples, or the one, where it lies in lists.
  void run_part(int64_t begin, int64_t end, int64_t first, int64_t last) const {
    if (packed_.in_lists()) {
      const int64_t row = begin * kPackedRows, row_end = std::min(rows_, end * kPackedRows);
      const Workspace sums((row_end - row) * int64_t{sizeof(float)});
      packed_sign_kernels().lists(packed_.lists(), inputs_.sample(0), row, row_end,
                                  sums.as<float>());
      return take(0, row, row_end - row, sums.as<float>());
    }
    for (int64_t n = first; n < last; n += kChunk) {
      const TripleArgs args{packed_.words(),   rows_,    columns_,
                            inputs_.sample(n), columns_, std::min(kChunk, last - n)};
      run_triples(inputs_.rounded(), args, rows_, begin, end,
                  [&](int64_t s, int64_t row, int64_t rows, const auto* sums) {
                    take(n + s, row, rows, sums);
                  });
    }
  }

  template <class Sum>
  void take(int64_t n, int64_t row, int64_t rows, const Sum* sums) const {
    finish(sums, rows, inputs_.scale(n) * magnitude_, bias_ == nullptr ? nullptr : bias_ + row,
           mutable_data<float>(y_) + n * rows_ + row);
  }

  // Lists, with samples in the lanes: every thread its rows.
  void run_lanes() const {
    const int64_t ld = padded(batch_);
    const Workspace turned(columns_ * ld * int64_t{sizeof(float)});
    const int64_t copies = thread_parts(kFlopsACopy * columns_ * batch_);
    for_parts(copies, [&](int64_t p) {
      const Stretch stretch(columns_, p, copies);
      float* to = turned.as<float>();
      batch_last_kernels<float>().transpose(inputs_.sample(0), columns_, to, ld, batch_,
                                            stretch.begin, stretch.end);
      for (int64_t k = stretch.begin; k < stretch.end; ++k) {
        std::fill(to + k * ld + batch_, to + (k + 1) * ld, 0.0f);
      }
    });
    const int64_t parts = thread_parts(packed_.flops(rows_, columns_) * ld / kLanePadding);
    for_parts(parts, [&](int64_t p) {
      const int64_t begin = rows_ * p / parts, end = rows_ * (p + 1) / parts;
      constexpr int64_t kRows = 64;
      const Workspace sums(2 * kRows * ld * int64_t{sizeof(float)});
      float *by_row = sums.as<float>(), *by_sample = by_row + kRows * ld;
      for (int64_t row = begin; row < end; row += kRows) {
        const int64_t rows = std::min(kRows, end - row);
        packed_sign_kernels().lists_batch(packed_.lists(), turned.as<float>(), ld, batch_, row,
                                          row + rows, by_row, ld);
        batch_last_kernels<float>().transpose(by_row, ld, by_sample, rows, rows, 0, batch_);
        for (int64_t n = 0; n < batch_; ++n) take(n, row, rows, by_sample + n * rows);
      }
    });
  }

  Packed packed_;
  Inputs inputs_;
  int64_t batch_, columns_, rows_;
  float magnitude_;
  const float* bias_;
  Tensor y_;
};

Tensor packed_sign_linear(const Tensor& x, const Tensor& begin, const Tensor& packed, int64_t rows,
                          double magnitude, const std::optional<Tensor>& bias, bool rounded) {
  return Linear(x, {begin, packed}, rows, static_cast<float>(magnitude), bias, rounded).run();
}

// What `geometry` holds, in the order of sparse_conv2d's.
class Convolution {
 public:
  Convolution(const Tensor& x, const Packed& packed, float magnitude,
              const std::optional<Tensor>& bias, const std::vector<int64_t>& g, bool rounded)
      : packed_(packed),
        inputs_(x, rounded),
        batch_(x.size(0)),
        groups_(g.at(2)),
        rows_(g.at(0) / groups_),
        pixels_(g.at(5) * g.at(6)),
        window_{g.at(1) / groups_, g.at(3),  g.at(4),  g.at(7),  g.at(8),  g.at(6),
                g.at(9),           g.at(10), g.at(11), g.at(12), g.at(13), g.at(14)},
        columns_(window_.channels * window_.kernel_y * window_.kernel_x),
        magnitude_(magnitude),
        bias_(data<float>(bias)),
        y_(empty_of(x, {batch_, g.at(0), g.at(5), g.at(6)})) {}

  Tensor run() const {
    const int64_t flops = packed_.flops(groups_ * rows_, columns_) + kFlopsACopy * columns_;
    const int64_t parts = thread_parts(flops * batch_ * pixels_);
    // Small enough that all threads have some.
    const int64_t share = (batch_ * pixels_ + parts - 1) / parts;
    const int64_t tile = std::clamp<int64_t>(share, 1, kChunk);
    const int64_t tiles = (pixels_ + tile - 1) / tile, all = batch_ * tiles * groups_;
    for_parts(parts, [&](int64_t p) {
      const Workspace memory(2 * kChunk * columns_ * int64_t{sizeof(float)});
      for (int64_t i = all * p / parts; i < all * (p + 1) / parts; ++i) {
        const int64_t first = i % tiles * tile;
        run_tile(i / tiles / groups_, i / tiles % groups_, first, std::min(tile, pixels_ - first),
                 memory.as<float>());
      }
    });
    return y_;
  }

 private:
  // Output pixels [first, first + pixels) of a sample and group.
  void run_tile(int64_t n, int64_t group, int64_t first, int64_t pixels, float* memory) const {
    const int64_t image = window_.channels * window_.height * window_.width;
    gather_window(window_, inputs_.sample(n) + group * image, first, pixels, memory);
    const auto take = [&](int64_t p, int64_t row, int64_t rows, const auto* sums) {
      float outputs[kPackedRows];
      for (int64_t r = 0; r < rows; r += kPackedRows) {
        const int64_t some = std::min(kPackedRows, rows - r);
        const int64_t channel = group * rows_ + row + r;
        finish(sums + r, some, inputs_.scale(n) * magnitude_,
               bias_ == nullptr ? nullptr : bias_ + channel, outputs);
        float* to = mutable_data<float>(y_) + (n * groups_ * rows_ + channel) * pixels_ + first + p;
        for (int64_t i = 0; i < some; ++i) to[i * pixels_] = outputs[i];
      }
    };
    if (packed_.in_lists()) return run_lists(group, pixels, memory, take);
    float* by_pixel = memory + kChunk * columns_;
    batch_last_kernels<float>().transpose(memory, kChunk, by_pixel, columns_, columns_, 0, pixels);
    const int64_t blocks = packed_blocks(rows_);
    const int64_t size = blocks * packed_words(columns_) * kPackedRows;
    run_triples(inputs_.rounded(),
                {packed_.words() + group * size, rows_, columns_, by_pixel, columns_, pixels},
                rows_, 0, blocks, take);
  }

  template <class Take>
  void run_lists(int64_t group, int64_t pixels, const float* x, const Take& take) const {
    float sums[kPackedRows * kChunk], by_pixel[kPackedRows * kChunk];
    for (int64_t row = 0; row < rows_; row += kPackedRows) {
      const int64_t rows = std::min(kPackedRows, rows_ - row), begin = group * rows_ + row;
      packed_sign_kernels().lists_batch(packed_.lists(), x, kChunk, pixels, begin, begin + rows,
                                        sums, kChunk);
      batch_last_kernels<float>().transpose(sums, kChunk, by_pixel, rows, rows, 0, pixels);
      for (int64_t p = 0; p < pixels; ++p) take(p, row, rows, by_pixel + p * rows);
    }
  }

  Packed packed_;
  Inputs inputs_;
  int64_t batch_, groups_, rows_, pixels_;
  Window window_;
  int64_t columns_;
  float magnitude_;
  const float* bias_;
  Tensor y_;
};

Tensor packed_sign_conv2d(const Tensor& x, const Tensor& begin, const Tensor& packed,
                          double magnitude, const std::optional<Tensor>& bias, bool rounded,
                          std::vector<int64_t> geometry) {
  const auto scale = static_cast<float>(magnitude);
  return Convolution(x, {begin, packed}, scale, bias, geometry, rounded).run();
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("packed_sign_pack", TORCH_BOX(&pack));
  m.impl("packed_sign_unpack", TORCH_BOX(&unpack));
  m.impl("packed_sign_linear", TORCH_BOX(&packed_sign_linear));
  m.impl("packed_sign_conv2d", TORCH_BOX(&packed_sign_conv2d));
}

}  // namespace
}  // namespace sparsefl
