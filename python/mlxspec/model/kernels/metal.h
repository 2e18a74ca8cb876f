// What row_attention.h needs of Metal. SIMD groups of 32 multiply tiles of 8 x 8 in float32
// (Metal Shading Language, "SIMD-group Matrix Data Types"). Which two elements a lane holds is as in
// MLX's own kernels (steel/gemm/mma.h): row 4 * b4 + 2 * b2 + b1 of the lane's bits, columns 2t and
// 2t + 1 with t = 2 * b3 + b0. As on CUDA a product's inner index is permuted alike on both sides, so
// that a lane loads what lies side by side; nothing but the queries goes through threadgroup memory.

#include <metal_simdgroup>
#include <metal_simdgroup_matrix>
#include <metal_stdlib>
#include <metal_type_traits>

#define FUNC inline __attribute__((always_inline))
#define SHARED threadgroup
#define DEVICE device
#define THREADGROUP threadgroup
#define THREAD thread

namespace row_attention {

using namespace metal;

struct Lane {
  static constant constexpr int NEAR = 1, FAR = 8;  // to the lanes that hold the same rows
  int g, t;
  FUNC explicit Lane(int index)
      : g((index / 4 & 4) + index / 2 % 4), t((index / 4 & 2) + index % 2) {}
};

FUNC void barrier() { threadgroup_barrier(mem_flags::mem_threadgroup); }
FUNC float shuffle_xor(float value, int distance) {
  return simd_shuffle_xor(value, ushort(distance));
}
FUNC float larger(float a, float b) { return max(a, b); }
FUNC float power_of_two(float exponent) { return exp2(exponent); }
FUNC float float_of_bits(int bits) { return as_type<float>(bits); }

template <int DIM_, bool HALF>
struct Tiles {
  using T = conditional_t<HALF, half, bfloat>;
  using Element = T;
  using Square = simdgroup_matrix<float, 8, 8>;
  static constant constexpr int DIM = DIM_, WARPS = 4, HALVES = DIM > 128 ? 1 : 2;
  static constant constexpr int ROWS = 8 * HALVES, LINE = DIM + 8, NUM_TILES = DIM / 8;
  static constant constexpr int ROUND = DIM % 32 ? 16 : 32;
  static constant constexpr int RUN = DIM % 32 ? 2 : 4;  // dims that a lane loads of a key at once
  static_assert(DIM % 16 == 0 && DIM <= 256, "no tiles for this head size");
  using Run = vec<T, RUN>;

  // The dim of a lane's column in tile i of the output.
  FUNC static int dim(int i, Lane lane, int column) {
    return 16 * (i / 2) + 4 * lane.t + 2 * (i % 2) + column;
  }

  FUNC static void set(THREAD Square& square, float left, float right) {
    square.thread_elements()[0] = left;
    square.thread_elements()[1] = right;
  }

  FUNC static void store(DEVICE T* two, float left, float right) {
    two[0] = T(left);
    two[1] = T(right);
  }

  struct Queries {
    const THREADGROUP T* it;
    Lane lane;
    FUNC Queries(const THREADGROUP T* tile, Lane its) : it(tile), lane(its) {}
  };

  struct Keys {
    const DEVICE T* it;
    Lane lane;
    FUNC Keys(const DEVICE T* tile, Lane its) : it(tile), lane(its) {}

    FUNC void multiply(const THREAD Queries& q, THREAD float (&scores)[2][2 * HALVES]) const {
      Square sums[2][HALVES];
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int h = 0; h < HALVES; ++h) set(sums[n][h], 0.f, 0.f);
#pragma unroll
      for (int dim = 0; dim < DIM; dim += 8 * RUN) {
        Run left[2], right[2], query[HALVES][2];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const DEVICE T* key = it + (8 * n + 2 * lane.t) * DIM + dim + RUN * lane.g;
          left[n] = *(const DEVICE Run*)key;
          right[n] = *(const DEVICE Run*)(key + DIM);
        }
#pragma unroll
        for (int h = 0; h < HALVES; ++h) {
          const THREADGROUP T* row = q.it + (lane.g + 8 * h) * LINE + dim + RUN * 2 * lane.t;
          query[h][0] = *(const THREADGROUP Run*)row;
          query[h][1] = *(const THREADGROUP Run*)(row + RUN);
        }
#pragma unroll
        for (int step = 0; step < RUN; ++step) {
          Square a[HALVES], b;
#pragma unroll
          for (int h = 0; h < HALVES; ++h)
            set(a[h], float(query[h][0][step]), float(query[h][1][step]));
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            set(b, float(left[n][step]), float(right[n][step]));
#pragma unroll
            for (int h = 0; h < HALVES; ++h)
              simdgroup_multiply_accumulate(sums[n][h], a[h], b, sums[n][h]);
          }
        }
      }
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int c = 0; c < 2 * HALVES; ++c)
          scores[n][c] = sums[n][c / 2].thread_elements()[c % 2];
    }
  };

  struct Values {
    const DEVICE T* it;
    Lane lane;
    FUNC Values(const DEVICE T* tile, Lane its) : it(tile), lane(its) {}

    FUNC void add(const THREAD float (&scores)[2][2 * HALVES],
                  THREAD float (&out)[NUM_TILES][2 * HALVES]) const {
      Square weights[2][HALVES];
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int h = 0; h < HALVES; ++h)
          set(weights[n][h], scores[n][2 * h], scores[n][2 * h + 1]);
#pragma unroll
      for (int pair = 0; pair < NUM_TILES / 2; ++pair) {
        vec<T, 4> four[2];
#pragma unroll
        for (int n = 0; n < 2; ++n)
          four[n] = *(const DEVICE vec<T, 4>*)(it + (8 * n + lane.g) * DIM + 16 * pair + 4 * lane.t);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Square b[2];
#pragma unroll
          for (int n = 0; n < 2; ++n)
            set(b[n], float(four[n][2 * i]), float(four[n][2 * i + 1]));
#pragma unroll
          for (int h = 0; h < HALVES; ++h) {
            THREAD float(&mine)[2 * HALVES] = out[2 * pair + i];
            Square sum;
            set(sum, mine[2 * h], mine[2 * h + 1]);
#pragma unroll
            for (int n = 0; n < 2; ++n)
              simdgroup_multiply_accumulate(sum, weights[n][h], b[n], sum);
            mine[2 * h] = sum.thread_elements()[0];
            mine[2 * h + 1] = sum.thread_elements()[1];
          }
        }
      }
    }
  };
};

}  // namespace row_attention
