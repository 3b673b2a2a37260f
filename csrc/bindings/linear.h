// Operands and results [batch, features] of the linear operators. A call is shared out by samples,
// where every thread has enough of them to fill its vectors: it then turns its own samples, tile by
// tile, and meets them in its own caches. What another core has just written costs some 50 ns a
// line (1024 features, batch 64 to 256), more than all that is done with it at low density. Else it
// is shared out by rows, and what has to be turned is turned before, for all.
#pragma once

#include <algorithm>
#include <optional>

#include "bindings/arguments.h"
#include "bindings/operand.h"
#include "bindings/parallel.h"
#include "bindings/workspace.h"
#include "cpu/batch_last.h"

namespace sparsefl {

// Feature-major memory: sample n of feature f at data[f * ld + n].
template <class T>
struct Panel {
  T* data;
  int64_t ld;
};

// Samples [first, first + samples) of the batch.
struct Tile {
  int64_t first, samples;
};

// Samples of a tile: kTileSamples, or twice as many where their panels take no more than kWideBytes
// of a core's second-level cache, or fewer where they take more than kTileBytes.
constexpr int64_t kTileSamples = 64;
constexpr int64_t kWideBytes = 768 << 10;
constexpr int64_t kTileBytes = 1536 << 10;
// What reading a kept position and its weight costs, in samples that it is multiplied with.
constexpr int64_t kSamplesAPosition = 16;

// What moving a byte costs, in flops.
constexpr int64_t kFlopsAByte = kFlopsACopy / int64_t{sizeof(float)};

inline int64_t position_flops(int64_t batch) { return 2 * (padded(batch) + kSamplesAPosition); }

// Whether x lies batch-last, and can be read up to the next multiple of kLanePadding samples.
inline bool lies_padded(const Tensor& x) {
  return lies_batch_last(x) && x.size(0) == padded(x.size(0));
}

// An operand, which kernels read up to the next multiple of kLanePadding samples. One sample stays
// a plain vector.
class LinearOperand {
 public:
  explicit LinearOperand(const Tensor& x)
      : batch_(x.size(0)),
        features_(features_of(x)),
        batch_last_(lies_batch_last(x)),
        moves_(batch_ != 1 && !lies_padded(x)),
        source_(batch_last_ || x.is_contiguous() ? x : torch::stable::contiguous(x)) {}

  int64_t batch() const { return batch_; }
  int64_t features() const { return features_; }
  // Elements of its panel, a sample of a tile.
  int64_t tile_features() const { return moves_ ? features_ : 0; }
  template <class T>
  Workspace tile_memory(int64_t samples) const {
    return Workspace(tile_features() * samples * int64_t{sizeof(T)});
  }
  // Of moving all of it.
  int64_t flops() const { return moves_ ? kFlopsACopy * padded(batch_) * features_ : 0; }

  // The samples of a tile, moved into `memory` if need be.
  template <class T>
  Panel<const T> tile(const Tile& tile, T* memory) const {
    if (!moves_) return {data<T>() + tile.first, batch_};
    const int64_t ld = padded(tile.samples);
    read<T>(tile, Stretch(features_, 0, 1), memory, ld);
    return {memory, ld};
  }

  // All samples; every part has to have run read_part before.
  template <class T>
  Panel<const T> whole() const {
    if (!moves_) return {data<T>(), batch_};
    return {memory_->as<T>(), padded(batch_)};
  }

  template <class T>
  void read_part(int64_t part, int64_t parts) const {
    if (moves_) {
      read<T>({0, batch_}, Stretch(features_, part, parts), memory_->as<T>(), padded(batch_));
    }
  }

  // Makes room for `whole`.
  void reserve() {
    if (moves_) memory_.emplace(features_ * padded(batch_) * source_.element_size());
  }

 private:
  template <class T>
  const T* data() const {
    return static_cast<const T*>(source_.const_data_ptr());
  }

  template <class T>
  void read(const Tile& tile, const Stretch& features, T* to, int64_t ld) const {
    if (!batch_last_) {
      batch_last_kernels<T>().transpose(data<T>() + tile.first * features_, features_, to, ld,
                                        tile.samples, features.begin, features.end);
    }
    for (int64_t f = features.begin; f < features.end; ++f) {
      if (batch_last_) std::copy_n(data<T>() + f * batch_ + tile.first, tile.samples, to + f * ld);
      std::fill(to + f * ld + tile.samples, to + (f + 1) * ld, T{0});
    }
  }

  int64_t batch_, features_;
  bool batch_last_, moves_;
  Tensor source_;
  std::optional<Workspace> memory_;
};

// A result that kernels write feature-major, and that may be wanted row-major.
class LinearResult {
 public:
  LinearResult(const Tensor& like, int64_t batch, int64_t features, bool row_major)
      : batch_(batch),
        features_(features),
        turns_(row_major && batch != 1),
        result_(row_major ? empty_of(like, {batch, features})
                          : empty_batch_last(like, {batch, features})) {}

  const Tensor& tensor() const { return result_; }
  int64_t tile_features() const { return turns_ ? features_ : 0; }
  template <class T>
  Workspace tile_memory(int64_t samples) const {
    return Workspace(tile_features() * samples * int64_t{sizeof(T)});
  }

  template <class T>
  Panel<T> tile(const Tile& tile, T* memory) const {
    if (turns_) return {memory, padded(tile.samples)};
    return {mutable_data<T>(result_) + tile.first, batch_};
  }

  template <class T>
  Panel<T> whole() const {
    if (turns_) return {memory_->as<T>(), padded(batch_)};
    return {mutable_data<T>(result_), batch_};
  }

  // Turns rows [begin, end) of what was written, if need be.
  template <class T>
  void turn(const Tile& tile, const Panel<T>& from, int64_t begin, int64_t end) const {
    if (!turns_) return;
    batch_last_kernels<T>().transpose(from.data + begin * from.ld, from.ld,
                                      mutable_data<T>(result_) + tile.first * features_ + begin,
                                      features_, end - begin, 0, tile.samples);
  }

  // Makes room for `whole`.
  void reserve() {
    if (turns_) memory_.emplace(features_ * padded(batch_) * result_.element_size());
  }

 private:
  int64_t batch_, features_;
  bool turns_;
  Tensor result_;
  std::optional<Workspace> memory_;
};

// Moves operands for all parts; null ones are none.
template <class T>
void read_operands(std::initializer_list<LinearOperand*> operands) {
  int64_t flops = 0;
  for (LinearOperand* operand : operands) {
    if (operand == nullptr) continue;
    operand->reserve();
    flops += operand->flops();
  }
  if (flops == 0) return;
  const int64_t parts = thread_parts(flops);
  for_parts(parts, [&](int64_t p) {
    for (const LinearOperand* operand : operands) {
      if (operand != nullptr) operand->read_part<T>(p, parts);
    }
  });
}

// How a call is shared out.
struct Sharing {
  int64_t parts;
  int64_t tile;  // samples of a tile, a multiple of kLanePadding; 0: by rows

  // `sample_bytes`: what a sample's panels take; `few_positions`: whether there are so few that
  // half a tile a thread, which reads all of them, is no loss.
  Sharing(int64_t batch, int64_t flops, int64_t widest, int64_t sample_bytes, bool few_positions)
      : parts(thread_parts(flops + kFlopsAByte * sample_bytes * padded(batch))), tile(0) {
    const int64_t share = padded(batch) / parts;
    const bool half = share >= kTileSamples / 2 && sample_bytes > 0 && few_positions;
    if (batch == 1 || (share < kTileSamples && !half)) return;
    tile = widest;
    while (tile > kTileSamples && tile * sample_bytes > kWideBytes) tile /= 2;
    while (tile > kLanePadding && tile * sample_bytes > kTileBytes) tile /= 2;
  }

  bool by_rows() const { return tile == 0; }

  // Calls run(tile) for each tile of a part.
  template <class Run>
  void for_tiles(int64_t batch, int64_t part, const Run& run) const {
    const int64_t groups = padded(batch) / kLanePadding;
    const int64_t end = std::min(batch, groups * (part + 1) / parts * kLanePadding);
    for (int64_t first = groups * part / parts * kLanePadding; first < end; first += tile) {
      run(Tile{first, std::min(tile, end - first)});
    }
  }
};

}  // namespace sparsefl
