#include <algorithm>
#include <cstring>

#include "codec/bit_strings.h"
#include "codec/bits.h"
#include "codec/row_code.h"

namespace sparsefl::codec {
namespace {

constexpr size_t kFinestTile = 16, kCoarsestTile = 128;
// Rows and columns of a tile, a u16 each, the grid's coder, the number of its set bits.
constexpr size_t kHeadBytes = 2 + 2 + 1 + 3;

constexpr size_t bytes_of(size_t bits) { return (bits + 7) / 8; }
constexpr size_t ceil_of(size_t n, size_t d) { return (n + d - 1) / d; }

// Tiles of `rows` x `columns` positions, the last of a row or column perhaps less; 0 for all.
struct Grid {
  size_t tile_rows = 0;
  size_t tile_columns = 0;
  size_t rows = 0;
  size_t columns = 0;
  std::vector<uint8_t> bits;

  Grid(size_t tile_rows, size_t tile_columns, size_t n, size_t row)
      : tile_rows(tile_rows),
        tile_columns(tile_columns),
        rows(tile_rows == 0 ? 1 : ceil_of(n / row, tile_rows)),
        columns(tile_columns == 0 ? 1 : ceil_of(row, tile_columns)),
        bits(bytes_of(rows * columns)) {}

  size_t size() const { return rows * columns; }
  bool at(size_t i, size_t j) const {
    const size_t k = i * columns + j;
    return (bits[k / 8] >> (k % 8) & 1) != 0;
  }
  void set(size_t i, size_t j) {
    const size_t k = i * columns + j;
    bits[k / 8] |= static_cast<uint8_t>(1u << (k % 8));
  }
};

bool same_bits(const uint8_t* bits, size_t bytes, size_t a, size_t b, size_t width) {
  for (size_t i = 0; i < width; i += kPieceBits) {
    const size_t piece = std::min(kPieceBits, width - i);
    if (get_bits(bits, bytes, a + i, piece) != get_bits(bits, bytes, b + i, piece)) return false;
  }
  return true;
}

bool is_uniform(const uint8_t* bits, size_t bytes, size_t at, size_t width) {
  const uint64_t first = get_bits(bits, bytes, at, 1);
  for (size_t i = 0; i < width; i += kPieceBits) {
    const size_t piece = std::min(kPieceBits, width - i);
    if (get_bits(bits, bytes, at + i, piece) != (first ? (uint64_t{1} << piece) - 1 : 0))
      return false;
  }
  return true;
}

// Whether every tile is all set or all clear; fills the grid.
bool find_tiles(const uint8_t* bits, size_t n, size_t row, Grid* grid) {
  const size_t bytes = bytes_of(n);
  const size_t height = grid->tile_rows == 0 ? n / row : grid->tile_rows;
  const size_t width = grid->tile_columns == 0 ? row : grid->tile_columns;
  for (size_t i = 0; i < n / row; ++i) {
    const size_t begin = i * row;
    if (i % height != 0) {
      if (!same_bits(bits, bytes, begin, begin - row, row)) return false;
      continue;
    }
    for (size_t j = 0; j < grid->columns; ++j) {
      const size_t at = begin + j * width;
      if (width > 1 && !is_uniform(bits, bytes, at, std::min(width, begin + row - at)))
        return false;
      if (get_bits(bits, bytes, at, 1) != 0) grid->set(i / height, j);
    }
  }
  return true;
}

// Tiles twice as high and wide, where four of `fine` are always the same.
bool coarsen(const Grid& fine, Grid* coarse) {
  for (size_t i = 0; i < fine.rows; ++i) {
    for (size_t j = 0; j < fine.columns; ++j) {
      if (fine.at(i, j) != fine.at(i & ~size_t{1}, j & ~size_t{1})) return false;
      if (fine.at(i, j)) coarse->set(i / 2, j / 2);
    }
  }
  return true;
}

void append_grid(const Grid& grid, Profile profile, Scratch* scratch, std::vector<uint8_t>* out) {
  const size_t head = out->size();
  const size_t set = popcount(grid.bits.data(), grid.bits.size());
  out->resize(head + kHeadBytes);
  const BitCoder coder =
      append_flat_code(grid.bits.data(), grid.size(), set, profile, scratch, out);
  uint8_t* const to = out->data() + head;
  store(to, static_cast<uint16_t>(grid.tile_rows));
  store(to + 2, static_cast<uint16_t>(grid.tile_columns));
  to[4] = static_cast<uint8_t>(coder);
  std::memcpy(to + 5, &set, 3);
}

}  // namespace

bool append_tiles(const uint8_t* bits, size_t n, size_t row, Profile profile, Scratch* scratch,
                  std::vector<uint8_t>* out) {
  // The second of two rows tells most strings that are no columns.
  const bool may_be_columns = same_bits(bits, bytes_of(n), 0, row, row);
  const auto try_tiles = [&](size_t rows, size_t columns) {
    Grid grid(rows, columns, n, row);
    if (!find_tiles(bits, n, row, &grid)) return false;
    append_grid(grid, profile, scratch, out);
    return true;
  };
  if (try_tiles(1, 0) || (may_be_columns && try_tiles(0, 1))) return true;
  Grid best(kFinestTile, kFinestTile, n, row);
  if (!find_tiles(bits, n, row, &best)) return false;
  for (size_t side = 2 * kFinestTile; side <= kCoarsestTile; side *= 2) {
    Grid coarse(side, side, n, row);
    if (!coarsen(best, &coarse)) break;
    best = std::move(coarse);
  }
  append_grid(best, profile, scratch, out);
  return true;
}

Reason read_tiles(const uint8_t* data, size_t bytes, size_t n, size_t count, size_t row,
                  Profile profile, uint8_t* bits) {
  if (!has_rows(n, row)) return Reason::kCode;
  if (bytes < kHeadBytes) return Reason::kSectionLength;
  Grid grid(load<uint16_t>(data), load<uint16_t>(data + 2), n, row);
  size_t set = 0;
  std::memcpy(&set, data + 5, 3);
  if (set > grid.size()) return Reason::kCode;
  const Reason reason =
      read_flat_code(static_cast<BitCoder>(data[4]), data + kHeadBytes, bytes - kHeadBytes,
                     grid.size(), set, profile, grid.bits.data());
  if (reason != Reason::kNone) return reason;
  std::memset(bits, 0, bytes_of(n));
  const size_t height = grid.tile_rows == 0 ? n / row : grid.tile_rows;
  const size_t width = grid.tile_columns == 0 ? row : grid.tile_columns;
  for (size_t i = 0; i < n / row; ++i) {
    const size_t begin = i * row;
    if (i % height != 0) {
      copy_bits(bits, bytes_of(n), begin - row, row, bits, bytes_of(n), begin);
      continue;
    }
    for (size_t j = 0; j < grid.columns; ++j)
      if (grid.at(i / height, j))
        set_run(bits, bytes_of(n), begin + j * width, std::min(width, row - j * width));
  }
  return popcount(bits, bytes_of(n)) == count ? Reason::kNone : Reason::kBitmap;
}

}  // namespace sparsefl::codec
