// How the walk of sparse_conv2d.h goes that copies no windows. A pixel's samples and its neighbours
// in the row of an image lie side by side, so that a tap meets a strip of a row as that strip,
// shifted.

namespace sparsefl {
namespace {

// Vectors of a strip: as many as the registers hold as sums, or fewer where rows are short.
constexpr int kStripSizes = 9;
template <class T>
constexpr int kStripVectors[kStripSizes] = {
    kManyRegisters<T> ? 16 : 12, kManyRegisters<T> ? 14 : 10, kManyRegisters<T> ? 12 : 9,
    kManyRegisters<T> ? 10 : 8,  kManyRegisters<T> ? 9 : 7,   kManyRegisters<T> ? 7 : 6,
    kManyRegisters<T> ? 5 : 4,   kManyRegisters<T> ? 3 : 2,   1};

// Calls run.operator()<vectors>() of a size.
template <class T, int kIndex = 0, class Run>
inline void with_vectors(int index, Run run) {
  if constexpr (kIndex + 1 == kStripSizes) {
    run.template operator()<kStripVectors<T>[kIndex]>();
  } else {
    if (index == kIndex) return run.template operator()<kStripVectors<T>[kIndex]>();
    with_vectors<T, kIndex + 1>(index, run);
  }
}

// How the output's rows are cut into strips, in elements. The last strip of a row ends with it and
// overlaps with the one before; where a row is shorter than a strip, that ends beyond it. An item
// is a run of strips, of one row or several: a channel's part of it is long enough for the hardware
// to see it coming.
template <class T>
struct Strips {
  int64_t in_row, out_row;
  int size;
  int64_t length, across;  // of a strip, strips of a row
  int64_t all, run;        // strips of an image, and of an item

  explicit Strips(const Pass& pass)
      : in_row(pass.x.input * pass.batch), out_row(pass.x.output * pass.batch) {
    constexpr int64_t kStripCost = 4;  // of starting and ending a row's sums, in vectors
    constexpr int64_t kRunBytes = 16384;
    int64_t least = INT64_MAX;
    for (int i = 0; i < kStripSizes; ++i) {
      const int64_t elements = int64_t{kStripVectors<T>[i]} * Vec<T>::kLanes;
      const int64_t cost = ceil_div(out_row, elements) * (kStripVectors<T>[i] + kStripCost);
      if (cost >= least) continue;
      least = cost;
      size = i, length = elements, across = ceil_div(out_row, elements);
    }
    all = across * pass.y.output;
    run = ceil_div(kRunBytes, length * int64_t{sizeof(T)});
  }

  int64_t runs() const { return ceil_div(all, run); }
  int64_t items(const Pass& pass) const { return runs() * pass.groups; }
};

// Where a kept position's operand lies, from a strip's place in the first channel of its block on.
struct TapPlace {
  int32_t offset, tap;
};

// The elements of a strip that lie in the image for the taps of a column of the kernel, and what
// such a tap meets: all, nothing, or what the cut of that number leaves.
struct Cut {
  int64_t begin, end;
  int32_t met;
};
constexpr int32_t kWhole = -1, kNothing = -2;

// A strip of an item: its place in a channel of the input and of the output, how many of its
// elements the strip before had, how many are the image's, and what each tap meets of it.
struct Strip {
  int64_t in, out, before, count;
  bool plain;  // all taps meet all of it
  const int32_t* met;
};

template <class T>
struct MaskElement {
  typedef int32_t Type;
};
template <>
struct MaskElement<double> {
  typedef int64_t Type;
};

// The elements of `v` whose lanes of a mask are all ones; the others are zero.
template <class T>
inline typename Vec<T>::Type masked(typename Vec<T>::Type v,
                                    const typename MaskElement<T>::Type* mask) {
  typedef typename MaskElement<T>::Type Element;
  typedef Element Bits __attribute__((vector_size(SPARSEFL_VECTOR_BYTES)));
  return (typename Vec<T>::Type)((Bits)v & *reinterpret_cast<const Bits*>(mask));
}

template <class T>
struct StripScratch {
  typedef typename MaskElement<T>::Type Mask;
  TapPlace* table;
  Strip* strips;  // [run]
  int32_t* met;   // [run][taps]
  Cut* cuts;      // [across][kernel columns]
  Mask* masks;    // [across][kernel columns][length of a strip]
  T* copied;      // [length of a strip]

  StripScratch(const View& view, const Pass& pass, const Strips<T>& s, T* memory) {
    const auto place = [&](int part) { return memory + ends(view, pass, s, part); };
    table = reinterpret_cast<TapPlace*>(place(0));
    strips = reinterpret_cast<Strip*>(place(1));
    met = reinterpret_cast<int32_t*>(place(2));
    cuts = reinterpret_cast<Cut*>(place(3));
    masks = reinterpret_cast<Mask*>(place(4));
    copied = place(5);
  }

  static int64_t elements(const View& view, const Pass& pass) {
    return ends(view, pass, Strips<T>(pass), kParts);
  }

  static int64_t block_columns(const View& view) {
    return view.block < view.columns ? view.block : view.columns;
  }

 private:
  static constexpr int kParts = 6;

  // Elements of the first so many parts.
  static int64_t ends(const View& view, const Pass& pass, const Strips<T>& s, int parts) {
    const int64_t kernel = pass.x.kernel;
    const int64_t bytes[kParts] = {block_columns(view) * int64_t{sizeof(TapPlace)},
                                   s.run * int64_t{sizeof(Strip)},
                                   s.run * pass.y.kernel * kernel * int64_t{sizeof(int32_t)},
                                   s.across * kernel * int64_t{sizeof(Cut)},
                                   s.across * kernel * s.length * int64_t{sizeof(T)},
                                   s.length * int64_t{sizeof(T)}};
    int64_t elements = 0;
    for (int i = 0; i < parts; ++i) elements += ceil_div(bytes[i], 64) * 64 / int64_t{sizeof(T)};
    return elements;
  }
};

// Walks a range of a pass's runs of strips.
template <class T>
class Runs {
 public:
  Runs(const View& view, const Pass& pass, const T* x, int64_t begin, int64_t end, T* memory)
      : strips(pass),
        scratch(view, pass, strips, memory),
        view_(view),
        pass_(pass),
        x_(x),
        at_(begin),
        end_(end),
        taps_(pass.y.kernel * pass.x.kernel),
        in_plane_(pass.y.input * strips.in_row),
        out_plane_(pass.y.output * strips.out_row) {
    fill_table();
    for (int64_t i = 0; i < strips.across; ++i) {
      for (int64_t kx = 0; kx < pass_.x.kernel; ++kx) cut(i, kx);
    }
    place();
  }

  bool done() const { return at_ >= end_; }
  void advance() {
    ++at_;
    place();
  }

  int64_t count() const { return count_; }
  const Strip& strip(int64_t i) const { return scratch.strips[i]; }
  int64_t first_row() const { return group_ * group_rows() + part(pass_.row_part); }
  int64_t rows() const { return part(pass_.row_part + 1) - part(pass_.row_part); }
  const int32_t* begin(int64_t block) const {
    return view_.begin + block * view_.rows + first_row();
  }
  // Of a row's channel of the output, and of the first channel of a block.
  int64_t out_offset(int64_t row) const { return (first_row() + row) * out_plane_; }
  int64_t in_offset(int64_t block) const {
    const int64_t channels = StripScratch<T>::block_columns(view_) / taps_;
    return (group_ * (view_.columns / taps_) + block * channels) * in_plane_;
  }

  // Calls run(operand, mask) with the elements of a strip that a kept position meets: those of the
  // mask, or all where it is null. offset: of its block's first channel.
  template <int kVectors, bool kPlain, class Run>
  [[gnu::always_inline]] void with_operand(const Strip& strip, int64_t offset, TapPlace place,
                                           Run run) const {
    constexpr int kElements = kVectors * Vec<T>::kLanes;
    const int64_t at = offset + strip.in + place.offset;
    constexpr const typename StripScratch<T>::Mask* kNoMask = nullptr;
    if constexpr (!kPlain) {
      const int32_t met = strip.met[place.tap];
      if (met == kNothing) return;
      if (met != kWhole) {
        if (at >= 0 && at + kElements <= in_elements()) {
          return run(x_ + at, scratch.masks + met * kElements);
        }
        const Cut cut = scratch.cuts[met];
        for (int64_t i = 0; i < kElements; ++i) {
          scratch.copied[i] = i >= cut.begin && i < cut.end ? x_[at + i] : T{0};
        }
        return run(scratch.copied, kNoMask);
      }
    }
    run(x_ + at, kNoMask);
  }

  const Strips<T> strips;
  const StripScratch<T> scratch;

 private:
  int64_t group_rows() const { return view_.rows / pass_.groups; }
  int64_t part(int64_t of) const { return group_rows() * of / pass_.row_parts; }
  int64_t in_elements() const { return pass_.groups * (view_.columns / taps_) * in_plane_; }
  int64_t begin_of(int64_t across) const {
    const int64_t begin = across * strips.length, last = strips.out_row - strips.length;
    return begin <= last ? begin : last > 0 ? last : 0;
  }
  int64_t count_of(int64_t begin) const {
    const int64_t left = strips.out_row - begin;
    return left < strips.length ? left : strips.length;
  }

  void fill_table() {
    TapPlace* to = scratch.table;
    const int64_t channels = StripScratch<T>::block_columns(view_) / taps_;
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t t = 0; t < taps_; ++t, ++to) {
        const int64_t ky = t / pass_.x.kernel, kx = t % pass_.x.kernel;
        to->offset = static_cast<int32_t>(c * in_plane_ + pass_.y.tap[ky] * strips.in_row +
                                          pass_.x.tap[kx] * pass_.batch);
        to->tap = static_cast<int32_t>(t);
      }
    }
  }

  void cut(int64_t across, int64_t kx) {
    const int64_t number = across * pass_.x.kernel + kx, begin = begin_of(across);
    const int64_t from = begin + pass_.x.tap[kx] * pass_.batch, count = count_of(begin);
    Cut& cut = scratch.cuts[number];
    cut.begin = from < 0 ? -from : 0;
    cut.end = strips.in_row - from < count ? strips.in_row - from : count;
    cut.met = cut.begin >= cut.end                         ? kNothing
              : cut.begin == 0 && cut.end == strips.length ? kWhole
                                                           : static_cast<int32_t>(number);
    if (cut.met < 0) return;
    typename StripScratch<T>::Mask* mask = scratch.masks + number * strips.length;
    for (int64_t i = 0; i < strips.length; ++i) mask[i] = i >= cut.begin && i < cut.end ? -1 : 0;
  }

  // Finds the strips of the item.
  void place() {
    if (done()) return;
    group_ = at_ / strips.runs();
    const int64_t first = at_ % strips.runs() * strips.run, left = strips.all - first;
    count_ = left < strips.run ? left : strips.run;
    for (int64_t i = 0; i < count_; ++i) place_strip(first + i, i);
  }

  void place_strip(int64_t number, int64_t i) {
    const int64_t y = number / strips.across, across = number % strips.across;
    const int64_t begin = begin_of(across), kernel = pass_.x.kernel;
    int32_t* met = scratch.met + i * taps_;
    bool plain = count_of(begin) == strips.length;
    for (int64_t ky = 0; ky < pass_.y.kernel; ++ky) {
      const int64_t row = y + pass_.y.tap[ky];
      const bool inside = row >= 0 && row < pass_.y.input;
      for (int64_t kx = 0; kx < kernel; ++kx) {
        const int32_t here = inside ? scratch.cuts[across * kernel + kx].met : kNothing;
        met[ky * kernel + kx] = here;
        plain = plain && here == kWhole;
      }
    }
    scratch.strips[i] = {y * strips.in_row + begin,
                         y * strips.out_row + begin,
                         across * strips.length - begin,
                         count_of(begin),
                         plain,
                         met};
  }

  const View& view_;
  const Pass& pass_;
  const T* x_;
  int64_t at_, end_, taps_, in_plane_, out_plane_;
  int64_t group_ = 0, count_ = 0;
};

}  // namespace
}  // namespace sparsefl
