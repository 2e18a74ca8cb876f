// Attention of a few new tokens per row over KV rows in place: each row is read as far as its own
// tokens reach, and each KV head once for all query heads and new tokens that share it.
//
//   part   grid (splits, kv_heads * query_tiles, rows): a block of four warps takes one split of one
//          row's positions for 16 queries; each warp keeps a running maximum, sum and output over
//          its tiles of 16 positions, and the block joins the four.
//   join   a warp per query: weighs what the splits of its row found.
//
// This is flash-decoding (Dao et al. 2023) with the online softmax of Milakov and Gimelshein 2018.
// Tensor cores multiply tiles m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"): lane 4g + t
// holds rows g, g + 8 and columns 2t, 2t + 1, 2t + 8, 2t + 9. A product's inner index may be
// permuted alike on both sides; dims and positions are, so that every load is 16 bytes.

struct Shape {
  int groups, width, kv_heads, rows, capacity, split, num_splits, window, slot;
  float scale;
  __device__ explicit Shape(const int* it)
      : groups(it[0]), width(it[1]), kv_heads(it[2]), rows(it[3]), capacity(it[4]), split(it[5]),
        num_splits(it[6]), window(it[7]), slot(it[8]), scale(__int_as_float(it[9])) {}
  __device__ int num_queries() const { return groups * width; }
};

// The positions that any new token of a row looks at: [first, last].
struct Span {
  int first, last;
  __device__ Span(const Shape& shape, const int* positions, int row) : first(1 << 30), last(0) {
    for (int i = 0; i < shape.width; ++i) {
      const int position = positions[row * shape.width + i];
      last = max(last, position);
      first = min(first, position);
    }
    first = shape.window ? max(0, first - shape.window + 1) : 0;
  }
};

template <bool HALF>
__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                         unsigned b1) {
  if constexpr (HALF)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <bool HALF>
__device__ __forceinline__ unsigned pack(float low, float high) {
  unsigned both;
  if constexpr (HALF)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

template <int DIM, bool HALF>
__device__ void row_attention_part(const void* queries, const void* keys, const void* values,
                                   const int* positions, const int* numbers, float* part,
                                   float* stats) {
  constexpr int WARPS = 4, TILE = 16, STEPS = DIM / 32, HALVES = DIM / 64, LINE = DIM + 8;
  using Bits = unsigned short;
  const Shape shape(numbers);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int num_queries = shape.num_queries(), num_tiles = (num_queries + TILE - 1) / TILE;
  const int head = blockIdx.y / num_tiles, query0 = (blockIdx.y % num_tiles) * TILE;
  const int row = blockIdx.z, heads = shape.kv_heads * shape.groups;
  const Span span(shape, positions, row);
  const int begin = blockIdx.x * shape.split, end = min(begin + shape.split, span.last + 1);
  if (begin > span.last || begin + shape.split <= span.first) return;

  __shared__ Bits query_tile[TILE * LINE];
  __shared__ float outputs[WARPS][TILE][DIM + 4];
  __shared__ float maxima[WARPS][TILE], sums[WARPS][TILE];
  for (int i = threadIdx.x; i < TILE * DIM / 8; i += WARPS * 32) {
    const int query = i / (DIM / 8), dim = i % (DIM / 8) * 8;
    uint4 eight = make_uint4(0, 0, 0, 0);
    if (query0 + query < num_queries) {
      const int token = row * shape.width + (query0 + query) / shape.groups;
      const int query_head = head * shape.groups + (query0 + query) % shape.groups;
      eight = *(const uint4*)((const Bits*)queries + ((size_t)token * heads + query_head) * DIM + dim);
    }
    *(uint4*)(query_tile + query * LINE + dim) = eight;
  }
  __syncthreads();
  unsigned q[2 * STEPS][4];
  for (int step = 0; step < 2 * STEPS; ++step) {
    const int dim = 32 * (step / 2) + 8 * t + 4 * (step % 2);
    const uint2 low = *(const uint2*)(query_tile + g * LINE + dim);
    const uint2 high = *(const uint2*)(query_tile + (g + 8) * LINE + dim);
    q[step][0] = low.x, q[step][1] = high.x, q[step][2] = low.y, q[step][3] = high.y;
  }

  int limit[2];  // the last position that queries g and g + 8 look at
  for (int half = 0; half < 2; ++half) {
    const int query = query0 + g + 8 * half;
    limit[half] = query < num_queries ? positions[row * shape.width + query / shape.groups] : -1;
  }
  const float to_log2 = shape.scale * 1.4426950408889634f;
  float out[HALVES * 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  const size_t base = ((size_t)(shape.slot + row) * shape.kv_heads + head) * shape.capacity;
  for (int position = begin + warp * TILE; position < end; position += WARPS * TILE) {
    const Bits* key_tile = (const Bits*)keys + (base + position) * DIM;
    const Bits* value_tile = (const Bits*)values + (base + position) * DIM;
    uint4 k[2][STEPS], v[HALVES][4];
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int j = 0; j < STEPS; ++j)
        k[n][j] = *(const uint4*)(key_tile + (n * 8 + g) * DIM + 32 * j + 8 * t);
#pragma unroll
    for (int h = 0; h < HALVES; ++h)
#pragma unroll
      for (int r = 0; r < 4; ++r)
        v[h][r] = *(const uint4*)(value_tile + (2 * t + (r & 1) + (r >> 1) * 8) * DIM + 64 * h + 8 * g);

    float scores[2][4] = {};
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int j = 0; j < STEPS; ++j) {
        multiply<HALF>(scores[n], q[2 * j], k[n][j].x, k[n][j].y);
        multiply<HALF>(scores[n], q[2 * j + 1], k[n][j].z, k[n][j].w);
      }

    float high[2] = {top[0], top[1]}, shrink[2];
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int at = position + n * 8 + 2 * t + (c & 1), half = c >> 1;
        const bool seen = at <= limit[half] && (!shape.window || at > limit[half] - shape.window);
        scores[n][c] = seen ? scores[n][c] * to_log2 : -INFINITY;
        high[half] = fmaxf(high[half], scores[n][c]);
      }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      high[half] = fmaxf(high[half], __shfl_xor_sync(~0u, high[half], 1));
      high[half] = fmaxf(high[half], __shfl_xor_sync(~0u, high[half], 2));
      shrink[half] = high[half] == -INFINITY ? 1.f : exp2f(top[half] - high[half]);
      top[half] = high[half];
      sum[half] *= shrink[half];
    }
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        scores[n][c] = scores[n][c] == -INFINITY ? 0.f : exp2f(scores[n][c] - top[c >> 1]);
        sum[c >> 1] += scores[n][c];
      }

    const unsigned weights[4] = {
        pack<HALF>(scores[0][0], scores[0][1]), pack<HALF>(scores[0][2], scores[0][3]),
        pack<HALF>(scores[1][0], scores[1][1]), pack<HALF>(scores[1][2], scores[1][3])};
#pragma unroll
    for (int h = 0; h < HALVES; ++h)
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float(&o)[4] = out[h * 8 + i];
        for (int c = 0; c < 4; ++c) o[c] *= shrink[c >> 1];
        unsigned two[4];  // dims 2 * (i / 2) and the next of four positions' values
        for (int r = 0; r < 4; ++r) two[r] = ((const unsigned*)&v[h][r])[i / 2];
        const unsigned pick = i & 1 ? 0x7632 : 0x5410;
        multiply<HALF>(o, weights, __byte_perm(two[0], two[1], pick),
                       __byte_perm(two[2], two[3], pick));
      }
  }

  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(~0u, sum[half], 1);
    sum[half] += __shfl_xor_sync(~0u, sum[half], 2);
    if (t == 0) maxima[warp][g + 8 * half] = top[half], sums[warp][g + 8 * half] = sum[half];
  }
  for (int i = 0; i < HALVES * 8; ++i)
    for (int c = 0; c < 4; ++c)
      outputs[warp][g + 8 * (c >> 1)][64 * (i / 8) + 8 * (2 * t + (c & 1)) + i % 8] = out[i][c];
  __syncthreads();
  const size_t cell = ((size_t)row * shape.kv_heads + head) * shape.num_splits + blockIdx.x;
  for (int i = threadIdx.x; i < TILE * DIM; i += WARPS * 32) {
    const int query = i / DIM, dim = i % DIM;
    if (query0 + query >= num_queries) break;
    float best = -INFINITY, total = 0.f, value = 0.f;
    for (int w = 0; w < WARPS; ++w) best = fmaxf(best, maxima[w][query]);
    for (int w = 0; w < WARPS; ++w) {
      const float share = maxima[w][query] == -INFINITY ? 0.f : exp2f(maxima[w][query] - best);
      total += share * sums[w][query];
      value += share * outputs[w][query][dim];
    }
    const size_t at = cell * num_queries + query0 + query;
    part[at * DIM + dim] = value;
    if (dim == 0) stats[at * 2] = best, stats[at * 2 + 1] = total;
  }
}

template <int DIM, bool HALF>
__device__ void row_attention_join(const float* part, const float* stats, const int* positions,
                                   const int* numbers, void* out) {
  constexpr int MINE = DIM / 32;
  const Shape shape(numbers);
  const int lane = threadIdx.x % 32, heads = shape.kv_heads * shape.groups;
  const int index = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (index >= shape.rows * shape.width * heads) return;
  const int query_head = index % heads, token = index / heads;
  const int row = token / shape.width, head = query_head / shape.groups;
  const int query = token % shape.width * shape.groups + query_head % shape.groups;
  const Span span(shape, positions, row);
  const size_t first = ((size_t)row * shape.kv_heads + head) * shape.num_splits;
  float best = -INFINITY, total = 0.f, value[MINE] = {};
  for (int s = span.first / shape.split; s <= span.last / shape.split; ++s)
    best = fmaxf(best, stats[((first + s) * shape.num_queries() + query) * 2]);
  for (int s = span.first / shape.split; s <= span.last / shape.split; ++s) {
    const size_t at = (first + s) * shape.num_queries() + query;
    const float share = stats[at * 2] == -INFINITY ? 0.f : exp2f(stats[at * 2] - best);
    total += share * stats[at * 2 + 1];
    for (int i = 0; i < MINE; ++i) value[i] += share * part[at * DIM + lane * MINE + i];
  }
  unsigned* mine = (unsigned*)((unsigned short*)out + (size_t)index * DIM + lane * MINE);
  for (int i = 0; i < MINE / 2; ++i)
    mine[i] = pack<HALF>(value[2 * i] / total, value[2 * i + 1] / total);
}
