// What row_attention.h needs of CUDA. Tensor cores multiply tiles m16n8k16 (PTX ISA, "Matrix
// Fragments for mma.m16n8k16"): lane 4g + t holds rows g, g + 8 and columns 2t, 2t + 1, 2t + 8,
// 2t + 9. A product's inner index may be permuted alike on both sides; dims and positions are, so
// that every load is 16 bytes.

#define FUNC __device__ __forceinline__
#define SHARED __shared__
#define DEVICE
#define THREADGROUP
#define THREAD

namespace row_attention {

struct Lane {
  static constexpr int NEAR = 1, FAR = 2;  // to the lanes that hold the same rows
  int g, t;
  FUNC explicit Lane(int index) : g(index / 4), t(index % 4) {}
};

FUNC void barrier() { __syncthreads(); }
FUNC float shuffle_xor(float value, int distance) { return __shfl_xor_sync(~0u, value, distance); }
FUNC float larger(float a, float b) { return fmaxf(a, b); }
FUNC float power_of_two(float exponent) { return exp2f(exponent); }
FUNC float float_of_bits(int bits) { return __int_as_float(bits); }

template <int DIM_, bool HALF>
struct Tiles {
  using Element = unsigned short;
  static constexpr int DIM = DIM_, WARPS = 4, HALVES = 2, ROWS = 16, LINE = DIM + 8, ROUND = DIM;
  static constexpr int NUM_TILES = DIM / 8, STEPS = DIM / 32, PARTS = DIM / 64;

  // The dim of a lane's column in tile i of the output.
  FUNC static int dim(int i, Lane lane, int column) {
    return 64 * (i / 8) + 8 * (2 * lane.t + column) + i % 8;
  }

  FUNC static void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
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

  FUNC static unsigned pack(float low, float high) {
    unsigned both;
    if constexpr (HALF)
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    else
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
  }

  FUNC static void store(Element* two, float low, float high) { *(unsigned*)two = pack(low, high); }

  struct Queries {
    unsigned it[2 * STEPS][4];
    FUNC Queries(const Element* tile, Lane lane) {
#pragma unroll
      for (int step = 0; step < 2 * STEPS; ++step) {
        const int dim = 32 * (step / 2) + 8 * lane.t + 4 * (step % 2);
        const uint2 low = *(const uint2*)(tile + lane.g * LINE + dim);
        const uint2 high = *(const uint2*)(tile + (lane.g + 8) * LINE + dim);
        it[step][0] = low.x, it[step][1] = high.x, it[step][2] = low.y, it[step][3] = high.y;
      }
    }
  };

  struct Keys {
    uint4 it[2][STEPS];
    FUNC Keys(const Element* tile, Lane lane) {
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int j = 0; j < STEPS; ++j)
          it[n][j] = *(const uint4*)(tile + (n * 8 + lane.g) * DIM + 32 * j + 8 * lane.t);
    }
    FUNC void multiply(const Queries& q, float (&scores)[2][4]) const {
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int j = 0; j < STEPS; ++j) {
          multiply_add(scores[n], q.it[2 * j], it[n][j].x, it[n][j].y);
          multiply_add(scores[n], q.it[2 * j + 1], it[n][j].z, it[n][j].w);
        }
    }
  };

  struct Values {
    uint4 it[PARTS][4];
    FUNC Values(const Element* tile, Lane lane) {
#pragma unroll
      for (int h = 0; h < PARTS; ++h)
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const int position = 2 * lane.t + (r & 1) + (r >> 1) * 8;
          it[h][r] = *(const uint4*)(tile + position * DIM + 64 * h + 8 * lane.g);
        }
    }
    FUNC void add(const float (&scores)[2][4], float (&out)[NUM_TILES][4]) const {
      const unsigned weights[4] = {pack(scores[0][0], scores[0][1]), pack(scores[0][2], scores[0][3]),
                                   pack(scores[1][0], scores[1][1]), pack(scores[1][2], scores[1][3])};
#pragma unroll
      for (int h = 0; h < PARTS; ++h)
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          unsigned two[4];  // dims 2 * (i / 2) and the next of four positions' values
#pragma unroll
          for (int r = 0; r < 4; ++r) two[r] = ((const unsigned*)&it[h][r])[i / 2];
          const unsigned pick = i & 1 ? 0x7632 : 0x5410;
          multiply_add(out[h * 8 + i], weights, __byte_perm(two[0], two[1], pick),
                       __byte_perm(two[2], two[3], pick));
        }
    }
  };
};

}  // namespace row_attention
