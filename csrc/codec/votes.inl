// vote, mean and even_mean of dense_kernels.h on the vectors `Lanes` of one instruction set.
//
// A block of positions is summed for a few clients at a time, its counts or sums staying in the
// first-level cache: memory is read in runs, and of no more clients at once than a cache has ways,
// which bitmaps of equal size would else push out for each other.
//
// Votes are counted bit-sliced: plane p holds bit p of the count of every position, and a full
// adder takes three of a kind to one of that kind and a carry.

#include "codec/words.inl"

namespace sparsefl::codec {
namespace {

constexpr int kPlanes = 32;             // a count of clients fits
constexpr size_t kVoters = 4;           // clients that are counted at a time
constexpr size_t kVoteBytes = 2 << 10;  // of a block, 10 planes of it 20 KiB
constexpr size_t kSummands = 8;         // clients that are weighted at a time
constexpr size_t kSumBytes = 512;       // of a block, its sums 16 KiB
constexpr uint8_t kNoVotes[kVoteBytes] = {};

typedef uint8_t PlaneBlock[kPlanes][kVoteBytes];

// low + 2 * high = a + b + c, bit by bit.
template <class V>
inline void add_bits(V a, V b, V c, V* high, V* low) {
  const V odd = a ^ b;
  *high = static_cast<V>((a & b) | (odd & c));
  *low = static_cast<V>(odd ^ c);
}

template <class V>
inline V load_as(const uint8_t* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <class V>
inline void store_as(uint8_t* p, V v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

// kCount clients from `client` on, at the bytes from `begin` on; those past the last abstain.
template <size_t kCount>
struct Group {
  const uint8_t* from[kCount];
  Group(const Votes& votes, size_t client, size_t begin) {
    for (size_t j = 0; j < kCount; ++j) {
      from[j] = client + j < votes.clients ? votes.packed[client + j] + begin : kNoVotes;
    }
  }
  void prefetch(size_t at) const {
    for (size_t j = 0; j < kCount; ++j) __builtin_prefetch(from[j] + at);
  }
};

inline int planes_of(size_t clients) { return 64 - __builtin_clzll(clients | 2); }

// Adds a group to the planes' bytes [at, end) as far as vectors go, and returns where they end.
template <class V>
inline size_t count_group(const Group<kVoters>& now, const Group<kVoters>& next, size_t at,
                          size_t end, int count, PlaneBlock planes) {
  for (; at + sizeof(V) <= end; at += sizeof(V)) {
    next.prefetch(at);
    V low = load_as<V>(planes[0] + at), high = load_as<V>(planes[1] + at), first, second, carry;
    add_bits(low, load_as<V>(now.from[0] + at), load_as<V>(now.from[1] + at), &first, &low);
    add_bits(low, load_as<V>(now.from[2] + at), load_as<V>(now.from[3] + at), &second, &low);
    add_bits(high, first, second, &carry, &high);
    store_as(planes[0] + at, low);
    store_as(planes[1] + at, high);
    for (int p = 2; p < count; ++p) {
      const V old = load_as<V>(planes[p] + at);
      store_as(planes[p] + at, static_cast<V>(old ^ carry));
      carry = static_cast<V>(old & carry);
    }
  }
  return at;
}

// Counts the votes at bytes [begin, begin + bytes), in planes_of(clients) planes.
void count_votes(const Votes& votes, size_t begin, size_t bytes, PlaneBlock planes) {
  for (int p = 0; p < planes_of(votes.clients); ++p) __builtin_memset(planes[p], 0, bytes);
  for (size_t c = 0; c < votes.clients; c += kVoters) {
    const size_t upto = c + kVoters;
    const Group<kVoters> now(votes, c, begin);
    // After the last group the first one's next block.
    const Group<kVoters> next = upto < votes.clients ? Group<kVoters>(votes, upto, begin)
                                                     : Group<kVoters>(votes, 0, begin + kVoteBytes);
    const int count = planes_of(upto < votes.clients ? upto : votes.clients);
    const size_t at = count_group<typename Lanes::Bits>(now, next, 0, bytes, count, planes);
    count_group<uint8_t>(now, next, at, bytes, count, planes);
  }
}

// Bit by bit whether the count is at least `least`, and whether it is least - 1.
template <class V>
inline size_t compare_votes(const PlaneBlock planes, int count, size_t least, size_t at, size_t end,
                            uint8_t* negative, uint8_t* tied) {
  for (; at + sizeof(V) <= end; at += sizeof(V)) {
    V enough = static_cast<V>(~V{}), equal = enough;
    for (int p = 0; p < count; ++p) {
      const V plane = load_as<V>(planes[p] + at);
      enough = static_cast<V>((least >> p & 1) != 0 ? plane & enough : plane | enough);
      equal = static_cast<V>(((least - 1) >> p & 1) != 0 ? equal & plane : equal & ~plane);
    }
    store_as(negative + at, enough);
    if (tied != nullptr) store_as(tied + at, equal);
  }
  return at;
}

void vote(const Votes& votes, size_t least, uint8_t* negative, uint8_t* tied) {
  const size_t bytes = (votes.n + 7) / 8;
  const int count = planes_of(votes.clients);
  alignas(64) PlaneBlock planes;
  for (size_t begin = 0; begin < bytes; begin += kVoteBytes) {
    const size_t block = bytes - begin < kVoteBytes ? bytes - begin : kVoteBytes;
    count_votes(votes, begin, block, planes);
    uint8_t* equal = tied != nullptr ? tied + begin : nullptr;
    const size_t at = compare_votes<typename Lanes::Bits>(planes, count, least, 0, block,
                                                          negative + begin, equal);
    compare_votes<uint8_t>(planes, count, least, at, block, negative + begin, equal);
  }
  if (votes.n % 8 != 0) {
    const uint8_t valid = static_cast<uint8_t>((1u << votes.n % 8) - 1);
    negative[bytes - 1] &= valid;
    if (tied != nullptr) tied[bytes - 1] &= valid;
  }
}

// The n means, fewer than a vector, from byte `at` on.
void mean_some(const Votes& votes, size_t at, size_t n, const int32_t* weights, int32_t total,
               double unit, float* out) {
  for (size_t j = 0; j < n; ++j) {
    uint32_t sum = 0;
    for (size_t c = 0; c < votes.clients; ++c) {
      const uint32_t bit = votes.packed[c][at + j / 8] >> j % 8 & 1u;
      sum += static_cast<uint32_t>(weights[c]) & (0u - bit);
    }
    const auto left = static_cast<int32_t>(static_cast<uint32_t>(total) - 2 * sum);
    out[j] = static_cast<float>(left * unit);
  }
}

void mean(const Votes& votes, const int32_t* weights, int32_t total, double unit, float* out) {
  constexpr size_t kPositions = Lanes::kSumPositions;
  const size_t whole = votes.n / kPositions * kPositions / 8;
  alignas(64) int32_t sums[8 * kSumBytes];
  for (size_t begin = 0; begin < whole; begin += kSumBytes) {
    const size_t block = whole - begin < kSumBytes ? whole - begin : kSumBytes;
    __builtin_memset(sums, 0, 8 * block * sizeof(sums[0]));
    for (size_t c = 0; c < votes.clients; c += kSummands) {
      const Group<kSummands> now(votes, c, begin);
      const Group<kSummands> next = c + kSummands < votes.clients
                                        ? Group<kSummands>(votes, c + kSummands, begin)
                                        : Group<kSummands>(votes, 0, begin + kSumBytes);
      for (size_t at = 0; at < block; at += 64) next.prefetch(at);
      int32_t weight[kSummands] = {};
      for (size_t j = 0; j < kSummands && c + j < votes.clients; ++j) weight[j] = weights[c + j];
      Lanes::add_weights(now.from, weight, block, sums);
    }
    for (size_t j = 0; j < 8 * block; j += kPositions) {
      Lanes::write_means(sums + j, total, unit, out + 8 * begin + j);
    }
  }
  mean_some(votes, whole, votes.n - 8 * whole, weights, total, unit, out + 8 * whole);
}

// The planes of the counts are clients of weight, 2 * weight, 4 * weight and so on.
void even_mean(const Votes& votes, int32_t weight, int32_t total, double unit, float* out) {
  const int count = planes_of(votes.clients);
  const size_t bytes = (votes.n + 7) / 8;
  alignas(64) PlaneBlock planes;
  const uint8_t* packed[kPlanes];
  int32_t weights[kPlanes];
  for (int p = 0; p < count; ++p) {
    packed[p] = planes[p];
    weights[p] = static_cast<int32_t>(static_cast<uint32_t>(weight) << p);
  }
  for (size_t begin = 0; begin < bytes; begin += kVoteBytes) {
    const size_t left = votes.n - 8 * begin;
    const Votes counts{packed, static_cast<size_t>(count),
                       left < 8 * kVoteBytes ? left : 8 * kVoteBytes};
    count_votes(votes, begin, (counts.n + 7) / 8, planes);
    mean(counts, weights, total, unit, out + 8 * begin);
  }
}

}  // namespace
}  // namespace sparsefl::codec
