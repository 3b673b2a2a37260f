// Which heads a code of gaps takes, and what it then costs.
#include <algorithm>

#include "codec/byte_code.h"
#include "codec/entropy.h"
#include "codec/gap_code.h"
#include "codec/gap_kernels.h"

namespace sparsefl::codec {
namespace {

// Heads are finer than the quotients of a Golomb-Rice code by up to this many bits: with fewer, the
// distribution within one head matters; with more, so do the table and the rounding of rare heads.
constexpr int kFinestHead = 5;
// Of heads at the finest parameter; those of the last bin are kMoreHeads or more at any.
constexpr uint32_t kBins = (kMoreHeads + 1) << kFinestHead;
// Gaps that are made heads at once.
constexpr size_t kBlock = 1024;
// Costs of models are finer than those of entropies by so many bits.
constexpr int kFiner = kCostFractionBits - kEntropyFractionBits;

// Counts the heads of kBlock gaps at the most in two tables by turns: equal neighbours would wait
// for each other's count.
void count_block(const uint16_t* heads, size_t n, uint32_t* counts) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const auto four = load<uint64_t>(reinterpret_cast<const uint8_t*>(heads + i));
    ++counts[four & 0xFFFF];
    ++counts[kBins + (four >> 16 & 0xFFFF)];
    ++counts[four >> 32 & 0xFFFF];
    ++counts[kBins + (four >> 48)];
  }
  for (; i < n; ++i) ++counts[heads[i]];
}

// Counts heads in 2 kBins counts, of which the first kBins have the sums. Returns the end of the
// bins that are not empty.
uint32_t count_heads(const Gaps& gaps, int shift, uint32_t* counts) {
  std::fill_n(counts, 2 * kBins, 0u);
  uint16_t heads[kBlock + kGapSlack];
  for (size_t begin = 0; begin < gaps.count; begin += kBlock) {
    const size_t n = std::min(kBlock, gaps.count - begin);
    if (gaps.is_wide) {
      for (size_t i = 0; i < n; ++i)
        heads[i] = static_cast<uint16_t>(std::min(gaps.wide[begin + i] >> shift, kBins - 1));
    } else {
      gap_kernels().clip_heads(gaps.narrow.data() + begin, n, shift, kBins - 1, heads);
    }
    count_block(heads, n, counts);
  }
  uint32_t end = 0;
  for (uint32_t bin = 0; bin < kBins; ++bin) {
    counts[bin] += counts[kBins + bin];
    if (counts[bin] != 0) end = bin + 1;
  }
  return end;
}

// Takes a parameter whose heads cost less.
void take_cheaper(int parameter, uint64_t cost, const uint32_t* heads, HeadChoice* best) {
  if (cost >= best->cost) return;
  best->parameter = static_cast<uint8_t>(parameter);
  best->cost = cost;
  std::copy_n(heads, 256, best->counts);
}

HeadPlan plan_choice(const Gaps& gaps, HeadChoice choice, HeadScratch* scratch) {
  HeadPlan plan;
  plan.parameter = choice.parameter;
  plan.symbols = gaps.count;
  plan.is_long = choice.counts[kMoreHeads] != 0;
  if (plan.is_long) {
    find_heads(gaps, plan, &scratch->symbols);
    plan.symbols = scratch->symbols.size();
    std::fill_n(choice.counts, 256, 0u);
    count_bytes(scratch->symbols.data(), plan.symbols, choice.counts);
  }
  plan.model = choose_byte_model(choice.counts, plan.symbols, Profile::kRans);
  const uint64_t lows = (gaps.count * uint64_t{plan.parameter} + 7) / 8;
  plan.bytes = 2 + coded_bytes(plan.model) + lows;
  return plan;
}

}  // namespace

HeadChoice choose_heads(const Gaps& gaps, int rice_parameter, uint64_t scale, HeadScratch* scratch,
                        HeadChoice* by_class) {
  const int finest = std::max(0, rice_parameter - kFinestHead);
  scratch->counts.resize(2 * kBins);
  uint32_t* const counts = scratch->counts.data();
  uint32_t end = count_heads(gaps, finest, counts);
  HeadChoice best;
  for (int r = finest; r <= rice_parameter; ++r) {
    uint32_t heads[256] = {};
    for (uint32_t bin = 0; bin < end; ++bin) heads[std::min(bin, kMoreHeads)] += counts[bin];
    const uint64_t lows = gaps.count * static_cast<uint64_t>(r) << kEntropyFractionBits;
    take_cheaper(r, entropy_cost(heads, gaps.count, scale) + scale * lows, heads, &best);
    if (by_class != nullptr && has_geometric(heads))
      take_cheaper(r, (geometric_cost(heads, gaps.count) >> kFiner) + lows, heads, by_class);
    // The bins of the next parameter are sums of two of these.
    for (uint32_t bin = 0; bin < end; bin += 2)
      counts[bin / 2] = counts[bin] + (bin + 1 < end ? counts[bin + 1] : 0);
    end = (end + 1) / 2;
  }
  return best;
}

HeadPlan plan_heads(const Gaps& gaps, int rice_parameter, HeadScratch* scratch) {
  HeadChoice by_class;
  const HeadChoice by_table = choose_heads(gaps, rice_parameter, 1, scratch, &by_class);
  HeadPlan plan = plan_choice(gaps, by_table, scratch);
  if (by_class.cost >= by_table.cost || by_class.parameter == by_table.parameter) return plan;
  // Heads of a class are never long, so the scratch has the others' still.
  const HeadPlan other = plan_choice(gaps, by_class, scratch);
  return other.bytes < plan.bytes ? other : plan;
}

}  // namespace sparsefl::codec
