// The kernels of dense_kernels.h, included by dense_<isa>.cpp after it has defined `Lanes`.

#include "codec/kept.inl"
#include "codec/magnitudes.inl"
#include "codec/signs.inl"
#include "codec/votes.inl"

#define SPARSEFL_DENSE_TABLE \
  {pack_signs, unpack_signs, keep, collect, refine, gather, add_at, vote, mean, even_mean}
