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

// Integer division and remainder as Python and torch have them; division by 0 gives 0 and stops nothing. For values there
// are forms in which the least number divided by -1 wraps: the processor would stop.
FN i64 floor_div(i64 a, i64 b) { if (b == 0) return 0; const i64 q = a / b; return q - ((a % b != 0) & ((a < 0) != (b < 0))); }
FN i64 floor_mod(i64 a, i64 b) { if (b == 0) return 0; const i64 r = a % b; return r + (((r != 0) & ((r < 0) != (b < 0))) ? b : 0); }
FN i64 whole_minus(i64 a) { return (i64)(0 - (uint64_t)a); }
FN i64 whole_floor(i64 a, i64 b) { return b == -1 ? whole_minus(a) : floor_div(a, b); }
FN i64 whole_trunc(i64 a, i64 b) { return b == -1 ? whole_minus(a) : b == 0 ? 0 : a / b; }
FN i64 whole_mod(i64 a, i64 b) { return b == -1 ? 0 : floor_mod(a, b); }
FN i64 whole_rest(i64 a, i64 b) { return b == -1 || b == 0 ? 0 : a % b; }
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

// Greatest and least, where not-a-number wins: two choices, of which a compiler makes vectors also where several follow each
// other, and one where b is a constant. Of a running extreme each waits for the one before, so that a jump is faster.
template <class T> FN T greater(T a, T b) { const T c = a <= b ? b : a; return b != b ? b : c; }
template <class T> FN T lesser(T a, T b) { const T c = a >= b ? b : a; return b != b ? b : c; }
template <class T> FN T running_greater(T a, T b) { return (a > b || a != a) ? a : b; }
template <class T> FN T running_lesser(T a, T b) { return (a < b || a != a) ? a : b; }
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
// x = 2^e * m with sqrt(1/2) <= m < sqrt(2), for x > 0.
FN float parted(float x, float& e) {
  const bool small = x < 1.17549435e-38f;
  const int32_t b = as_int(small ? x * 8388608.f : x) - 0x3f3504f3;
  e = (float)(b >> 23) - (small ? 23.f : 0.f);
  return as_float((b & 0x7fffff) + 0x3f3504f3);
}
// log(1 + t) - t + t^2 / 2 for sqrt(1/2) <= 1 + t < sqrt(2).
FN float log_rest(float t) {
  float p = 6.746601313e-2f;
  p = p * t - 0.11675640941f; p = p * t + 0.11888174713f; p = p * t - 0.12405591458f; p = p * t + 0.14219550788f;
  p = p * t - 0.16667996347f; p = p * t + 0.20002119243f; p = p * t - 0.25000008941f; p = p * t + 0.33333313465f;
  return t * (t * t) * p;
}
// A logarithm r where x has none, or none that is finite.
template <class T> FN T log_ends(T x, T r) {
  r = x == (T)INF ? x : r;
  r = x == 0 ? -(T)INF : r;
  return x >= 0 ? r : (T)NOT_A_NUMBER;
}
FN float log_(float x) {
  float e;
  const float t = parted(x, e) - 1.f;
  const float r = log_rest(t) + e * -2.12194440e-4f;
  return log_ends(x, (r - 0.5f * (t * t)) + t + e * 0.693359375f);
}
FN float log2_(float x) {
  float e;
  const float t = parted(x, e) - 1.f;
  return log_ends(x, ((log_rest(t) - 0.5f * (t * t)) + t) * 1.44269504f + e);
}
FN float log10_(float x) {
  float e;
  const float t = parted(x, e) - 1.f;
  const float r = ((log_rest(t) - 0.5f * (t * t)) + t) * 0.434294482f;
  return log_ends(x, (r + e * 4.605038981e-6f) + e * 0.301025390625f);
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

// The same in double, and sines, cosines and powers in both: within 2 units of the last place (powers 1.5), whatever the size
// of the argument; denormal numbers, infinities and NaN as C has them.
FN double as_double(i64 i) { double f; __builtin_memcpy(&f, &i, 8); return f; }
FN i64 as_bits(double f) { i64 i; __builtin_memcpy(&i, &f, 8); return i; }
// x = whole + r, |r| <= 1/2, for |x| < 2^51.
FN double nearest(double x) { const double magic = 6755399441055744.; return (x + magic) - magic; }
FN i64 whole(double x) { return as_bits(x + 6755399441055744.) - 0x4338000000000000; }
// x * 2^n in two steps, since 2^n itself may be out of range.
FN double scaled(double x, i64 n) {
  const i64 h = n >> 1;
  return x * as_double((h + 1023) << 52) * as_double((n - h + 1023) << 52);
}
// (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2.
FN double exp_rest(double r) {
  double p = 2.09147553258932e-09;
  p = p * r + 2.5105312729622103e-08; p = p * r + 2.755727347871858e-07; p = p * r + 2.755725517000089e-06;
  p = p * r + 2.480158732567746e-05; p = p * r + 0.0001984126987500228; p = p * r + 0.0013888888888883711;
  p = p * r + 0.008333333333326084; p = p * r + 0.04166666666666667; p = p * r + 0.1666666666666667;
  return p * r + 0.5;
}
FN double exp_(double x) {
  double y = x < -746. ? -746. : x;
  y = y > 710. ? 710. : y;
  const double n = nearest(y * 1.4426950408889634);
  const double r = (y - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
  return scaled(exp_rest(r) * (r * r) + r + 1., whole(y * 1.4426950408889634));
}
FN double expm1_(double x) {
  double y = x < -40. ? -40. : x;
  y = y > 700. ? 700. : y;
  const double n = nearest(y * 1.4426950408889634);
  const double r = (y - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
  const double s = as_double((whole(y * 1.4426950408889634) + 1023) << 52), p = exp_rest(r) * (r * r) + r;
  return x == 0. ? x : x > 700. ? exp_(x) : s * p + (s - 1.);
}
// x = 2^e * m with sqrt(1/2) <= m < sqrt(2), for x > 0.
FN double parted(double x, double& e) {
  const bool small = x < 2.2250738585072014e-308;
  const i64 b = as_bits(small ? x * 18014398509481984. : x) - 0x3fe6a09e667f3bcd;
  e = (double)(int32_t)(b >> 52) - (small ? 54. : 0.);
  return as_double((b & 0xfffffffffffff) + 0x3fe6a09e667f3bcd);
}
// log(1 + f) = 2 s + s R = f - (f^2 / 2 - s (f^2 / 2 + R)) with s = f / (2 + f): the product with s.
FN double log_rest(double f, double half) {
  const double s = f / (2. + f), z = s * s;
  double p = 0.14616585424888623;
  p = p * z + 0.15331710618210773; p = p * z + 0.18182889455674947; p = p * z + 0.22222211130259878;
  p = p * z + 0.2857142862600327; p = p * z + 0.39999999999899444; p = p * z + 0.666666666666667;
  return s * (half + p * z);
}
FN double log_(double x) {
  double e;
  const double f = parted(x, e) - 1., half = 0.5 * f * f;
  return log_ends(x, e * 0.6931471803691238 - ((half - (log_rest(f, half) + e * 1.9082149292705877e-10)) - f));
}
FN double log2_(double x) {
  double e;
  const double f = parted(x, e) - 1., half = 0.5 * f * f;
  return log_ends(x, (f - (half - log_rest(f, half))) * 1.4426950408889634 + e);
}
FN double log10_(double x) {
  double e;
  const double f = parted(x, e) - 1., half = 0.5 * f * f;
  const double r = (f - (half - log_rest(f, half))) * 0.4342944819032518;
  return log_ends(x, (r + e * 1.1451100898021838e-10) + e * 0.3010299955494702);
}
FN double log1p_(double x) {
  const double u = 1. + x, d = u - 1.;
  return d == 0. ? x : u == (double)INF || u <= 0. ? log_(u) : log_(u) + (x - d) / u;
}
FN double tanh_(double x) {
  const double a = std::fabs(x), z = x * x;
  double p = -2.0598556673275166e-05;
  p = p * z + 8.510707927354112e-05; p = p * z - 0.00023463104528300406; p = p * z + 0.0005889348072447028;
  p = p * z - 0.0014556615775702365; p = p * z + 0.003592110347096177; p = p * z - 0.008863234395418095;
  p = p * z + 0.021869488493563037; p = p * z - 0.05396825396743174; p = p * z + 0.13333333333332714;
  p = p * z - 0.3333333333333333;
  const double t = expm1_(a > 20. ? 40. : 2. * a);
  return std::copysign(a < 0.55 ? a + a * (z * p) : 1. - 2. / (t + 2.), x);
}
// Below 1 a polynomial in x^2; above, e^(x^2) erfc(x) is one in 1 / (x + 2). 1 where the function rounds to 1.
FN double erf_(double x) {
  const double a = std::fabs(x), z = x * x, t = 1. / (a + 2.);
  double p = -7.800856870185169e-10;
  p = p * z + 1.3722787997886972e-08; p = p * z - 1.6209129709405018e-07; p = p * z + 1.6447511254770074e-06;
  p = p * z - 1.492474410734472e-05; p = p * z + 0.00012055295289481475; p = p * z - 0.0008548325988581832;
  p = p * z + 0.005223977607398376; p = p * z - 0.02686617064327291; p = p * z + 0.11283791670945231;
  p = p * z - 0.3761263890318355; p = p * z + 1.1283791670955126;
  double q = -212.17464012397676;
  q = q * t + 748.1541856696576; q = q * t - 1153.2400993696988; q = q * t + 994.9819149689127;
  q = q * t - 510.943789750156; q = q * t + 161.27847766347057; q = q * t - 41.13460591172305;
  q = q * t + 9.891798794987041; q = q * t + 1.8968069186347374; q = q * t + 2.05857531176263;
  q = q * t + 1.1232586983070059; q = q * t + 0.56437773027019; q = q * t - 3.13770191136209e-06;
  const double far = a > 6. ? 1. : 1. - exp_(-z) * q;
  return std::copysign(a < 1. ? a * p : far, x);
}

// The bits of 2 / pi behind 64 of zeros. An argument m * 2^e is multiplied with those whose product is no whole turn: m times
// a fixed-point fraction, of which what lies before the point wraps away (M. Payne, R. Hanek 1983).
static constexpr uint32_t two_over_pi[44] = {
  0, 0, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu, 0xdebbc561u,
  0xb7246e3au, 0x424dd2e0u, 0x06492eeau, 0x09d1921cu, 0xfe1deb1cu, 0xb129a73eu, 0xe88235f5u, 0x2ebb4484u,
  0xe99c7026u, 0xb45f7e41u, 0x3991d639u, 0x835339f4u, 0x9c845f8bu, 0xbdf9283bu, 0x1ff897ffu, 0xde05980fu,
  0xef2f118bu, 0x5a0a6d1fu, 0x6d367ecfu, 0x27cb09b7u, 0x4f463f66u, 0x9e5fea2du, 0x7527bac7u, 0xebe5f17bu,
  0x3d0739f7u, 0x8a5292eau, 0x6bfb5fb1u, 0x1f8d5d08u, 0x56033046u, 0xfc7b6babu, 0xf0cfbc20u, 0x9af4361du,
  0xa9e39161u, 0x5ee61b08u
};
FN uint64_t pi_word(i64 at, i64 i) {
  const uint64_t w = (uint64_t)two_over_pi[(at >> 5) + i] << 32 | two_over_pi[(at >> 5) + i + 1];
  return (w << (at & 31)) >> 32;
}
#define MUL32(a, b) ((uint64_t)(uint32_t)(a) * (uint64_t)(uint32_t)(b))
#define LOW32(a) ((uint64_t)(uint32_t)(a))
// What x leaves of the nearest multiple of pi / 2, and the last two bits of which multiple it is.
FN double quarter_turns(double x, i64& quarter) {
  const i64 b = as_bits(x) & 0x7fffffffffffffff;
  i64 e = (b >> 52) - 1075;
  e = e < -56 ? -56 : e > 971 ? 971 : e;
  const i64 at = e + 62;
  const uint64_t m = ((uint64_t)b & 0xfffffffffffff) | 0x10000000000000, lo = m & 0xffffffff, hi = m >> 32;
  const uint64_t t0 = pi_word(at, 0), t1 = pi_word(at, 1), t2 = pi_word(at, 2), t3 = pi_word(at, 3), t4 = pi_word(at, 4), t5 = pi_word(at, 5);
  const uint64_t a1 = MUL32(lo, t1), a2 = MUL32(lo, t2), a3 = MUL32(lo, t3), a4 = MUL32(lo, t4);
  const uint64_t c2 = MUL32(hi, t2), c3 = MUL32(hi, t3), c4 = MUL32(hi, t4), c5 = MUL32(hi, t5);
  const uint64_t w4 = LOW32(a4) + (MUL32(lo, t5) >> 32) + LOW32(c5);
  const uint64_t w3 = LOW32(a3) + (a4 >> 32) + LOW32(c4) + (c5 >> 32) + (w4 >> 32);
  const uint64_t w2 = LOW32(a2) + (a3 >> 32) + LOW32(c3) + (c4 >> 32) + (w3 >> 32);
  const uint64_t w1 = LOW32(a1) + (a2 >> 32) + LOW32(c2) + (c3 >> 32) + (w2 >> 32);
  const uint64_t w0 = MUL32(lo, t0) + (a1 >> 32) + MUL32(hi, t1) + (c2 >> 32) + (w1 >> 32);
  const uint64_t turn = (w0 << 32) | LOW32(w1), below = (LOW32(w2) << 32) | LOW32(w3);
  const uint64_t q = (turn + 0x2000000000000000) >> 62;
  const double f = (double)(i64)(turn - (q << 62)) + (double)(i64)(below >> 11) * 1.1102230246251565e-16;
  const bool near = std::fabs(x) < 0.7853981633974483;
  const double r = near ? std::fabs(x) : f * 3.4061215800865545e-19;
  quarter = near ? 0 : (i64)q;
  return std::fabs(x) < (double)INF ? r : (double)NOT_A_NUMBER;
}
FN double sine_or_cosine(double r, i64 quarter) {
  const double z = r * r;
  double s = 1.5918115263265974e-10, c = -1.1382623647474604e-11;
  s = s * z - 2.505113165023518e-08; s = s * z + 2.7557316101617874e-06; s = s * z - 0.00019841269836756774;
  s = s * z + 0.008333333333330948; s = s * z - 0.16666666666666666;
  c = c * z + 2.087614614655861e-09; c = c * z - 2.7557317271145144e-07; c = c * z + 2.480158729876456e-05;
  c = c * z - 0.0013888888888887398; c = c * z + 0.041666666666666664;
  const double y = quarter & 1 ? 1. - (0.5 * z - z * z * c) : r + r * (z * s);
  return quarter & 2 ? -y : y;
}
FN double sin_(double x) {
  i64 q;
  const double r = quarter_turns(x, q), y = sine_or_cosine(r, q);
  return as_double(as_bits(y) ^ (as_bits(x) & (i64)0x8000000000000000));
}
FN double cos_(double x) {
  i64 q;
  const double r = quarter_turns(x, q);
  return sine_or_cosine(r, q + 1);
}
// For single precision, 2 / pi without its bits that make whole turns, of four quarters each, of the last bit of arguments: a pair for
// each of their exponents from 2^23 on, the first of which, with all bits, is for smaller ones too. Of the two numbers the first has
// 29 bits, so that its product with an argument is exact.
struct TurnsBySize {
  double high[106], low[106];
  constexpr TurnsBySize() : high(), low() {
    double unit = 7.450580596923828e-09;
    for (int k = 0; k < 105; ++k, unit *= 0.5) {
      i64 h = 0, l = 0;
      for (int i = 62 + k; i < 91 + k; ++i) h = 2 * h + (two_over_pi[i >> 5] >> (31 - (i & 31)) & 1);
      for (int i = 91 + k; i < 144 + k; ++i) l = 2 * l + (two_over_pi[i >> 5] >> (31 - (i & 31)) & 1);
      high[k] = (double)h * unit;
      low[k] = (double)l * (unit * 1.1102230246251565e-16);
    }
    high[105] = NOT_A_NUMBER;
  }
};
static constexpr TurnsBySize turns_by_size;
FN double quarter_turns(float x, i64& quarter) {
  const int32_t e = ((as_int(x) >> 23) & 255) - 150, k = e < 0 ? 0 : e;
  const double a = std::fabs(x), low = a * turns_by_size.low[k], high = a * turns_by_size.high[k], turn = high + low;
  quarter = whole(turn);
  return ((high - nearest(turn)) + low) * 1.5707963267948966;
}
FN float sine_or_cosine(float r, int32_t quarter) {
  const float z = r * r;
  float s = -0.00019587865702101875f, c = 2.4547916853691016e-05f;
  s = s * z + 0.008332748154085032f; s = s * z - 0.16666664661714697f;
  c = c * z - 0.0013888302919113633f; c = c * z + 0.041666664658901405f;
  const float y = quarter & 1 ? 1.f - (0.5f * z - z * z * c) : r + r * (z * s);
  return quarter & 2 ? -y : y;
}
FN float sin_(float x) {
  i64 q;
  const float r = (float)quarter_turns(x, q), y = sine_or_cosine(r, (int32_t)q);
  return as_float(as_int(y) ^ (as_int(x) & (int32_t)0x80000000));
}
FN float cos_(float x) {
  i64 q;
  const float r = (float)quarter_turns(x, q);
  return sine_or_cosine(r, (int32_t)q + 1);
}

// Like both: s / c or -c / s.
FN double tan_(double x) {
  i64 q;
  const double r = quarter_turns(x, q), s = sine_or_cosine(r, (i64)0), c = sine_or_cosine(r, (i64)1), y = (q & 1 ? -c : s) / (q & 1 ? s : c);
  return as_double(as_bits(y) ^ (as_bits(x) & (i64)0x8000000000000000));
}
FN float tan_(float x) {
  i64 q;
  const float r = (float)quarter_turns(x, q), s = sine_or_cosine(r, 0), c = sine_or_cosine(r, 1), y = (q & 1 ? -c : s) / (q & 1 ? s : c);
  return as_float(as_int(y) ^ (as_int(x) & (int32_t)0x80000000));
}

// (2^r - 1) / r for |r| <= 1/2, to single and to double precision.
template <class T> FN T exp2_single(T r) {
  T q = (T)0.0001545318282995974;
  q = q * r + (T)0.0013390886332106697; q = q * r + (T)0.009618082519990467; q = q * r + (T)0.05550357071152507;
  return (q * r + (T)0.24022650760645808) * r + (T)0.6931471880352003;
}
FN double exp2_double(double r) {
  double q = 2.5729344553786755e-11;
  q = q * r + 4.455822025014915e-10; q = q * r + 7.054897292691627e-09; q = q * r + 1.0178057064573359e-07;
  q = q * r + 1.3215486808727859e-06; q = q * r + 1.5252733841601815e-05; q = q * r + 0.00015403530393370715;
  q = q * r + 0.0013333558146406436; q = q * r + 0.00961812910762848; q = q * r + 0.055504108664821625;
  return (q * r + 0.24022650695910072) * r + 0.6931471805599453;
}
FN float exp2_(float x) {
  const float magic = 12582912.f;
  float y = x < -151.f ? -151.f : x;
  y = y > 129.f ? 129.f : y;
  const int32_t n = as_int(y + magic) - 0x4b400000, h = n >> 1;
  const float r = y - ((y + magic) - magic);
  return (1.f + r * exp2_single(r)) * as_float((h + 127) << 23) * as_float((n - h + 127) << 23);
}
FN double exp2_(double x) {
  double y = x < -1080. ? -1080. : x;
  y = y > 1030. ? 1030. : y;
  const double r = y - nearest(y);
  return scaled(1. + r * exp2_double(r), whole(y));
}

// What a power is where its logarithm does not say: signs, 1, 0, and what is not finite. ``y`` is |a|^b.
template <class T> FN T power_of(T a, T b, T y) {
  const bool even = std::nearbyint(b * (T)0.5) == b * (T)0.5, odd = (std::nearbyint(b) == b) & !even;
  const bool root = (std::nearbyint(b) != b) & (a < 0) & (a > -(T)INF);
  T r = odd ? std::copysign(y, a) : y;
  r = root ? (T)NOT_A_NUMBER : r;
  const bool one = (b == 0) | (a == 1) | ((a == -1) & (std::fabs(b) == (T)INF));
  return one ? (T)1 : r;
}
FN float power(float a, float b) {
  double e;
  const double x = std::fabs((double)a), m = parted(x, e), s = (m - 1.) / (m + 1.), z = s * s;
  double p = 0.23330581938241893;
  p = p * z + 0.2855081659971155; p = p * z + 0.40000121876972; p = p * z + 0.6666666655445165;
  double l = e + (2. * s + s * (z * p)) * 1.4426950408889634;
  l = x == 0. ? -(double)INF : x < (double)INF ? l : x;
  const double t = (double)b * l, y = t < -200. ? -200. : t > 200. ? 200. : t, r = y - nearest(y);
  return power_of(a, b, (float)((1. + r * exp2_single(r)) * as_double((whole(y) + 1023) << 52)));
}
// The logarithm is a sum of two numbers, to 2^-65 of itself: products leave their rounding to a multiply-add.
FN double power(double a, double b) {
  double e;
  const double x = std::fabs(a), m = parted(x, e), f = m - 1.;
  const double d = m + 1., d_ = m - (d - 1.), s = f / d, s_ = (__builtin_fma(-s, d, f) - s * d_) / d;
  const double z = s * s, z_ = __builtin_fma(s, s, -z) + 2. * s * s_;
  double p = 0.11723178623876518;
  p = p * z + 0.11706236339491206; p = p * z + 0.1333480469384731; p = p * z + 0.1538459496251843;
  p = p * z + 0.18181818335392802; p = p * z + 0.22222222221655885; p = p * z + 0.28571428571429364; p = p * z + 0.4;
  const double third = 0.6666666666666666, u = third * z;
  const double u_ = __builtin_fma(third, z, -u) + third * z_ + 3.700743415417188e-17 * z + p * z * z;
  const double v = 2. + u, v_ = (u - (v - 2.)) + u_;
  const double g = s * v, g_ = __builtin_fma(s, v, -g) + s * v_ + s_ * v;
  const double per = 1.4426950408889634, h = g * per, h_ = __builtin_fma(g, per, -h) + g * 2.0355273740931033e-17 + g_ * per;
  double l = e + h, l_ = ((e - l) + h) + h_;
  const bool ends = (x == 0.) | !(x < (double)INF);
  l = x == 0. ? -(double)INF : ends ? x : l;
  l_ = ends ? 0. : l_;
  const double t = b * l, y = t < -1100. ? -1100. : t > 1100. ? 1100. : t;
  const double t_ = std::fabs(t) < 1100. ? __builtin_fma(b, l, -t) + b * l_ : 0.;
  const double r = (y - nearest(y)) + t_;
  return power_of(a, b, scaled(1. + r * exp2_double(r), whole(y)));
}
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
FN i64 whole_gcd(i64 a, i64 b) {
  while (b != 0) { const i64 r = whole_rest(a, b); a = b; b = r; }
  return a < 0 ? whole_minus(a) : a;
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

// Into how many blocks units of so many outer points are cut over which sums or extremes of ``nbytes`` are taken: some 16 points
// each, a few blocks where there are few points, and no more than whose results fit in a second cache, but 8 for threads to
// share. It follows from the sizes alone, and so does the order in which they are joined.
FN i64 fold_blocks(i64 units, i64 points_per_unit, i64 nbytes) {
  const i64 fit = (1 << 18) / (nbytes > 0 ? nbytes : 1), most = fit < 8 ? 8 : fit;
  const i64 points = units * points_per_unit;
  i64 k = points / 16 < 8 ? 8 : points / 16;
  k = k < most ? k : most;
  k = k < units ? k : units;
  return k < 1 ? 1 : k > 256 ? 256 : k;
}
