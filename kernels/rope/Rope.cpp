#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021). Of a head's first `rotated`
// elements, element j of one half is paired with element j of the other (Llama), or element 2j with 2j + 1 when
// interleaved; a pair (a, b) becomes (a · cos − b · sin, b · cos + a · sin), and the elements after `rotated` stay as
// they are. The inverse turns the other way: it is the gradient.
//
// Column j of cos and sin belongs to pair j; columns from rotated / 2 on are not read, so the tables may hold each
// number twice. Their row for token i of sequence b is positions[b, i]; without positions it is b · t + i, or i where
// the tables have t rows for all sequences. One past the tables gives zeros. With a first section, the tables have
// three sections (time, height and width: Wang et al., "Qwen2-VL", 2024): the first of them is for the pairs below
// first_section, the second for the next second_section pairs, the third for the rest.
//
// The queries and the keys of a token are one program's.
template <class T, class Table> struct Rope {
  static constexpr auto name = "rope";
  static constexpr auto summary = "out_q and out_k are q and k with rotary position embedding, from tables of cosines";
  static constexpr auto tests =
      "batch=1 t=1 heads=1 kv_heads=1 d=2 sections=1 places=1 width=1; batch=2 t=17 heads=4 kv_heads=2 d=64 sections=1 "
      "places=17 width=64; batch=2 t=3 heads=3 kv_heads=1 d=48 sections=1 places=6 width=24 inverse=1; batch=3 t=5 "
      "heads=8 kv_heads=8 d=40 sections=1 places=99 width=10 rotated=20 positioned=1; batch=2 t=9 heads=6 kv_heads=3 "
      "d=64 sections=1 places=9 width=32 interleaved=1; batch=2 t=7 heads=2 kv_heads=2 d=34 sections=1 places=50 "
      "width=8 rotated=16 interleaved=1 inverse=1 positioned=1; batch=2 t=9 heads=4 kv_heads=2 d=64 sections=3 "
      "places=18 width=64 first_section=8 second_section=12; batch=2 t=3 heads=32 kv_heads=8 d=128 sections=3 "
      "places=77 width=64 first_section=16 second_section=24 positioned=1";
  static constexpr auto benchmarks = "batch=4 t=4096 heads=32 kv_heads=8 d=128 sections=1 places=4096 width=128";
  static constexpr auto inputs = "positions=0..places-1";
  static constexpr auto conditions = "rotated <= d; rotated % 2 == 0; rotated <= 2 * width; "
                                     "sections == 1 + 2 * (first_section > 0)";

  View<const T, 4> q{"batch, t, heads, d"}, k{"batch, t, kv_heads, d"};
  View<const Table, 3> cos{"sections, places, width"}, sin{"sections, places, width"};
  View<const i64, 3> positions{"sections * positioned, batch, t"};
  View<T, 4> out_q{"batch, t, heads, d"}, out_k{"batch, t, kv_heads, d"};
  Meta<int> rotated = "d";
  Meta<bool> interleaved = false, inverse = false;
  Meta<int> first_section = 0, second_section = 0;
  Meta<bool> positioned = "positions.given";
  Meta<int> block_t = "max(1, min(2048 / (next_pow2(heads + kv_heads) * next_pow2(d)), next_pow2(t)))";
  Meta<int> block_heads = "next_pow2(heads)", block_kv_heads = "next_pow2(kv_heads)";
  Meta<int> tail = "d - rotated";
  BITLOOM_PARAMS(q, k, cos, sin, positions, out_q, out_k, rotated, interleaved, inverse, first_section, second_section,
                 positioned, block_t, block_heads, block_kv_heads, tail)

  Grid grid() const { return {ceil_div(q.extent(1), block_t), q.extent(0)}; }

  void operator()() const {
    auto batch = program_id(1);
    auto tokens = block_at(program_id(0), block_t);
    const int half = rotated / 2;
    auto pairs = span(0, half);
    auto fromSection = [&](const View<const Table, 3> &table, int section) {
      if (!positioned) {
        auto shared = cos.extent(1) == q.extent(1);
        return cast<f32>(
            table(section, span(where(shared, tokens.start, batch * q.extent(1) + tokens.start), block_t), pairs));
      }
      if (block_t == 1)
        return expand(cast<f32>(table(section, positions(section, batch, tokens.start), pairs)), 0);
      auto places = expand(positions(section, batch, tokens), 1);
      return cast<f32>(table.gather(section, places, expand(pairs.indices(), 0)));
    };
    auto column = [&](const View<const Table, 3> &table) {
      auto value = fromSection(table, 0);
      if (first_section > 0) {
        auto pair = expand(pairs.indices(), 0);
        auto within = [&](int end) { return broadcast(pair < end, {block_t, half}); };
        value = where(within(first_section), value,
                      where(within(first_section + second_section), fromSection(table, 1), fromSection(table, 2)));
      }
      return expand(value, 1); // for every head
    };
    auto c = column(cos), s = column(sin);
    if (inverse)
      s = -s;

    const Span first = span(0, half), second = span(half, half), all = span(0, rotated);
    // The halves of each pair.
    auto pairsOf = [&](const View<const T, 4> &from, int extent) {
      auto heads = span(0, extent);
      if (interleaved) {
        auto [a, b] = split(reshape<4>(from(batch, tokens, heads, all), {block_t, extent, half, 2}));
        return std::pair(a, b);
      }
      Tile<T, 3> a = from(batch, tokens, heads, first), b = from(batch, tokens, heads, second);
      return std::pair(a, b);
    };
    auto rotate = [&](const std::pair<Tile<T, 3>, Tile<T, 3>> &pairs, const View<const T, 4> &from,
                      const View<T, 4> &to, int extent) {
      auto heads = span(0, extent);
      auto a = cast<f32>(pairs.first), b = cast<f32>(pairs.second);
      if (interleaved) {
        to(batch, tokens, heads, all) =
            cast<T>(reshape<3>(join(a * c - b * s, b * c + a * s), {block_t, extent, rotated}));
      } else {
        to(batch, tokens, heads, first) = cast<T>(a * c - b * s);
        to(batch, tokens, heads, second) = cast<T>(b * c + a * s);
      }
      if (tail > 0) {
        auto rest = span(rotated, tail);
        auto unchanged = from(batch, tokens, heads, rest);
        to(batch, tokens, heads, rest) = unchanged;
      }
    };
    auto ofQueries = pairsOf(q, block_heads), ofKeys = pairsOf(k, block_kv_heads); // both on their way, then stores
    rotate(ofQueries, q, out_q, block_heads);
    rotate(ofKeys, k, out_k, block_kv_heads);
  }
};

BITLOOM_REGISTER(Rope<f32, f32>, Rope<f16, f16>, Rope<bf16, bf16>, Rope<f16, f32>, Rope<bf16, f32>)

} // namespace bitloom::kernels
