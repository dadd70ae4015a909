/* The loops over time of LSTM, GRU and vanilla RNN, forward and backward.
 *
 * A function computes the texts `from` to `to` of a batch for all steps. Threads that take different texts do not wait
 * for each other, and the results do not depend on how the texts are divided.
 *
 * Arrays are contiguous: sequences are [T][B][n] for T steps and B texts, states [B][H]. Half is bfloat16. `void`
 * arrays are float, or Half where `half` is 1. `resets` is [T][B] or null; where it is 1, the step's output is 0 and no
 * gradient passes. Weights are [G][H]. The recurrent products are computed in float, or where `tiles` is 1 from operands
 * that are rounded to Half.
 * Every function returns 0, or 1 if memory was lacking.
 */
#include <stdlib.h>
#include <string.h>
#if defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__)
#define TILES
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__AVX512F__) && !defined(__clang__)
#pragma GCC target("prefer-vector-width=512") /* GCC's default is 256 */
#endif

/* A product sums ROWS rows and two vectors of columns at once, in as many vector registers as the processor has. */
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 12
#elif defined(__AVX__)
#define LANES 8
#define ROWS 6
#else
#define LANES 4
#define ROWS 6
#endif
#define COLUMNS (2 * LANES)
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef unsigned short Half;

typedef struct {
    long steps, batch, hidden, from, to;
    long half, tiles;
    const unsigned char *resets;
} Loop;

/* A row of a sequence at step t, and the state before that step. */
#define INDEX (t * l->batch + l->from + row)
#define ROW(sequence, width) ((sequence) + INDEX * (width))
#define BEFORE(sequence, first) (t ? ROW(sequence, H) - l->batch * H : (first) + (l->from + row) * H)
#define RESET (l->resets && *ROW(l->resets, 1))
#define EACH_ROW for (long row = 0; row < l->to - l->from; row++)
#define EACH for (long i = 0; i < H; i++)

static inline float full(Half x) {
    unsigned bits = (unsigned)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Rounds to the nearest, ties to even; NaN stays NaN. */
static inline Half half(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static void halves(Half *restrict to, const float *restrict from, long n) {
    for (long i = 0; i < n; i++) to[i] = half(from[i]);
}

static void read_row(const Loop *l, float *restrict to, const void *array, long index, long n) {
    const Half *restrict from = (const Half *)array + index * n;
    if (!l->half)
        memcpy(to, (const float *)array + index * n, sizeof(float) * n);
    else
        for (long i = 0; i < n; i++) to[i] = full(from[i]);
}

static void write_row(const Loop *l, void *array, long index, const float *from, long n) {
    if (!l->half)
        memcpy((float *)array + index * n, from, sizeof(float) * n);
    else
        halves((Half *)array + index * n, from, n);
}

/* c [m][width] = a [m][k] @ b [k][n], many times with the same b. `width` is n rounded up. */
typedef struct {
    long m, k, n, width, tiles;
    void *a, *b; /* with tiles, a has rows and columns up to the next multiple of a tile's */
    float *c;
    float *values; /* for one row of a, which may be longer than k */
} Product;

#define UP(n, unit) (((n) + (unit) - 1) / (unit) * (unit))
#define C_ROW (p.c + row * p.width)

/* b as panels of COLUMNS columns. Element (i, j) of b is at b[i * down + j * right]. */
static void pack(float *panels, const float *b, long k, long n, long down, long right) {
    for (long j = 0; j < n; j++)
        for (long i = 0; i < k; i++) panels[j / COLUMNS * COLUMNS * k + i * COLUMNS + j % COLUMNS] = b[i * down + j * right];
}

static inline __attribute__((always_inline)) void multiply_rows(
    const int rows, const float *a, long a_width, long k, const float *panel, float *c, long c_width) {
    Vector sums[ROWS][2] = {0};
    for (long i = 0; i < k; i++, panel += COLUMNS)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < 2; v++) sums[r][v] += a[r * a_width + i] * *(const Vector *)(panel + v * LANES);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++) *(Vector *)(c + r * c_width + v * LANES) = sums[r][v];
}

static void multiply_floats(const Product *p) {
    const float *a = p->a, *panel = p->b;
    long blocks = UP(p->m, ROWS) / ROWS;
    for (long j = 0; j < p->n; j += COLUMNS, panel += p->k * COLUMNS)
        for (long block = 0; block < blocks; block++) {
            long first = p->m * block / blocks;
            switch (p->m * (block + 1) / blocks - first) { /* the compiler needs to know the number of rows */
#define CASE(R) \
    case R: multiply_rows(R, a + first * p->k, p->k, p->k, panel, p->c + first * p->width + j, p->width); break;
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if ROWS > 6
                CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
            }
        }
}

/* Intel's AMX: a tile register holds 16 rows of 64 bytes. Of b it holds 32 rows and 16 columns, [16][16][2]. */
#define TILE_ROWS 16
#define TILE_HALVES 32
#ifdef TILES
/* Linux permits a process to use the registers when it asks: ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA. */
int has_tiles(void) { return !syscall(SYS_arch_prctl, 0x1023, 18); }

/* GCC does not see that tile instructions read memory: what has been assigned must be in memory before them. */
#define ASSIGNED(array) __asm__ volatile("" ::"r"(array) : "memory")

static void configure_tiles(void) {
    struct {
        unsigned char palette, start, reserved[14];
        unsigned short bytes[16];
        unsigned char rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = TILE_ROWS;
    ASSIGNED(&config);
    _tile_loadconfig(&config);
}

/* b as panels of two tiles' columns: for each 32 rows the left tile, then the right one. Takes two rows at a time, since
 * they alternate in a tile, or for a transposed b, [n][k], 32 rows of a column. */
#define TILE(i, j) (tiles + (j) / 32 * 32 * UP(k, 32) + (i) / 32 * 1024 + (j) / 16 % 2 * 512)
static void pack_tiles(Half *restrict tiles, const float *restrict b, long k, long n, int transposed) {
    for (long i = 0; !transposed && i < k; i += 2)
        for (long j = 0; j < n; j++) {
            Half *to = TILE(i, j) + i % 32 / 2 * 32 + j % 16 * 2;
            to[0] = half(b[i * n + j]), to[1] = i + 1 < k ? half(b[(i + 1) * n + j]) : 0;
        }
    for (long j = 0; transposed && j < n; j++)
        for (long i = 0; i < k; i += 32) {
            Half rows[32] = {0}, *to = TILE(i, j) + j % 16 * 2;
            halves(rows, b + j * k + i, k - i < 32 ? k - i : 32);
            for (long row = 0; row < 32; row += 2) memcpy(to + row * 16, rows + row, 2 * sizeof(Half));
        }
}

static void multiply_tiles(const Product *p) {
    long k = UP(p->k, TILE_HALVES), n = p->width;
    const Half *panel = p->b;
    ASSIGNED(p->a);
    for (long j = 0; j < n; j += 32, panel += k * 32)
        for (long row = 0; row < p->m; row += 2 * TILE_ROWS) {
            const Half *a = (const Half *)p->a + row * k;
            float *c = p->c + row * n + j;
            int two = row + TILE_ROWS < p->m; /* two tiles of rows, or the last one */
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (long i = 0; i < k; i += TILE_HALVES) {
                _tile_loadd(4, a + i, k * 2);
                _tile_loadd(6, panel + i * 32, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, panel + i * 32 + 512, 64);
                _tile_dpbf16ps(1, 4, 7);
                if (two) {
                    _tile_loadd(5, a + TILE_ROWS * k + i, k * 2);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
            _tile_stored(0, c, n * 4);
            _tile_stored(1, c + 16, n * 4);
            if (two) {
                _tile_stored(2, c + TILE_ROWS * n, n * 4);
                _tile_stored(3, c + TILE_ROWS * n + 16, n * 4);
            }
        }
}
#else
int has_tiles(void) { return 0; }
static void configure_tiles(void) {}
static void pack_tiles(Half *tiles, const float *b, long k, long n, int transposed) {
    (void)tiles, (void)b, (void)k, (void)n, (void)transposed;
}
static void multiply_tiles(const Product *p) { (void)p; }
#define _tile_release() (void)0
#endif

/* Zeros. */
static void *memory(long bytes) {
    void *array = aligned_alloc(64, UP(bytes, 64));
    return array ? memset(array, 0, bytes) : array;
}

/* For b [k][n], or a transposed b, [n][k], and rows of up to `length` values. */
static int prepare(Product *p, const Loop *l, const float *b, long k, long n, int transposed, long length) {
    long m = l->to - l->from, width = UP(n, COLUMNS), size = sizeof(float), a = m * k, c = m * width;
    *p = (Product){.m = m, .k = k, .n = n, .width = width, .tiles = l->tiles};
    if (l->tiles) size = sizeof(Half), k = UP(k, TILE_HALVES), a = UP(m, TILE_ROWS) * k, c = UP(m, TILE_ROWS) * width;
    p->a = memory(a * size), p->b = memory(k * width * size), p->c = memory(c * sizeof(float));
    p->values = memory(length * sizeof(float));
    if (!p->a || !p->b || !p->c || !p->values) return 1;
    if (l->tiles)
        pack_tiles(p->b, b, p->k, n, transposed), configure_tiles();
    else
        pack(p->b, b, k, n, transposed ? 1 : n, transposed ? k : 1);
    return 0;
}

static void assign(Product *p, long row, const float *values) {
    if (p->tiles)
        halves((Half *)p->a + row * UP(p->k, TILE_HALVES), values, p->k);
    else
        memcpy((float *)p->a + row * p->k, values, sizeof(float) * p->k);
}

/* Writes the row's values to an array, and takes them for the next product. */
static void pass_on(Product *p, const Loop *l, long row, void *array, long index, long length) {
    write_row(l, array, index, p->values, length);
    assign(p, row, p->values);
}

static void multiply(const Product *p) { p->tiles ? multiply_tiles(p) : multiply_floats(p); }

static int finish(Product *p, int failed) {
    if (p->tiles) _tile_release();
    free(p->a), free(p->b), free(p->c), free(p->values);
    return failed;
}

/* exp as 2^n times a polynomial, after S. Moshier's Cephes; the compiler can vectorize it, unlike expf. */
static inline float exponential(float x) {
    x = x > 88 ? 88 : x < -87 ? -87 : x;
    float n = __builtin_rintf(x * 1.44269504f), p = 1.9875691500e-4f;
    x = x - n * 0.693359375f + n * 2.12194440e-4f;
    p = p * x + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    union {
        int bits;
        float value;
    } power = {.bits = ((int)n + 127) << 23};
    return (p * x * x + x + 1) * power.value;
}

static inline float sigmoid(float x) { return 1 / (1 + exponential(-x)); }
static inline float hyperbolic_tangent(float x) { return 2 * sigmoid(2 * x) - 1; }

/* x [T][B][H]: the inputs' sums; y receives the outputs. */
int rnn_forward(const Loop *l, const void *x, void *y, const float *h_0, const float *weight) {
    long H = l->hidden;
    Product p;
    int failed = prepare(&p, l, weight, H, H, 1, H);
    if (!failed) EACH_ROW assign(&p, row, h_0 + (l->from + row) * H);
    for (long t = 0; !failed && t < l->steps; t++) {
        multiply(&p);
        EACH_ROW {
            float *h = p.values;
            const float *sums = C_ROW;
            read_row(l, h, x, INDEX, H);
            EACH h[i] = hyperbolic_tangent(h[i] + sums[i]);
            if (RESET) memset(h, 0, sizeof(float) * H);
            pass_on(&p, l, row, y, INDEX, H);
        }
    }
    return finish(&p, failed);
}

/* grad [T][B][H]: the outputs' gradients; d receives those of x. */
int rnn_backward(const Loop *l, void *d, const void *grad, const void *y, const float *weight, float *d_h_0) {
    long H = l->hidden;
    Product p;
    int failed = prepare(&p, l, weight, H, H, 0, 2 * H);
    for (long t = l->steps - 1; !failed && t >= 0; t--) {
        EACH_ROW {
            float *d_x = p.values, *h = d_x + H;
            const float *d_h = C_ROW;
            read_row(l, d_x, grad, INDEX, H);
            read_row(l, h, y, INDEX, H);
            EACH d_x[i] = (d_x[i] + d_h[i]) * (1 - h[i] * h[i]);
            if (RESET) memset(d_x, 0, sizeof(float) * H);
            pass_on(&p, l, row, d, INDEX, H);
        }
        multiply(&p);
    }
    if (!failed) EACH_ROW memcpy(d_h_0 + (l->from + row) * H, C_ROW, sizeof(float) * H);
    return finish(&p, failed);
}

/* Functions of their own, since the compiler vectorizes them only where it can see that no two arrays overlap. */
static __attribute__((noinline)) void gru_row(
    long H, float *restrict gates, float *restrict recurrent, float *restrict h, const float *restrict before,
    const float *restrict sums, const float *restrict bias) {
    float *r = gates, *z = gates + H, *n = gates + 2 * H;
    EACH r[i] = sigmoid(r[i] + sums[H + i]);
    EACH z[i] = sigmoid(z[i] + sums[2 * H + i]);
    EACH recurrent[i] = sums[i] + bias[i];
    EACH n[i] = hyperbolic_tangent(n[i] + r[i] * recurrent[i]);
    EACH h[i] = n[i] + z[i] * (before[i] - n[i]);
}

/* d_direct: the gradient of `before` that does not pass through the product, here of h and then of the step before. */
static __attribute__((noinline)) void gru_row_backward(
    long H, float *restrict d, float *restrict d_direct, const float *restrict d_h, const float *restrict grad,
    const float *restrict gates, const float *restrict recurrent, const float *restrict before) {
    const float *r = gates, *z = gates + H, *n = gates + 2 * H;
    EACH {
        float d_out = d_direct[i] + d_h[i] + grad[i], d_n = d_out * (1 - z[i]) * (1 - n[i] * n[i]);
        d[i] = d_n * r[i];
        d[H + i] = d_n * recurrent[i] * r[i] * (1 - r[i]);
        d[2 * H + i] = d_out * (before[i] - n[i]) * z[i] * (1 - z[i]);
        d[3 * H + i] = d_n;
        d_direct[i] = d_out * z[i];
    }
}

/* x [T][B][3H]: the inputs' sums of r, z, n; `gates` receives r, z, n, `recurrent` [T][B][H] the candidate's recurrent
 * sum. The weight's G = 3H are in the order n, r, z; bias [H] belongs to `recurrent`. */
int gru_forward(
    const Loop *l, const void *x, float *gates, float *recurrent, float *y, const float *h_0, const float *weight,
    const float *bias) {
    long H = l->hidden;
    Product p;
    int failed = prepare(&p, l, weight, H, 3 * H, 1, H);
    for (long t = 0; !failed && t < l->steps; t++) {
        EACH_ROW assign(&p, row, BEFORE(y, h_0));
        multiply(&p);
        EACH_ROW {
            read_row(l, ROW(gates, 3 * H), x, INDEX, 3 * H);
            gru_row(H, ROW(gates, 3 * H), ROW(recurrent, H), ROW(y, H), BEFORE(y, h_0), C_ROW, bias);
            if (RESET) memset(ROW(y, H), 0, sizeof(float) * H);
        }
    }
    return finish(&p, failed);
}

/* d [T][B][4H] receives the gradients of the recurrent sum, r, z and n. d_h_0 must be 0. */
int gru_backward(
    const Loop *l, void *d, const float *grad, const float *gates, const float *recurrent, const float *y,
    const float *h_0, const float *weight, float *d_h_0) {
    long H = l->hidden;
    Product p;
    int failed = prepare(&p, l, weight, 3 * H, H, 0, 4 * H);
    for (long t = l->steps - 1; !failed && t >= 0; t--) {
        EACH_ROW {
            float *d_direct = d_h_0 + (l->from + row) * H;
            const float *r_z_n = ROW(gates, 3 * H);
            gru_row_backward(H, p.values, d_direct, C_ROW, ROW(grad, H), r_z_n, ROW(recurrent, H), BEFORE(y, h_0));
            if (RESET) memset(p.values, 0, sizeof(float) * 4 * H), memset(d_direct, 0, sizeof(float) * H);
            pass_on(&p, l, row, d, INDEX, 4 * H);
        }
        multiply(&p);
    }
    if (!failed)
        EACH_ROW EACH d_h_0[(l->from + row) * H + i] += C_ROW[i];
    return finish(&p, failed);
}

static __attribute__((noinline)) void lstm_row(
    long H, Half *restrict gates, float *restrict c, float *restrict h, const Half *restrict x,
    const float *restrict before, const float *restrict sums) {
    EACH {
        float in = sigmoid(full(x[i]) + sums[i]), forget = sigmoid(full(x[H + i]) + sums[H + i]);
        float candidate = hyperbolic_tangent(full(x[2 * H + i]) + sums[2 * H + i]);
        float out = sigmoid(full(x[3 * H + i]) + sums[3 * H + i]);
        c[i] = forget * before[i] + in * candidate;
        h[i] = out * hyperbolic_tangent(c[i]);
        gates[i] = half(in), gates[H + i] = half(forget);
        gates[2 * H + i] = half(candidate), gates[3 * H + i] = half(out);
    }
}

static __attribute__((noinline)) void lstm_row_backward(
    long H, float *restrict d, float *restrict d_c, const float *restrict d_h, const Half *restrict grad,
    const Half *restrict gates, const float *restrict c, const float *restrict before) {
    EACH {
        float in = full(gates[i]), forget = full(gates[H + i]);
        float candidate = full(gates[2 * H + i]), out = full(gates[3 * H + i]);
        float squashed = hyperbolic_tangent(c[i]), d_out = full(grad[i]) + d_h[i];
        float d_now = d_c[i] + d_out * out * (1 - squashed * squashed);
        d[i] = d_now * candidate * in * (1 - in);
        d[H + i] = d_now * before[i] * forget * (1 - forget);
        d[2 * H + i] = d_now * in * (1 - candidate * candidate);
        d[3 * H + i] = d_out * squashed * out * (1 - out);
        d_c[i] = d_now * forget;
    }
}

/* x [T][B][4H]: the inputs' sums of the gates, input, forget, candidate, output; `gates` receives the gates, c [T][B][H]
 * the cell states, y the outputs. */
int lstm_forward(
    const Loop *l, const Half *x, Half *gates, float *c, Half *y, const float *h_0, const float *c_0,
    const float *weight) {
    long H = l->hidden;
    Product p;
    int failed = prepare(&p, l, weight, H, 4 * H, 1, H);
    if (!failed) EACH_ROW assign(&p, row, h_0 + (l->from + row) * H);
    for (long t = 0; !failed && t < l->steps; t++) {
        multiply(&p);
        EACH_ROW {
            lstm_row(H, ROW(gates, 4 * H), ROW(c, H), p.values, ROW(x, 4 * H), BEFORE(c, c_0), C_ROW);
            if (RESET) memset(ROW(c, H), 0, sizeof(float) * H), memset(p.values, 0, sizeof(float) * H);
            pass_on(&p, l, row, y, INDEX, H);
        }
    }
    return finish(&p, failed);
}

/* d [T][B][4H] receives the gradients of x. d_c_0 is that of the last c, and receives that of the first;
 * the last h is the last output. */
int lstm_backward(
    const Loop *l, Half *d, const Half *grad, const Half *gates, const float *c, const float *c_0, const float *weight,
    float *d_h_0, float *d_c_0) {
    long H = l->hidden;
    Product p;
    int failed = prepare(&p, l, weight, 4 * H, H, 0, 4 * H);
    for (long t = l->steps - 1; !failed && t >= 0; t--) {
        EACH_ROW {
            float *d_c = d_c_0 + (l->from + row) * H;
            lstm_row_backward(H, p.values, d_c, C_ROW, ROW(grad, H), ROW(gates, 4 * H), ROW(c, H), BEFORE(c, c_0));
            if (RESET) memset(p.values, 0, sizeof(float) * 4 * H), memset(d_c, 0, sizeof(float) * H);
            pass_on(&p, l, row, d, INDEX, 4 * H);
        }
        multiply(&p);
    }
    if (!failed) EACH_ROW memcpy(d_h_0 + (l->from + row) * H, C_ROW, sizeof(float) * H);
    return finish(&p, failed);
}
