// What generated kernels stand on: conversions, arithmetic as torch defines it, mathematics that a compiler can
// vectorise (branch-free, polynomials of our own fit), and threads. Included at the top of every generated source.
#include <cmath>
#include <cstdint>

typedef int64_t i64;
struct bf16 { uint16_t bits; };
typedef _Float16 f16;
#define FN static inline __attribute__((always_inline))
#define INF __builtin_inff()
#define NOT_A_NUMBER __builtin_nanf("")

FN float as_float(int32_t i) { float f; __builtin_memcpy(&f, &i, 4); return f; }
FN int32_t as_int(float f) { int32_t i; __builtin_memcpy(&i, &f, 4); return i; }

// bfloat16 is the upper half of a float; to the nearest even.
FN float from(bf16 x) { return as_float((int32_t)((uint32_t)x.bits << 16)); }
FN float from(f16 x) { return (float)x; }
FN bf16 to_bf16(float x) {
  const uint32_t b = (uint32_t)as_int(x);
  const uint32_t r = (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
  return bf16{(uint16_t)(x != x ? 0x7fc0u : r)};
}
FN float round_bf16(float x) { return from(to_bf16(x)); }
FN float round_f16(float x) { return (float)(f16)x; }

// Integer division and remainder as Python and torch have them; division by 0 gives 0 and stops nothing.
FN i64 floor_div(i64 a, i64 b) { if (b == 0) return 0; const i64 q = a / b; return q - ((a % b != 0) & ((a < 0) != (b < 0))); }
FN i64 floor_mod(i64 a, i64 b) { if (b == 0) return 0; const i64 r = a % b; return r + (((r != 0) & ((r < 0) != (b < 0))) ? b : 0); }
FN i64 trunc_div(i64 a, i64 b) { return b == 0 ? 0 : a / b; }
FN float floor_div(float a, float b) {
  if (b == 0) return a / b;
  float m = std::fmod(a, b), d = (a - m) / b;
  if (m != 0 && (b < 0) != (m < 0)) d -= 1;
  float f = d != 0 ? std::floor(d) : std::copysign(0.f, a / b);
  return d - f > 0.5f ? f + 1 : f;
}
FN double floor_div(double a, double b) {
  if (b == 0) return a / b;
  double m = std::fmod(a, b), d = (a - m) / b;
  if (m != 0 && (b < 0) != (m < 0)) d -= 1;
  double f = d != 0 ? std::floor(d) : std::copysign(0., a / b);
  return d - f > 0.5 ? f + 1 : f;
}
template <class T> FN T float_mod(T a, T b) { const T m = std::fmod(a, b); return m != 0 && (b < 0) != (m < 0) ? m + b : m; }
FN float floor_mod(float a, float b) { return float_mod(a, b); }
FN double floor_mod(double a, double b) { return float_mod(a, b); }

// Greatest and least, where not-a-number wins.
template <class T> FN T greater(T a, T b) { return (a > b || a != a) ? a : b; }
template <class T> FN T lesser(T a, T b) { return (a < b || a != a) ? a : b; }
// Whether x comes before the best so far: greater (less), or the first not-a-number.
template <class T> FN bool above(T x, T best) { return x > best || (x != x && best == best); }
template <class T> FN bool below(T x, T best) { return x < best || (x != x && best == best); }
template <class T> FN T sign_of(T x) { return (T)((x > 0) - (x < 0)); }

// e^x = 2^2h * e^r with |r| <= ln 2. Adding 1.5 * 2^23 + 127 rounds to h and leaves 2^h's exponent in the low bits; 2^h is
// multiplied twice, so that results without a normal 2^2h (denormal ones, and those next to infinity) come out right.
FN float exp_(float x) {
  const float y = x < -104.f ? -104.f : x, magic = 12583039.f;
  const int32_t t = as_int(y * 0.72134752f + magic), b = t < 0x4b4000bf ? t : 0x4b4000bf;
  const float n = as_float(b) - magic;
  const float r = (y - n * 1.38671875f) + n * 4.2438824e-4f;
  float p = 1.9611344e-4f;
  p = p * r + 1.4104677e-3f; p = p * r + 8.3361091e-3f; p = p * r + 4.1661259e-2f; p = p * r + 0.16666614f;
  p = p * r + 0.50000036f;
  const float s = as_float(b << 23);
  return (p * (r * r) + r + 1.f) * s * s;
}
FN float expm1_(float x) {
  float p = 2.497025526e-5f;
  p = p * x + 1.997402e-4f; p = p * x + 1.388854347e-3f; p = p * x + 8.333140984e-3f; p = p * x + 4.166666791e-2f;
  p = p * x + 0.1666666716f; p = p * x + 0.5f;
  const float s = p * (x * x) + x;
  return (x > -0.5f) & (x < 0.5f) ? s : exp_(x) - 1.f;
}
FN float log_(float x) {
  const bool small = x < 1.17549435e-38f;
  const float y = small ? x * 8388608.f : x;
  int32_t b = as_int(y) - 0x3f3504f3;
  const float e = (float)(b >> 23) - (small ? 23.f : 0.f);
  b = (b & 0x7fffff) + 0x3f3504f3;
  const float t = as_float(b) - 1.f, z = t * t;
  float p = 6.746601313e-2f;
  p = p * t - 0.11675640941f; p = p * t + 0.11888174713f; p = p * t - 0.12405591458f; p = p * t + 0.14219550788f;
  p = p * t - 0.16667996347f; p = p * t + 0.20002119243f; p = p * t - 0.25000008941f; p = p * t + 0.33333313465f;
  float r = t * z * p + e * -2.12194440e-4f;
  r = (r - 0.5f * z) + t + e * 0.693359375f;
  r = x == INF ? INF : r;
  r = x == 0.f ? -INF : r;
  return x >= 0.f ? r : NOT_A_NUMBER;
}
FN float log1p_(float x) {
  const float u = 1.f + x, d = u - 1.f;
  const float r = log_(u) * (x / (d == 0.f ? 1.f : d));
  return d == 0.f ? x : u == INF ? u : r;
}
// Quotients of polynomials in x^2, all of whose coefficients are positive; 1 where the function rounds to 1.
FN float tanh_(float x) {
  const float a = std::fabs(x), z = x * x;
  float p = 1.3318974e-8f, q = 7.7619785e-7f;
  p = p * z + 2.0583410e-5f; p = p * z + 3.4940301e-3f; p = p * z + 0.13379714f; p = p * z + 1.f;
  q = q * z + 3.2830855e-4f; q = q * z + 2.5871057e-2f; q = q * z + 0.46713030f; q = q * z + 1.f;
  const float y = a * p / q;
  return std::copysign((a > 9.02f) | (y > 1.f) ? 1.f : y, x);
}
FN float erf_(float x) {
  const float a = std::fabs(x), z = x * x;
  float p = 2.0500893e-6f, q = 3.8091737e-5f;
  p = p * z + 2.8488276e-4f; p = p * z + 3.7656131e-3f; p = p * z + 5.2748710e-2f; p = p * z + 0.19040637f;
  p = p * z + 1.1283791f;
  q = q * z + 1.1625348e-3f; q = q * z + 1.4969207e-2f; q = q * z + 0.11410907f; q = q * z + 0.50207597f;
  q = q * z + 1.f;
  const float y = a * p / q;
  return std::copysign((a > 3.92f) | (y > 1.f) ? 1.f : y, x);
}
FN double exp_(double x) { return std::exp(x); }
FN double expm1_(double x) { return std::expm1(x); }
FN double log_(double x) { return std::log(x); }
FN double log1p_(double x) { return std::log1p(x); }
FN double tanh_(double x) { return std::tanh(x); }
FN double erf_(double x) { return std::erf(x); }
template <class T> FN T sigmoid_(T x) { return (T)1 / ((T)1 + exp_(-x)); }
// log(e^a + e^b); equal infinities stay what they are.
template <class T> FN T log_add(T a, T b) {
  return a == b && std::fabs(a) == (T)INF ? a : greater(a, b) + log1p_(exp_(-std::fabs(a - b)));
}
template <class T> FN T rsqrt_(T x) { return (T)1 / std::sqrt(x); }
template <class T> FN T shift_left(T a, T b) { return b < 0 || b >= (T)(8 * sizeof(T)) ? (T)0 : (T)(a << b); }
template <class T> FN T shift_right(T a, T b) { return b < 0 || b >= (T)(8 * sizeof(T)) ? (T)(a < 0 ? -1 : 0) : (T)(a >> b); }
template <class T> FN T whole_power(T a, T b) {
  if (b < 0) return a == 1 ? (T)1 : a == (T)-1 ? ((b & 1) ? (T)-1 : (T)1) : (T)0;
  T r = 1;
  for (; b; b >>= 1, a *= a) if (b & 1) r *= a;
  return r;
}
template <class T> FN T greatest_of() { return T(~(uint64_t)0 >> (64 - 8 * sizeof(T) + (T(-1) < T(0)))); }

// What a pass carries: mean, squared differences and weight of the numbers so far, joined with those of others (T. Chan,
// G. Golub, R. LeVeque 1979); and the greatest number with the sum of e^(x - greatest). Weight 0 counts nothing.
FN void join_moments(double& mean, double& squares, double& weight, double m, double q, double w) {
  const double n = weight + w, d = m == mean ? 0. : m - mean, part = n > 0. ? w / n : 0.;
  squares = w == 0. ? squares : squares + q + (weight == 0. ? 0. : d * d * weight * part);
  mean = w == 0. ? mean : weight == 0. ? m : std::fabs(d) == (double)INF ? mean + m : mean + d * part;
  weight = n;
}
template <class T> FN void join_exponents(T& most, double& sum, T m, double s) {
  const T top = s == 0. ? most : greater(most, m), base = top == -INF ? (T)0 : top;
  sum = (sum == 0. ? 0. : sum * exp_(most - base)) + (s == 0. ? 0. : s * exp_(m - base));
  most = top;
}
// Those of a run of n numbers: squares are taken of what is left after the mean, and the mean is mended by what is left then.
template <class T> FN void join_run(double& mean, double& squares, double& weight, const T* x, i64 n, T sum) {
  const T m = sum / (T)n;
  T left = 0, q = 0;
#pragma omp simd reduction(+:left, q)
  for (i64 j = 0; j < n; ++j) { const T d = x[j] - m; left += d; q += d * d; }
  const double more = (double)left / (double)n;
  join_moments(mean, squares, weight, more - more == 0. ? m + more : m, q - left * more, (double)n);
}
template <class T> FN void join_run(T& most, double& sum, const T* x, i64 n, T top, bool odd) {
  const T base = top == -INF ? (T)0 : top;
  T s = 0;
#pragma omp simd reduction(+:s)
  for (i64 j = 0; j < n; ++j) s += exp_(x[j] - base);
  if (odd) top = NOT_A_NUMBER;
  join_exponents(most, sum, top, (double)s);
}

// Matrices turned, N x N elements at a time in registers: interleaving row i with row i + N / 2, log2 N times.
template <class T, int N> struct Vector { typedef T type __attribute__((vector_size(N * sizeof(T)), aligned(sizeof(T)), may_alias)); };
template <class V> FN V low(V a, V b, Vector<char, 16>*) { return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23); }
template <class V> FN V high(V a, V b, Vector<char, 16>*) { return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31); }
template <class V> FN V low(V a, V b, Vector<char, 8>*) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
template <class V> FN V high(V a, V b, Vector<char, 8>*) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
template <class T, int N> static __attribute__((noinline)) void turn_square(const T* from, i64 jump, T* to, i64 row) {
  typedef typename Vector<T, N>::type V;
  Vector<char, N>* const lanes = nullptr;
  V a[N], b[N];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) a[i] = *(const V*)(from + i * jump);
#pragma GCC unroll 4
  for (int s = 1; s < N; s *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; ++i) { b[2 * i] = low(a[i], a[i + N / 2], lanes); b[2 * i + 1] = high(a[i], a[i + N / 2], lanes); }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) a[i] = b[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) *(V*)(to + i * row) = a[i];
}
template <int bytes> struct Bits;
template <> struct Bits<1> { typedef uint8_t type; };
template <> struct Bits<2> { typedef uint16_t type; };
template <> struct Bits<4> { typedef uint32_t type; };
template <> struct Bits<8> { typedef uint64_t type; };
// to[c * row + r] = from[r * jump + c] for r < rows, c < columns.
template <class E> FN void turn(const E* from_, i64 jump, i64 rows, i64 columns, E* to_, i64 row) {
  typedef typename Bits<sizeof(E)>::type T __attribute__((may_alias));
  const int N = sizeof(E) == 8 ? 8 : 16;
  const T* from = (const T*)from_;
  T* to = (T*)to_;
  i64 r = 0;
  for (; r + N <= rows; r += N) {
    i64 c = 0;
    for (; c + N <= columns; c += N) turn_square<typename Bits<sizeof(E)>::type, N>(from + r * jump + c, jump, to + c * row + r, row);
    for (; c < columns; ++c) for (i64 i = 0; i < N; ++i) to[c * row + r + i] = from[(r + i) * jump + c];
  }
  for (; r < rows; ++r) for (i64 c = 0; c < columns; ++c) to[c * row + r] = from[r * jump + c];
}

extern "C" int omp_get_num_threads(void);
extern "C" int omp_get_thread_num(void);
extern "C" int omp_get_max_threads(void);
typedef void (*Part)(const i64* P, void* const* B, i64 lo, i64 hi);

// Units [0, n) shared out in one contiguous piece per thread, on the threads that torch uses; the same for the same
// number of threads. Few units, or little work, stay on the calling thread.
FN void share(Part part, const i64* P, void* const* B, i64 n, i64 work) {
  if (n <= 0) return;
  if (n < 2 || work < 32768 || omp_get_max_threads() < 2) { part(P, B, 0, n); return; }
#pragma omp parallel
  {
    const i64 k = omp_get_num_threads(), t = omp_get_thread_num();
    const i64 lo = n * t / k, hi = n * (t + 1) / k;
    if (lo < hi) part(P, B, lo, hi);
  }
}

// How many columns a tile has: at most about ``most``; as many tiles for each thread, where there are few. Where nothing
// limits them (0), as few tiles as the threads allow.
FN i64 tile_width(i64 most, i64 columns, i64 others, i64 work) {
  const i64 threads = work < 32768 ? 1 : omp_get_max_threads();
  if (most == 0) {
    i64 width = columns / 16 * 16 + 16;
    while (width > 16 && others * ((columns + width - 1) / width) < threads) width = (width / 2 + 15) / 16 * 16;
    return width;
  }
  i64 tiles = most < columns ? (columns + most - 1) / most : 1;
  if (others * tiles < 4 * threads && others < threads) tiles = (tiles + threads - 1) / threads * threads;
  return ((columns + tiles - 1) / tiles + 15) / 16 * 16 + 16 * (columns == 0);
}

// Into how many blocks outer points are cut over which sums of ``nbytes`` are taken: some 16 points each, a few blocks
// where there are few points, and no more than whose sums fit in a second cache. It follows from the sizes alone, and so
// does the order in which is summed.
FN i64 fold_blocks(i64 rows, i64 nbytes) {
  const i64 most = (1 << 18) / (nbytes > 0 ? nbytes : 1);
  i64 k = rows / 16 < 8 ? (rows < 8 ? rows : 8) : rows / 16;
  k = k < most ? k : most;
  return k < 1 ? 1 : k > 256 ? 256 : k;
}
