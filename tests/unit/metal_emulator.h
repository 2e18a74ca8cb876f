// As much of the Metal Shading Language as our kernels use, on one thread of a CPU.
//
// Each thread of a threadgroup is a fiber. What crosses threads is a meeting: a fiber leaves what it
// brings, and goes on when all have come. Fibers that meet at different places, or wait for one that
// has ended, end the run, which says so. Threadgroup memory is full of NaN before it is written.

#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>
#include <vector>

#define device
#define constant
#define thread
#define threadgroup

namespace metal {

template <typename To, typename From>
To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <typename T, int N>
struct alignas(N * sizeof(T)) vec {
  T it[N];
  T& operator[](int i) { return it[i]; }
  const T& operator[](int i) const { return it[i]; }
};

template <bool B, typename T, typename F>
using conditional_t = typename std::conditional<B, T, F>::type;

inline int max(int a, int b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline float max(float a, float b) { return std::fmax(a, b); }
inline float exp2(float x) { return std::exp2(x); }

}  // namespace metal

struct bfloat {
  uint16_t bits;
  bfloat() = default;
  explicit bfloat(float from) {
    const uint32_t wide = metal::as_type<uint32_t>(from);
    bits = (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
  }
  operator float() const { return metal::as_type<float>(uint32_t(bits) << 16); }
};

struct half {  // of normal numbers and zero: a float of 5 bits of exponent and 10 of fraction
  uint16_t bits;
  half() = default;
  explicit half(float from) {
    const uint32_t wide = metal::as_type<uint32_t>(std::fabs(from));
    const uint32_t rounded = wide + 0xfff + (wide >> 13 & 1);
    bits = std::fabs(from) < 0x1p-14f ? 0 : (rounded - (112u << 23)) >> 13;
    bits |= std::signbit(from) << 15;
  }
  operator float() const {
    const uint32_t wide = bits & 0x7fff ? ((bits & 0x7fffu) << 13) + (112u << 23) : 0;
    return std::copysign(metal::as_type<float>(wide), bits >> 15 ? -1.f : 1.f);
  }
};

using bfloat16_t = bfloat;
using float16_t = half;
using uint4 = metal::vec<unsigned, 4>;

struct uint3 {
  unsigned x, y, z;
};

namespace emulator {

constexpr int MAX_THREADS = 1024, LANES = 32, MAX_WORDS = 4, STACK = 64 << 10;
constexpr size_t THREADGROUP_BYTES = 32 << 10;

// Where fibers of one group wait for each other; what the last meeting brought is kept beside this.
struct Meeting {
  int size = 0, arrived = 0, generation = 0, place = 0;
  float brought[2][LANES][MAX_WORDS];
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(STACK);
  bool is_done;
};

inline std::vector<Fiber> fibers(MAX_THREADS);
inline ucontext_t home;
inline int current;
inline long progress;
inline uint3 position;
inline Meeting everyone, simdgroups[MAX_THREADS / LANES];
alignas(64) inline char memory[THREADGROUP_BYTES];
inline void (*body)();
inline const char* failure;

template <size_t SIZE>
uint4* threadgroup_memory() {
  static_assert(SIZE * sizeof(uint4) <= THREADGROUP_BYTES, "more threadgroup memory than Metal has");
  return reinterpret_cast<uint4*>(memory);
}

inline void wait(Meeting& meeting, int place) {
  if (meeting.arrived++ && meeting.place != place) {
    failure = "threads meet at different places";
    setcontext(&home);
  }
  meeting.place = place;
  ++progress;
  const int generation = meeting.generation;
  if (meeting.arrived == meeting.size) {
    meeting.arrived = 0;
    ++meeting.generation;
  }
  while (meeting.generation == generation) swapcontext(&fibers[current].context, &home);
}

// What each lane of a thread's SIMD group brings.
inline const float (*exchange(int place, std::initializer_list<float> mine))[MAX_WORDS] {
  Meeting& group = simdgroups[current / LANES];
  float(*brought)[MAX_WORDS] = group.brought[group.generation % 2];
  std::copy(mine.begin(), mine.end(), brought[current % LANES]);
  wait(group, place);
  return brought;
}

inline void enter() {
  body();
  fibers[current].is_done = true;
  ++progress;
}

inline void run_threadgroup(int num_threads) {
  std::memset(memory, 0xff, sizeof memory);
  everyone.size = num_threads;
  everyone.arrived = 0;
  for (int i = 0; i < num_threads; ++i) {
    Fiber& fiber = fibers[i];
    simdgroups[i / LANES].size = LANES;
    simdgroups[i / LANES].arrived = 0;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = &home;
    fiber.is_done = false;
    makecontext(&fiber.context, enter, 0);
  }
  for (int num_left = num_threads; num_left;) {
    const long before = progress;
    num_left = 0;
    for (current = 0; current < num_threads; ++current)
      if (!fibers[current].is_done) {
        swapcontext(&home, &fibers[current].context);
        if (failure) return;
        num_left += !fibers[current].is_done;
      }
    if (num_left && progress == before) {
      failure = "threads wait for one that has ended";
      return;
    }
  }
}

// As dispatch_threads does: the last threadgroup of a side has what is left of the grid. Says what
// went wrong, if anything did.
inline const char* run(uint3 grid, uint3 group) {
  if (group.x > MAX_THREADS || group.y > 1 || group.z > 1) return "threadgroup too large";
  if (grid.x % LANES || group.x % LANES) return "a simdgroup would not be full";
  failure = nullptr;
  for (position.z = 0; position.z < grid.z; ++position.z)
    for (position.y = 0; position.y < grid.y; ++position.y)
      for (position.x = 0; position.x * group.x < grid.x && !failure; ++position.x)
        run_threadgroup(metal::min(group.x, grid.x - position.x * group.x));
  return failure;
}

// A buffer that becomes whatever pointer the kernel takes.
struct Buffer {
  void* it;
  template <typename T>
  operator T*() const {
    return static_cast<T*>(it);
  }
};

inline uint3 threadgroup_position_in_grid() { return position; }
inline unsigned simdgroup_index_in_threadgroup() { return current / LANES; }
inline unsigned thread_index_in_simdgroup() { return current % LANES; }

}  // namespace emulator

namespace metal {

enum class mem_flags { mem_threadgroup };

inline void threadgroup_barrier(mem_flags) { emulator::wait(emulator::everyone, 1); }

inline float simd_shuffle_xor(float value, uint16_t distance) {
  const float(*brought)[emulator::MAX_WORDS] = emulator::exchange(2, {value});
  return brought[emulator::current % emulator::LANES ^ distance][0];
}

// 8 x 8 numbers, two of a lane. Which two is as MLX's kernels have it (steel/gemm/mma.h, get_coord).
template <typename T, int ROWS, int COLUMNS>
struct simdgroup_matrix {
  static_assert(ROWS == 8 && COLUMNS == 8);
  vec<T, 2> mine;
  vec<T, 2>& thread_elements() { return mine; }
};

inline int row_of(int lane) { return (lane / 4 & 4) + lane / 2 % 4; }
inline int column_of(int lane) { return (lane / 4 & 2) * 2 + lane % 2 * 2; }

template <typename T>
void simdgroup_multiply_accumulate(simdgroup_matrix<T, 8, 8>& d, simdgroup_matrix<T, 8, 8> a,
                                   simdgroup_matrix<T, 8, 8> b, simdgroup_matrix<T, 8, 8> c) {
  const float(*brought)[emulator::MAX_WORDS] =
      emulator::exchange(3, {a.mine[0], a.mine[1], b.mine[0], b.mine[1]});
  float left[8][8], right[8][8];
  for (int lane = 0; lane < emulator::LANES; ++lane)
    for (int i = 0; i < 2; ++i) {
      left[row_of(lane)][column_of(lane) + i] = brought[lane][i];
      right[row_of(lane)][column_of(lane) + i] = brought[lane][2 + i];
    }
  const int lane = emulator::current % emulator::LANES;
  for (int i = 0; i < 2; ++i) {
    d.mine[i] = c.mine[i];
    for (int k = 0; k < 8; ++k) d.mine[i] += left[row_of(lane)][k] * right[k][column_of(lane) + i];
  }
}

}  // namespace metal

using namespace metal;
