// Metal's address spaces for clang, which then refuses what Metal does: a pointer to one that becomes
// a pointer to another. For the types alone; nothing here computes, and 16-bit floats are integers.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#define thread

typedef unsigned uint;
typedef unsigned short ushort;
typedef unsigned uint4 __attribute__((ext_vector_type(4)));
typedef short half;
typedef unsigned short bfloat;
typedef half float16_t;
typedef bfloat bfloat16_t;

struct uint3 {
  unsigned x, y, z;
};

namespace metal {

template <typename T, int N>
using vec = T __attribute__((ext_vector_type(N)));

template <bool B, typename T, typename F>
struct conditional {
  typedef T type;
};
template <typename T, typename F>
struct conditional<false, T, F> {
  typedef F type;
};
template <bool B, typename T, typename F>
using conditional_t = typename conditional<B, T, F>::type;

int max(int, int);
int min(int, int);
float max(float, float);
float exp2(float);
template <typename To, typename From>
To as_type(From);

enum class mem_flags { mem_threadgroup };
void threadgroup_barrier(mem_flags);
float simd_shuffle_xor(float, ushort);

template <typename T, int ROWS, int COLUMNS>
struct simdgroup_matrix {
  vec<T, 2> mine;
  vec<T, 2>& thread_elements() { return mine; }
};
template <typename T>
void simdgroup_multiply_accumulate(simdgroup_matrix<T, 8, 8>&, simdgroup_matrix<T, 8, 8>,
                                   simdgroup_matrix<T, 8, 8>, simdgroup_matrix<T, 8, 8>);

}  // namespace metal
