// Brings the codes of a sign layer's columns up to its scores.
#pragma once

#include <atomic>

#include "bindings/arguments.h"
#include "bindings/parallel.h"
#include "cpu/sign_codes.h"

namespace sparsefl {

// Reading a score takes about as long as so many flops of a product.
constexpr int64_t kFlopsAScore = 8;

// The tensors of SignCodesArgs.
struct SignCodes {
  const Tensor &scores, &negative, &stored, &other, &place;
};

// Returns how many signs have changed.
inline int64_t update(const SignCodes& codes) {
  std::atomic<int64_t> changed{0};
  with_type(codes.scores, [&]<class T>(T*) {
    const SignCodesArgs<T> args{data<T>(codes.scores),
                                codes.scores.numel(),
                                reinterpret_cast<uint32_t*>(mutable_data<int32_t>(codes.negative)),
                                reinterpret_cast<uint16_t*>(mutable_data<int16_t>(codes.stored)),
                                reinterpret_cast<uint16_t*>(mutable_data<int16_t>(codes.other)),
                                data<int32_t>(codes.place)};
    const int64_t nnz = args.nnz, chunks = args.chunks(), parts = thread_parts(kFlopsAScore * nnz);
    const bool fits = codes.stored.numel() == nnz && codes.other.numel() == nnz &&
                      codes.place.numel() == nnz && codes.stored.element_size() == 2 &&
                      codes.other.element_size() == 2 && codes.negative.element_size() == 4 &&
                      codes.negative.numel() == chunks * kSignLanes;
    STD_TORCH_CHECK(fits, "bad sign codes");
    for_parts(parts, [&](int64_t p) {
      const int64_t end = chunks * (p + 1) / parts;
      changed += sign_codes_kernels<T>().update(args, chunks * p / parts, end);
    });
  });
  return changed;
}

}  // namespace sparsefl
