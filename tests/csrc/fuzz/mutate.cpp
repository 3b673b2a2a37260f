#include "mutate.h"

#include <algorithm>
#include <bit>

#include "make.h"
#include "parts.h"

namespace sparsefl::fuzz {
namespace {

constexpr size_t kMostBytes = 1 << 20;

// Places near the start of a code are its head, where most is decided.
size_t pick_place(size_t size, Random* random) {
  return random->below(random->one_in(2) ? std::min<size_t>(size, 16) : size);
}

// A number of 1 to 4 bytes.
void put_number(uint64_t number, size_t at, Random* random, Bytes* bytes) {
  const size_t end = std::min(bytes->size(), at + 1 + random->below(4));
  for (size_t i = at; i < end; ++i, number >>= 8) (*bytes)[i] = static_cast<uint8_t>(number);
}

void add_to_byte(size_t at, Random* random, Bytes* bytes) {
  (*bytes)[at] = static_cast<uint8_t>((*bytes)[at] + random->below(9) - 4);
}

void insert_bytes(size_t at, Random* random, Bytes* bytes) {
  const size_t many = 1 + random->below(size_t{1} << random->below(7));
  if (bytes->size() + many > kMostBytes) return;
  const uint8_t fill = random->one_in(2) ? 0 : random->byte();
  bytes->insert(bytes->begin() + static_cast<ptrdiff_t>(at), many, fill);
}

void erase_bytes(size_t at, Random* random, Bytes* bytes) {
  const size_t many =
      std::min(bytes->size() - at, 1 + random->below(size_t{1} << random->below(7)));
  const auto begin = bytes->begin() + static_cast<ptrdiff_t>(at);
  bytes->erase(begin, begin + static_cast<ptrdiff_t>(many));
}

void copy_within(size_t at, Random* random, Bytes* bytes) {
  const size_t from = random->below(bytes->size());
  const size_t many = std::min(bytes->size() - std::max(at, from), random->below(32));
  for (size_t i = 0; i < many; ++i) (*bytes)[at + i] = (*bytes)[from + i];
}

void damage_bytes(Bytes* bytes, Random* random) {
  if (bytes->empty()) {
    if (random->one_in(2)) insert_bytes(0, random, bytes);
    return;
  }
  for (size_t n = 1 + random->below(3); n != 0 && !bytes->empty(); --n) {
    const size_t at = pick_place(bytes->size(), random);
    switch (random->below(9)) {
      case 0:
      case 1:
        (*bytes)[at] ^= static_cast<uint8_t>(1u << random->below(8));
        break;
      case 2:
        (*bytes)[at] = random->byte();
        break;
      case 3:
        put_number(random->hostile(), at, random, bytes);
        break;
      case 4:
        add_to_byte(at, random, bytes);
        break;
      case 5:
        insert_bytes(random->one_in(2) ? bytes->size() : at, random, bytes);
        break;
      case 6:
        erase_bytes(at, random, bytes);
        break;
      case 7:
        bytes->resize(at);
        break;
      default:
        copy_within(at, random, bytes);
    }
  }
}

TensorPart* pick_tensor(Parts* parts, Random* random) {
  return parts->tensors.empty() ? nullptr : &parts->tensors[random->below(parts->tensors.size())];
}

ChunkPart* pick_chunk(Parts* parts, Random* random) {
  TensorPart* t = pick_tensor(parts, random);
  return t == nullptr || t->chunks.empty() ? nullptr : &t->chunks[random->below(t->chunks.size())];
}

void change_header(Parts* parts, Random* random) {
  const auto number = static_cast<uint32_t>(random->hostile());
  switch (random->below(8)) {
    case 0:
      parts->major = static_cast<uint16_t>(number);
      break;
    case 1:
      parts->minor = static_cast<uint16_t>(number);
      break;
    case 2:
      parts->flags = number;
      break;
    case 3:
      parts->reserved = number;
      break;
    case 4:
      parts->schema ^= random->hostile();
      break;
    case 5:
      parts->has_base = !parts->has_base;
      break;
    default:
      parts->profile = random->one_in(4) ? number : parts->profile ^ 1;
  }
}

void change_field(TensorPart* t, Random* random) {
  const auto small = static_cast<uint8_t>(random->one_in(4) ? random->byte() : random->below(11));
  switch (random->below(9)) {
    case 0:
      t->ordinal = static_cast<uint32_t>(random->one_in(2) ? random->hostile() : random->below(4));
      break;
    case 1:
      t->support = static_cast<codec::SupportMode>(small);
      break;
    case 2:
      t->value = static_cast<codec::ValueMode>(small);
      t->scale_mode = codec::scale_mode_of(t->value);
      break;
    case 3:
      t->scale_mode = static_cast<codec::ScaleMode>(small);
      break;
    case 4:
      t->block_log2 = static_cast<uint8_t>(random->below(20));
      break;
    case 5:
      t->span = static_cast<uint32_t>(
          random->one_in(2) ? random->hostile() : codec::kSpanMultiple * random->below(70000));
      break;
    case 6:
      t->scale = static_cast<uint32_t>(random->hostile());
      break;
    case 7:
      t->count = random->one_in(2) ? random->hostile() : t->count + random->below(3) - 1;
      break;
    default:
      t->scale = std::bit_cast<uint32_t>(static_cast<float>(random->below(9)));
  }
}

// A number of chunks that is not the tensor's.
void change_chunks(TensorPart* t, Random* random) {
  if (t->chunks.empty() || random->one_in(3)) {
    t->chunks.emplace_back();
  } else if (random->one_in(2)) {
    t->chunks.pop_back();
  } else {
    t->chunks.push_back(t->chunks.back());
  }
}

void change_chunk(TensorPart* t, ChunkPart* c, Random* random) {
  switch (random->below(8)) {
    case 0:
      c->support_coder = static_cast<uint8_t>(random->below(random->one_in(4) ? 16 : 6));
      break;
    case 1:
      c->value_coder = static_cast<uint8_t>(random->below(random->one_in(4) ? 16 : 7));
      break;
    case 2:
      c->count = static_cast<uint32_t>(random->one_in(4) ? random->hostile()
                                                         : c->count + random->below(3) - 1) &
                 0x00FFFFFF;
      if (!random->one_in(4)) settle_count(t);
      break;
    case 3:
      std::swap(c->support, c->values);
      break;
    case 4:
    case 5:
      damage_bytes(&c->values, random);
      break;
    default:
      damage_bytes(&c->support, random);
  }
}

// Content of other modes and coders for a tensor of the message, and maybe damage of it.
void make_anew(const Case& c, Parts* parts, Random* random) {
  if (c.tensors.empty()) return;
  const size_t place = random->below(parts->tensors.size() + 1);
  uint32_t ordinal = static_cast<uint32_t>(random->below(c.tensors.size()));
  if (place < parts->tensors.size() && parts->tensors[place].ordinal < c.tensors.size())
    ordinal = parts->tensors[place].ordinal;
  if (c.tensors[ordinal].spec.numel > 4096 && !random->one_in(16)) return;
  TensorPart made = make_tensor(c, ordinal, random_plan(c.tensors[ordinal], random), random);
  if (place < parts->tensors.size()) {
    parts->tensors[place] = std::move(made);
  } else {
    parts->tensors.push_back(std::move(made));
  }
  settle_base(parts);
}

// Makes the ordinals those of a sound message.
void settle_ordinals(Parts* parts) {
  std::vector<TensorPart>& tensors = parts->tensors;
  const auto before = [](const TensorPart& a, const TensorPart& b) {
    return a.ordinal < b.ordinal;
  };
  const auto same = [](const TensorPart& a, const TensorPart& b) { return a.ordinal == b.ordinal; };
  std::stable_sort(tensors.begin(), tensors.end(), before);
  tensors.erase(std::unique(tensors.begin(), tensors.end(), same), tensors.end());
}

void change_parts(const Case& c, Parts* parts, Random* random) {
  TensorPart* const t = pick_tensor(parts, random);
  ChunkPart* const chunk = t == nullptr || t->chunks.empty()
                               ? pick_chunk(parts, random)
                               : &t->chunks[random->below(t->chunks.size())];
  const size_t what = random->below(16);
  if (what == 0) {
    change_header(parts, random);
  } else if (what == 1) {
    make_anew(c, parts, random);
  } else if (what == 2 && parts->tensors.size() < 2 * kMaxTensors && t != nullptr) {
    const TensorPart copy = *t;
    parts->tensors.push_back(copy);
  } else if (what == 3 && t != nullptr) {
    parts->tensors.erase(parts->tensors.begin() + (t - parts->tensors.data()));
  } else if (what == 4 && t != nullptr) {
    change_chunks(t, random);
  } else if (what < 7 && t != nullptr) {
    change_field(t, random);
    if (!random->one_in(4)) settle_base(parts);
  } else if (t != nullptr && !t->chunks.empty()) {
    change_chunk(t, chunk, random);
  }
}

// What the receiver holds is no part of a message, but the same message has other meanings with it.
void change_receiver(Case* c, Random* random) {
  if (c->tensors.empty()) return;
  Tensor& t = c->tensors[random->below(c->tensors.size())];
  switch (random->below(4)) {
    case 0:
      t.spec.dtype = static_cast<codec::Dtype>(1 + random->below(10));
      break;
    case 1:
      if (t.spec.numel != 0 && t.spec.numel < 4096) t.spec.row = 1 + random->below(t.spec.numel);
      if (t.spec.row != 0 && t.spec.numel % t.spec.row != 0) t.spec.row = 0;
      break;
    case 2:
      t = {t.spec, false, false, {}, {}};
      break;
    default:
      if (t.spec.numel < 4096)
        set_base(
            random_bits(static_cast<BitStyle>(random->below(kBitStyles)), t.spec.numel, 0, random),
            true, {}, &t);
  }
}

}  // namespace

void mutate(Case* c, Random* random) {
  if (random->one_in(64)) {
    *c = random_case(random);
    return;
  }
  if (random->one_in(64)) change_receiver(c, random);
  if (random->one_in(16)) {
    damage_bytes(&c->message, random);
    if (c->message.size() >= codec::kHeaderBytes && !random->one_in(4))
      codec::store(c->message.data() + codec::header::kTotalBytesAt,
                   static_cast<uint64_t>(c->message.size()));
    if (!random->one_in(4)) seal(&c->message);
    return;
  }
  Parts parts = take_apart(*c);
  for (size_t n = 1 + random->below(2); n != 0; --n) change_parts(*c, &parts, random);
  if (!random->one_in(16)) settle_ordinals(&parts);
  c->message = put_together(parts);
}

}  // namespace sparsefl::fuzz
