// Attention of a few new tokens per row over KV rows in place: each row is read as far as its own
// tokens reach, and each KV head once for all query heads and new tokens that share it.
//
//   part   grid (splits, kv_heads * query_tiles, rows): four warps take one split of one row's
//          positions for a tile of queries; each warp keeps a running maximum, sum and output over
//          its tiles of 16 positions, and the four are joined.
//   join   a warp per query: weighs what the splits of its row found.
//
// This is flash-decoding (Dao et al. 2023) with the online softmax of Milakov and Gimelshein 2018.
//
// Written once for CUDA and Metal, in Metal's words; cuda.h or metal.h stands before it and says what
// differs: the words, a lane's place in a tile, what crosses lanes, and how 32 lanes multiply tiles:
//
//   lane (g, t)    holds queries g and g + 8 (g alone where HALVES is 1), and of every 8 columns two:
//                  2t and 2t + 1. Columns are positions of scores, and of outputs the dims that
//                  Tiles::dim says.
//   Tiles          sizes, and operands: Queries, Keys and Values of 16 positions.

namespace row_attention {

struct Shape {
  int groups, width, kv_heads, rows, capacity, split, num_splits, window, slot;
  float scale;
  FUNC explicit Shape(const DEVICE int* it)
      : groups(it[0]), width(it[1]), kv_heads(it[2]), rows(it[3]), capacity(it[4]), split(it[5]),
        num_splits(it[6]), window(it[7]), slot(it[8]), scale(float_of_bits(it[9])) {}
  FUNC int num_queries() const { return groups * width; }
};

// The positions that any new token of a row looks at: [first, last].
struct Span {
  int first, last;
  template <typename Positions>
  FUNC Span(const THREAD Shape& shape, Positions positions, int row) : first(1 << 30), last(0) {
    for (int i = 0; i < shape.width; ++i) {
      const int position = positions[row * shape.width + i];
      last = max(last, position);
      first = min(first, position);
    }
    first = shape.window ? max(0, first - shape.window + 1) : 0;
  }
};

// Where a thread works: its block in the grid, and itself in its block.
struct Place {
  unsigned x, y, z, thread_index;
};

// What the warps of a block share.
template <typename Tiles>
struct alignas(16) Scratch {
  typename Tiles::Element queries[Tiles::ROWS * Tiles::LINE];
  float outputs[Tiles::WARPS][Tiles::ROWS][Tiles::ROUND + 4];
  float maxima[Tiles::WARPS][Tiles::ROWS], sums[Tiles::WARPS][Tiles::ROWS];
};

template <typename Tiles, typename Positions>
FUNC void part(THREADGROUP Scratch<Tiles>& scratch, Place at,
               const DEVICE typename Tiles::Element* queries,
               const DEVICE typename Tiles::Element* keys,
               const DEVICE typename Tiles::Element* values, Positions positions,
               const DEVICE int* numbers, DEVICE float* part, DEVICE float* stats) {
  constexpr int WARPS = Tiles::WARPS, ROWS = Tiles::ROWS, HALVES = Tiles::HALVES, TILE = 16;
  constexpr int DIM = Tiles::DIM, LINE = Tiles::LINE, ROUND = Tiles::ROUND;
  constexpr int NUM_TILES = Tiles::NUM_TILES, TILES_OF_ROUND = NUM_TILES * ROUND / DIM;
  const Shape shape(numbers);
  const Lane lane(at.thread_index % 32);
  const int warp = at.thread_index / 32;
  const int num_queries = shape.num_queries(), num_tiles = (num_queries + ROWS - 1) / ROWS;
  const int head = at.y / num_tiles, query0 = (at.y % num_tiles) * ROWS;
  const int row = at.z, heads = shape.kv_heads * shape.groups;
  const Span span(shape, positions, row);
  const int begin = at.x * shape.split, end = min(begin + shape.split, span.last + 1);
  if (begin > span.last || begin + shape.split <= span.first) return;

  for (int i = at.thread_index; i < ROWS * DIM / 8; i += WARPS * 32) {
    const int query = i / (DIM / 8), dim = i % (DIM / 8) * 8;
    uint4 eight{0, 0, 0, 0};
    if (query0 + query < num_queries) {
      const int token = row * shape.width + (query0 + query) / shape.groups;
      const int query_head = head * shape.groups + (query0 + query) % shape.groups;
      eight = *(const DEVICE uint4*)(queries + ((size_t)token * heads + query_head) * DIM + dim);
    }
    *(THREADGROUP uint4*)(scratch.queries + query * LINE + dim) = eight;
  }
  barrier();
  const typename Tiles::Queries q(scratch.queries, lane);

  int limit[HALVES];  // the last position that queries g and g + 8 look at
  float top[HALVES], sum[HALVES];
#pragma unroll
  for (int h = 0; h < HALVES; ++h) {
    const int query = query0 + lane.g + 8 * h;
    limit[h] =
        query < num_queries ? positions[row * shape.width + query / shape.groups] : -1;
    top[h] = -INFINITY;
    sum[h] = 0.f;
  }
  const float to_log2 = shape.scale * 1.4426950408889634f;
  float out[NUM_TILES][2 * HALVES] = {};
  const size_t base = ((size_t)(shape.slot + row) * shape.kv_heads + head) * shape.capacity;
  for (int position = begin + warp * TILE; position < end; position += WARPS * TILE) {
    const typename Tiles::Keys k(keys + (base + position) * DIM, lane);
    const typename Tiles::Values v(values + (base + position) * DIM, lane);

    float scores[2][2 * HALVES] = {};
    k.multiply(q, scores);

    float high[HALVES], shrink[HALVES];
#pragma unroll
    for (int h = 0; h < HALVES; ++h) high[h] = top[h];
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int c = 0; c < 2 * HALVES; ++c) {
        const int column = position + n * 8 + 2 * lane.t + (c & 1), h = c >> 1;
        const bool seen = column <= limit[h] && (!shape.window || column > limit[h] - shape.window);
        scores[n][c] = seen ? scores[n][c] * to_log2 : -INFINITY;
        high[h] = larger(high[h], scores[n][c]);
      }
#pragma unroll
    for (int h = 0; h < HALVES; ++h) {
      high[h] = larger(high[h], shuffle_xor(high[h], Lane::NEAR));
      high[h] = larger(high[h], shuffle_xor(high[h], Lane::FAR));
      shrink[h] = high[h] == -INFINITY ? 1.f : power_of_two(top[h] - high[h]);
      top[h] = high[h];
      sum[h] *= shrink[h];
    }
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int c = 0; c < 2 * HALVES; ++c) {
        scores[n][c] =
            scores[n][c] == -INFINITY ? 0.f : power_of_two(scores[n][c] - top[c >> 1]);
        sum[c >> 1] += scores[n][c];
      }
#pragma unroll
    for (int i = 0; i < NUM_TILES; ++i)
#pragma unroll
      for (int c = 0; c < 2 * HALVES; ++c) out[i][c] *= shrink[c >> 1];
    v.add(scores, out);
  }

#pragma unroll
  for (int h = 0; h < HALVES; ++h) {
    sum[h] += shuffle_xor(sum[h], Lane::NEAR);
    sum[h] += shuffle_xor(sum[h], Lane::FAR);
    if (lane.t == 0) {
      scratch.maxima[warp][lane.g + 8 * h] = top[h];
      scratch.sums[warp][lane.g + 8 * h] = sum[h];
    }
  }
  const size_t cell = ((size_t)row * shape.kv_heads + head) * shape.num_splits + at.x;
#pragma unroll
  for (int round = 0; round < DIM / ROUND; ++round) {
    const int first = round * ROUND;
    if (round) barrier();
#pragma unroll
    for (int i = round * TILES_OF_ROUND; i < (round + 1) * TILES_OF_ROUND; ++i)
#pragma unroll
      for (int c = 0; c < 2 * HALVES; ++c)
        scratch.outputs[warp][lane.g + 8 * (c >> 1)][Tiles::dim(i, lane, c & 1) - first] = out[i][c];
    barrier();
    for (int i = at.thread_index; i < ROWS * ROUND; i += WARPS * 32) {
      const int query = i / ROUND, dim = i % ROUND;
      if (query0 + query >= num_queries) break;
      float best = -INFINITY, total = 0.f, value = 0.f;
      for (int w = 0; w < WARPS; ++w) best = larger(best, scratch.maxima[w][query]);
      for (int w = 0; w < WARPS; ++w) {
        const float its = scratch.maxima[w][query];
        const float share = its == -INFINITY ? 0.f : power_of_two(its - best);
        total += share * scratch.sums[w][query];
        value += share * scratch.outputs[w][query][dim];
      }
      const size_t place = cell * num_queries + query0 + query;
      part[place * DIM + first + dim] = value;
      if (first + dim == 0) stats[place * 2] = best, stats[place * 2 + 1] = total;
    }
  }
}

template <typename Tiles, typename Stats, typename Positions>
FUNC void join(Place at, const DEVICE float* part, Stats stats, Positions positions,
               const DEVICE int* numbers, DEVICE typename Tiles::Element* out) {
  constexpr int DIM = Tiles::DIM, PAIRS = (DIM / 2 + 31) / 32, MINE = 2 * PAIRS;
  const Shape shape(numbers);
  const int heads = shape.kv_heads * shape.groups;
  const int index = at.x * Tiles::WARPS + at.thread_index / 32;
  const int mine = at.thread_index % 32 * MINE;
  if (index >= shape.rows * shape.width * heads || mine >= DIM) return;
  const int query_head = index % heads, token = index / heads;
  const int row = token / shape.width, head = query_head / shape.groups;
  const int query = token % shape.width * shape.groups + query_head % shape.groups;
  const Span span(shape, positions, row);
  const size_t first = ((size_t)row * shape.kv_heads + head) * shape.num_splits;
  float best = -INFINITY, total = 0.f, value[MINE] = {};
  for (int s = span.first / shape.split; s <= span.last / shape.split; ++s)
    best = larger(best, stats[((first + s) * shape.num_queries() + query) * 2]);
  for (int s = span.first / shape.split; s <= span.last / shape.split; ++s) {
    const size_t place = (first + s) * shape.num_queries() + query;
    const float share = stats[place * 2] == -INFINITY ? 0.f : power_of_two(stats[place * 2] - best);
    total += share * stats[place * 2 + 1];
#pragma unroll
    for (int i = 0; i < MINE; ++i) value[i] += share * part[place * DIM + mine + i];
  }
#pragma unroll
  for (int i = 0; i < PAIRS; ++i)
    Tiles::store(out + (size_t)index * DIM + mine + 2 * i, value[2 * i] / total,
                 value[2 * i + 1] / total);
}

}  // namespace row_attention
