/* The loops over time of GRU and vanilla RNN, forward and backward, in float32.
 *
 * A function computes the texts `from` to `to` of a batch for all steps. Threads that take different texts do not wait
 * for each other, and the results do not depend on how the texts are divided.
 *
 * Arrays are contiguous: sequences are [T][B][n] for T steps and B texts, states [B][H]. `void` arrays are float, or
 * bfloat16 where `half` is 1. `resets` is [T][B] or null; where it is 1, the step's output is 0 and no gradient passes.
 * Every function returns 0, or 1 if memory was lacking.
 */
#include <stdlib.h>
#include <string.h>

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

typedef struct {
    long steps, batch, hidden, from, to;
    long half;
    const unsigned char *resets;
} Loop;

/* A row of a sequence at step t, and the state before that step. */
#define INDEX (t * l->batch + l->from + row)
#define ROW(sequence, width) ((sequence) + INDEX * (width))
#define BEFORE(sequence, first) (t ? ROW(sequence, H) - l->batch * H : (first) + (l->from + row) * H)
#define EACH_ROW for (long row = 0; row < l->to - l->from; row++)
#define EACH for (long i = 0; i < H; i++)

static void read_row(const Loop *l, float *restrict to, const void *array, long index, long n) {
    const unsigned short *from = (const unsigned short *)array + index * n;
    if (!l->half)
        memcpy(to, (const float *)array + index * n, sizeof(float) * n);
    else
        for (long i = 0; i < n; i++) {
            unsigned bits = (unsigned)from[i] << 16;
            memcpy(to + i, &bits, sizeof bits);
        }
}

/* Rounds to the nearest, ties to even; NaN stays NaN. */
static void write_row(const Loop *l, void *array, long index, const float *restrict from, long n) {
    unsigned short *to = (unsigned short *)array + index * n;
    if (!l->half)
        memcpy((float *)array + index * n, from, sizeof(float) * n);
    else
        for (long i = 0; i < n; i++) {
            unsigned bits;
            memcpy(&bits, from + i, sizeof bits);
            to[i] = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        }
}

static long padded(long n) { return (n + COLUMNS - 1) / COLUMNS * COLUMNS; }

static float *zeros(long n) { return calloc(n, sizeof(float)); }

/* The matrix b [k][n], with element (i, j) at b[i * down + j * right], as panels of COLUMNS columns, padded with 0. */
static float *packed(const float *b, long k, long n, long down, long right) {
    float *panels = zeros(k * padded(n));
    for (long j = 0; panels && j < n; j++)
        for (long i = 0; i < k; i++) panels[j / COLUMNS * COLUMNS * k + i * COLUMNS + j % COLUMNS] = b[i * down + j * right];
    return panels;
}

static inline __attribute__((always_inline)) void add_tile(
    const int rows, const float *a, long a_width, long k, const float *panel, float *c, long c_width) {
    Vector sums[ROWS][2];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++) sums[r][v] = *(const Vector *)(c + r * c_width + v * LANES);
    for (long i = 0; i < k; i++, panel += COLUMNS)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < 2; v++) sums[r][v] += a[r * a_width + i] * *(const Vector *)(panel + v * LANES);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++) *(Vector *)(c + r * c_width + v * LANES) = sums[r][v];
}

/* c [m][padded(n)] += a [m][k] @ b [k][n], for packed b. */
static void add_product(float *c, const float *a, long a_width, long m, long k, const float *panels, long n) {
    long c_width = padded(n), tiles = (m + ROWS - 1) / ROWS;
    for (long j = 0; j < n; j += COLUMNS, panels += k * COLUMNS)
        for (long tile = 0; tile < tiles; tile++) {
            long first = m * tile / tiles;
            switch (m * (tile + 1) / tiles - first) { /* the compiler needs to know the number of rows */
#define TILE(R) \
    case R: add_tile(R, a + first * a_width, a_width, k, panels, c + first * c_width + j, c_width); break;
                TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#if ROWS > 6
                TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
#endif
            }
        }
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
int rnn_forward(const Loop *l, const void *x, float *y, const float *h_0, const float *weight) {
    long H = l->hidden, m = l->to - l->from, width = padded(H);
    float *panels = packed(weight, H, H, 1, H), *sums = zeros(m * width);
    int failed = !panels || !sums;
    for (long t = 0; !failed && t < l->steps; t++) {
        long row = 0;
        memset(sums, 0, sizeof(float) * m * width);
        add_product(sums, BEFORE(y, h_0), H, m, H, panels, H);
        EACH_ROW {
            float *h = ROW(y, H);
            const float *s = sums + row * width;
            read_row(l, h, x, INDEX, H);
            EACH h[i] = hyperbolic_tangent(h[i] + s[i]);
            if (l->resets && *ROW(l->resets, 1)) memset(h, 0, sizeof(float) * H);
        }
    }
    free(panels), free(sums);
    return failed;
}

/* grad [T][B][H]: the outputs' gradients; d receives those of x. */
int rnn_backward(const Loop *l, void *d, const float *grad, const float *y, const float *weight, float *d_h_0) {
    long H = l->hidden, m = l->to - l->from, width = padded(H);
    float *panels = packed(weight, H, H, H, 1), *d_h = zeros(m * width), *d_x = zeros(m * H);
    int failed = !panels || !d_h || !d_x;
    for (long t = l->steps - 1; !failed && t >= 0; t--) {
        EACH_ROW {
            float *d_sum = d_x + row * H, *d_next = d_h + row * width;
            const float *d_out = ROW(grad, H), *h = ROW(y, H);
            EACH d_sum[i] = (d_out[i] + d_next[i]) * (1 - h[i] * h[i]), d_next[i] = 0;
            if (l->resets && *ROW(l->resets, 1)) memset(d_sum, 0, sizeof(float) * H);
            write_row(l, d, INDEX, d_sum, H);
        }
        add_product(d_h, d_x, H, m, H, panels, H);
    }
    for (long row = 0; !failed && row < m; row++)
        memcpy(d_h_0 + (l->from + row) * H, d_h + row * width, sizeof(float) * H);
    free(panels), free(d_h), free(d_x);
    return failed;
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

static __attribute__((noinline)) void gru_row_backward(
    long H, float *restrict d, float *restrict d_h, const float *restrict grad, const float *restrict gates,
    const float *restrict recurrent, const float *restrict before) {
    const float *r = gates, *z = gates + H, *n = gates + 2 * H;
    EACH {
        float d_out = d_h[i] + grad[i], d_n = d_out * (1 - z[i]) * (1 - n[i] * n[i]);
        d[i] = d_n * r[i];
        d[H + i] = d_n * recurrent[i] * r[i] * (1 - r[i]);
        d[2 * H + i] = d_out * (before[i] - n[i]) * z[i] * (1 - z[i]);
        d[3 * H + i] = d_n;
        d_h[i] = d_out * z[i];
    }
}

/* x [T][B][3H]: the inputs' sums of r, z, n; `gates` receives r, z, n, `recurrent` [T][B][H] the candidate's recurrent
 * sum. The weight's rows, [3H][H], are in the order n, r, z; bias [H] belongs to `recurrent`. */
int gru_forward(
    const Loop *l, const void *x, float *gates, float *recurrent, float *y, const float *h_0, const float *weight,
    const float *bias) {
    long H = l->hidden, m = l->to - l->from, width = padded(3 * H);
    float *panels = packed(weight, H, 3 * H, 1, H), *sums = zeros(m * width);
    int failed = !panels || !sums;
    for (long t = 0; !failed && t < l->steps; t++) {
        long row = 0;
        memset(sums, 0, sizeof(float) * m * width);
        add_product(sums, BEFORE(y, h_0), H, m, H, panels, 3 * H);
        EACH_ROW {
            read_row(l, ROW(gates, 3 * H), x, INDEX, 3 * H);
            gru_row(H, ROW(gates, 3 * H), ROW(recurrent, H), ROW(y, H), BEFORE(y, h_0), sums + row * width, bias);
            if (l->resets && *ROW(l->resets, 1)) memset(ROW(y, H), 0, sizeof(float) * H);
        }
    }
    free(panels), free(sums);
    return failed;
}

/* d [T][B][4H] receives the gradients of the recurrent sum, r, z and n. */
int gru_backward(
    const Loop *l, void *d, const float *grad, const float *gates, const float *recurrent, const float *y,
    const float *h_0, const float *weight, float *d_h_0) {
    long H = l->hidden, m = l->to - l->from, width = padded(H);
    float *panels = packed(weight, 3 * H, H, H, 1), *d_h = zeros(m * width), *d_sums = zeros(m * 4 * H);
    int failed = !panels || !d_h || !d_sums;
    for (long t = l->steps - 1; !failed && t >= 0; t--) {
        EACH_ROW {
            float *d_row = d_sums + row * 4 * H, *d_next = d_h + row * width;
            gru_row_backward(H, d_row, d_next, ROW(grad, H), ROW(gates, 3 * H), ROW(recurrent, H), BEFORE(y, h_0));
            if (l->resets && *ROW(l->resets, 1)) {
                memset(d_row, 0, sizeof(float) * 4 * H);
                memset(d_next, 0, sizeof(float) * H);
            }
            write_row(l, d, INDEX, d_row, 4 * H);
        }
        add_product(d_h, d_sums, 4 * H, m, 3 * H, panels, H);
    }
    for (long row = 0; !failed && row < m; row++)
        memcpy(d_h_0 + (l->from + row) * H, d_h + row * width, sizeof(float) * H);
    free(panels), free(d_h), free(d_sums);
    return failed;
}
