// What the passes of a convolution are made of: its geometry, its weights in a view's order, and
// what each thread does of a pass.
#pragma once

#include <algorithm>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/operand.h"
#include "bindings/parallel.h"
#include "bindings/workspace.h"
#include "cpu/plan.h"
#include "cpu/sparse_conv2d.h"

namespace sparsefl {

// What an operator's `geometry` holds, in this order.
struct Geometry {
  int64_t out, in, groups;  // channels of all groups
  Extent y, x;

  explicit Geometry(const std::vector<int64_t>& g)
      : out(g.at(0)),
        in(g.at(1)),
        groups(g.at(2)),
        y{g.at(3), g.at(5), g.at(7), g.at(9), g.at(11), g.at(13)},
        x{g.at(4), g.at(6), g.at(8), g.at(10), g.at(12), g.at(14)} {}

  int64_t taps() const { return y.kernel * x.kernel; }
  int64_t in_features() const { return in * y.input * x.input; }
  int64_t out_features() const { return out * y.output * x.output; }
};

// Samples that are convolved at a time: all, unless an operand or the result has to be moved.
template <class T>
int64_t chunk_for(const Geometry& g, int64_t batch, bool moves) {
  if (!moves) return batch;
  return chunk_of(batch, std::max(g.in_features(), g.out_features()) * int64_t{sizeof(T)});
}

inline Samples lying(const Operand& operand) { return {operand.ld(), operand.group()}; }

// A pass and the taps of its axes.
class OwningPass {
 public:
  OwningPass(OwningPass&&) = default;  // a copy's pass would point into the original

  static OwningPass forward(const Geometry& g) {
    OwningPass made;
    made.pass_.y = forward_axis(g.y, made.taps_y_);
    made.pass_.x = forward_axis(g.x, made.taps_x_);
    made.pass_.groups = g.groups;
    made.pass_.phase = 0;
    return made;
  }

  static OwningPass transposed(const Geometry& g, int64_t phase) {
    OwningPass made;
    made.pass_.y = transposed_axis(g.y, phase / g.x.stride, made.taps_y_);
    made.pass_.x = transposed_axis(g.x, phase % g.x.stride, made.taps_x_);
    made.pass_.groups = g.groups;
    made.pass_.phase = phase;
    return made;
  }

  Pass of(int64_t batch, const Samples& in, const Samples& out) const {
    Pass pass = pass_;
    pass.row_part = 0, pass.row_parts = 1, pass.batch = batch, pass.in = in, pass.out = out;
    return pass;
  }

 private:
  OwningPass() = default;

  Pass pass_;
  std::vector<int32_t> taps_y_, taps_x_;
};

// The weights of a view in its order: the stored ones, or what they stand for, read once a call
// where every item of the batch would read them again.
template <class T>
class ViewWeights {
 public:
  ViewWeights(const Tensor& stored, const Magnitudes* magnitudes, const ViewTensors& view)
      : weights_(make_weights<T>(stored, magnitudes)),
        position_(data<int32_t>(view.position)),
        nnz_(view.nnz()),
        as_stored_(weights_.kind == WeightKind::kValues && position_ == nullptr),
        memory_(as_stored_ ? 0 : nnz_ * int64_t{sizeof(T)}) {
    if (as_stored_) return;
    const int64_t parts = thread_parts(kFlopsARead * nnz_);
    for_parts(parts, [&](int64_t p) {
      sparse_conv2d_kernels<T>().read_weights(weights_, position_, nnz_ * p / parts,
                                              nnz_ * (p + 1) / parts, memory_.template as<T>());
    });
  }

  const T* get() const { return as_stored_ ? weights_.values : memory_.template as<T>(); }

 private:
  // What reading one out of order costs, in flops.
  static constexpr int64_t kFlopsARead = 16;

  Weights<T> weights_;
  const int32_t* position_;
  int64_t nnz_;
  bool as_stored_;
  Workspace memory_;
};

// A kernel of a walk.
enum class Kernel { kGather, kSample };

// Whether strips take less time than tiles. They read what a position meets from the second-level
// cache or beyond, where tiles read a copy of it in the first. That copy costs what some positions
// of every row do, and more where a batch leaves lanes of its last vectors empty; and tiles add up
// the lanes of a position's products once a tile, strips once a run.
inline bool prefers_strips(Kernel kernel, const Geometry& g, int64_t nnz, int64_t widest_block,
                           int64_t batch) {
  // Kept positions a row.
  const int64_t whole = kernel == Kernel::kGather ? 15 : 24, padded = 40;
  const int64_t pixels = std::max(g.y.input * g.x.input, g.y.output * g.x.output);
  const bool walks =
      g.y.stride == 1 && g.x.stride == 1 && batch > 0 && widest_block * pixels * batch < INT32_MAX;
  return walks && 2 * nnz <= (batch % kLanePadding == 0 ? whole : padded) * (g.in + g.out);
}

// An operand as a walk reads it.
inline Operand operand_of(const Tensor& x, int64_t chunk, bool strips) {
  return strips ? Operand::batch_last(x) : Operand(x, chunk);
}

// A pass of a 1x1 kernel, whose images are rows.
inline Pass as_rows(Pass pass) {
  const bool pointwise = pass.y.kernel * pass.x.kernel == 1 && pass.y.tap[0] == 0 &&
                         pass.x.tap[0] == 0 && pass.y.input == pass.y.output &&
                         pass.x.input == pass.x.output;
  if (!pointwise) return pass;
  pass.x.input *= pass.y.input;
  pass.x.output = pass.x.grid = pass.x.input;
  pass.y.input = pass.y.output = pass.y.grid = 1;
  return pass;
}

// What one of so many threads does of a pass: some of its items, or, where a small batch of small
// images gives too few to share out evenly, or too few for the many weights that each of them
// reads, some rows of all of them.
template <class T>
struct Share {
  const Conv2dWalk<T>& walk;
  Pass pass;
  int64_t begin, end;

  Share(const View& view, const Pass& of, bool strips, int64_t p, int64_t parts)
      : walk(strips ? sparse_conv2d_kernels<T>().strips : sparse_conv2d_kernels<T>().tiles),
        pass(strips ? as_rows(of) : of) {
    constexpr int64_t kEnough = 4;  // items a part, for their number and sizes not to matter
    // A part, whose weights and places are then half of what a second-level cache holds, and whose
    // products take much longer than the copies of the windows that the parts all make.
    constexpr int64_t kManyPositions = 32768;
    const int64_t items = walk.items(pass);
    const bool alike = of.batch <= kLanePadding || of.batch % kLanePadding == 0;
    const bool many = positions(view, of) >= kManyPositions * parts;
    if (items >= kEnough * parts || (alike && items % parts == 0 && !many)) {
      begin = items * p / parts, end = items * (p + 1) / parts;
    } else {
      pass.row_part = p, pass.row_parts = parts;
      begin = 0, end = items;
    }
  }

 private:
  // Kept ones of a pass.
  static int64_t positions(const View& view, const Pass& pass) {
    const int64_t segment = view.blocks() * view.rows;
    return view.begin[(pass.phase + 1) * segment] - view.begin[pass.phase * segment];
  }
};

template <class T>
void gather_part(GatherArgs<T> args, bool strips, int64_t p, int64_t parts) {
  const Share<T> share(args.view, args.pass, strips, p, parts);
  args.pass = share.pass;
  const Workspace scratch(share.walk.scratch(args.view, args.pass) * int64_t{sizeof(T)});
  share.walk.gather(args, share.begin, share.end, scratch.as<T>());
}

}  // namespace sparsefl
