// The items that the tiles of sparse_conv2d.h walk, and what a thread holds for them.

#include "cpu/sparse_conv2d_window.inl"

namespace sparsefl {
namespace {

// The parts of a thread's scratch: a table of the columns' places, the places of all positions, the
// offsets of two items' windows and tiles, a window, and a tile of all rows' sums or gradients.
template <class T>
struct Scratch {
  int32_t *table, *places;
  int64_t *window_offsets[2], *tile_offsets[2];
  T *window, *sums;

  Scratch(const View& view, const Pass& pass, const Window<T>& w, const Stretch<T>& s, T* memory) {
    const auto take = [&](int64_t elements) {
      T* taken = memory;
      memory += elements;
      return taken;
    };
    table = reinterpret_cast<int32_t*>(take(table_elements(w)));
    places = reinterpret_cast<int32_t*>(take(places_elements(view, pass)));
    for (int i = 0; i < 2; ++i) {
      window_offsets[i] = reinterpret_cast<int64_t*>(take(offsets_elements(w.pixels())));
      tile_offsets[i] = reinterpret_cast<int64_t*>(take(offsets_elements(s.rows * s.columns)));
    }
    window = take(rounded(w.elements() * int64_t{sizeof(T)}));
    sums = memory;
  }

  static int64_t elements(const View& view, const Pass& pass) {
    int64_t most = 0;
    for_stretches<T>(pass, [&](const Stretch<T>& s) {
      const Window<T> w(view, pass, s);
      const int64_t elements =
          table_elements(w) + places_elements(view, pass) + 2 * offsets_elements(w.pixels()) +
          2 * offsets_elements(s.rows * s.columns) + rounded(w.elements() * int64_t{sizeof(T)}) +
          ceil_div(view.rows / pass.groups, pass.row_parts) * s.tile_elements();
      most = elements > most ? elements : most;
    });
    return most;
  }

 private:
  static int64_t rounded(int64_t bytes) { return ceil_div(bytes, 64) * 64 / int64_t{sizeof(T)}; }
  static int64_t table_elements(const Window<T>& w) {
    return rounded(w.channels * w.taps * int64_t{sizeof(int32_t)});
  }
  static int64_t places_elements(const View& view, const Pass& pass) {
    const int64_t segment = view.blocks() * view.rows;
    const int64_t positions =
        view.begin[(pass.phase + 1) * segment] - view.begin[pass.phase * segment];
    return rounded(positions * int64_t{sizeof(int32_t)});
  }
  static int64_t offsets_elements(int64_t pixels) {
    return rounded(pixels * int64_t{sizeof(int64_t)});
  }
};

// Walks a range of a stretch's items; the next one is known, so that its pixels can be asked for.
template <class T>
class Items {
 public:
  struct Place {
    Item item;
    Pixels<const T> window;
    const int64_t* tile;
  };

  Items(const View& view, const Pass& pass, const Stretch<T>& stretch, const T* x, int64_t begin,
        int64_t end, T* scratch)
      : view_(view),
        pass_(pass),
        stretch_(stretch),
        x_(x),
        at_(begin),
        end_(end),
        window_(view, pass, stretch),
        memory(view, pass, window_, stretch, scratch),
        here(place(begin)),
        next(place(begin + 1 < end ? begin + 1 : begin)) {
    fill_table(window_, pass, memory.table);
    fill_places();
  }

  bool done() const { return at_ == end_; }
  bool last() const { return at_ + 1 == end_; }
  void advance() {
    ++at_;
    here = next;
    if (at_ + 1 < end_) next = place(at_ + 1);
  }

  const Stretch<T>& stretch() const { return stretch_; }
  // Of an item: its first row among all, and how many they are.
  int64_t first_row(const Place& of) const { return first_row_of(of.item.group); }
  int64_t rows() const { return row(pass_.row_part + 1) - row(pass_.row_part); }
  int64_t row_elements() const { return window_.row_elements(); }
  // First kept positions of the item's rows in a block.
  const int32_t* begin(int64_t block) const { return begin_of(block, here.item.group); }
  // Where in a block's window every kept position from `position` on lies.
  const int32_t* places(int64_t position) const {
    return memory.places + (position - first_position());
  }

  void copy_window(int64_t block) const {
    copy_pixels(here.window, channel(block), channel(block + 1), memory.window);
  }
  // The window that follows a block's: that of the next item after the last block.
  Lookahead<T> window_after(int64_t block) const {
    if (block + 1 < view_.blocks()) {
      return Lookahead<T>(here.window, channel(block + 1), channel(block + 2));
    }
    return last() ? Lookahead<T>() : Lookahead<T>(next.window, 0, channel(1));
  }

  // A place's tile in the channels of its rows.
  template <class E>
  Pixels<E> tile(const Place& place, E* output) const {
    const int64_t plane = pass_.y.output * pass_.x.output * pass_.out.pixel;
    return {output + first_row(place) * plane + pass_.out.offset(place.item.lane),
            plane,
            place.tile,
            stretch_.rows * stretch_.columns,
            stretch_.samples,
            place.item.lanes};
  }

 private:
  int64_t first_row_of(int64_t group) const { return group * group_rows() + row(pass_.row_part); }
  const int32_t* begin_of(int64_t block, int64_t group) const {
    return view_.begin + (pass_.phase * view_.blocks() + block) * view_.rows + first_row_of(group);
  }
  // Once for all items: reading a table beside every load of the window took 2 to 6 % of a pass.
  void fill_places() const {
    for (int64_t group = 0; group < pass_.groups; ++group) {
      for (int64_t block = 0; block < view_.blocks(); ++block) {
        const int32_t* begin = begin_of(block, group);
        for (int64_t k = begin[0]; k < begin[rows()]; ++k) {
          memory.places[k - first_position()] = memory.table[view_.index[k]];
        }
      }
    }
  }
  // Of the phase.
  int64_t first_position() const { return view_.begin[pass_.phase * view_.blocks() * view_.rows]; }
  int64_t group_rows() const { return view_.rows / pass_.groups; }
  int64_t row(int64_t part) const { return group_rows() * part / pass_.row_parts; }
  int64_t channels() const { return view_.columns / window_.taps; }
  // First one of a block.
  int64_t channel(int64_t block) const {
    const int64_t first = block * window_.channels;
    return first < channels() ? first : channels();
  }
  Place place(int64_t at) const {
    const Item item = Item::of(at, pass_, stretch_);
    int64_t* window_offsets = memory.window_offsets[at & 1];
    int64_t* tile_offsets = memory.tile_offsets[at & 1];
    fill_window_offsets(window_, pass_, item, window_offsets);
    fill_tile_offsets(stretch_, pass_, item, tile_offsets);
    const int64_t plane = pass_.y.input * pass_.x.input * pass_.in.pixel;
    const T* x = x_ + item.group * channels() * plane + pass_.in.offset(item.lane);
    return {item,
            {x, plane, window_offsets, window_.pixels(), stretch_.samples, item.lanes},
            tile_offsets};
  }

  const View& view_;
  const Pass& pass_;
  const Stretch<T>& stretch_;
  const T* x_;
  int64_t at_, end_;
  Window<T> window_;

 public:
  const Scratch<T> memory;
  Place here, next;
};

template <class T>
int64_t items(const Pass& pass) {
  int64_t all = 0;
  for_stretches<T>(pass, [&](const Stretch<T>& stretch) { all += stretch.items(pass); });
  return all;
}

// Calls run(items) for the parts of the range [begin, end) in every stretch.
template <class T, class Run>
inline void for_items(const View& view, const Pass& pass, const T* x, int64_t begin, int64_t end,
                      T* scratch, Run run) {
  for_stretches<T>(pass, [&](const Stretch<T>& stretch) {
    const int64_t count = stretch.items(pass);
    const int64_t first = begin < 0 ? 0 : begin, last = end < count ? end : count;
    if (first < last) {
      Items<T> items(view, pass, stretch, x, first, last, scratch);
      for (; !items.done(); items.advance()) run(items);
    }
    begin -= count, end -= count;
  });
}

}  // namespace
}  // namespace sparsefl
