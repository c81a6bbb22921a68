/* alpha-entmax of rows of float32, forward and backward: the equations of entmax.py with each row read once.

   A vector holds one number of each of LANES rows, so that what is scalar in the equations of one row is scalar
   here, and no row is padded. Without OpenMP one thread does all. */

#include <stdint.h>
#include <stdlib.h>

#define LANES 8
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES))); /* all bits of a lane or none, or whole numbers */

#define STEPS 16
#define LEAST_EXPONENT 1e-8f
#define EDGE 1e-7f
#define NEAR 1.7e-6f
#define INFINITE __builtin_inff()

static inline vec all(float x) { return (vec){0} + x; }
static inline vec keep(mask where, vec x) { return (vec)((mask)x & where); }
static inline vec choose(mask where, vec x, vec y) { return (vec)(((mask)x & where) | ((mask)y & ~where)); }

static inline int any(mask where) {
    int found = 0;
    for (int lane = 0; lane < LANES; lane++) found |= where[lane];
    return found;
}

/* log of x > 0, normal: x = 2^n (1 + m) with 1 + m in [sqrt(1/2), sqrt(2)), and Cephes' polynomial in m. */
static inline vec log_of(vec x) {
    mask n = ((mask)x - 0x3f3504f3) >> 23;
    vec m = (vec)((mask)x - (n << 23)) - 1, e = __builtin_convertvector(n, vec), z = m * m;
    vec y = all(7.0376836292e-2f);
    y = y * m - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    return (y * m * z - 2.12194440e-4f * e - 0.5f * z) + m + 0.693359375f * e;
}

/* exp of x <= 88; exactly 0 below -87, where float32 would become denormal and slow. */
static inline vec exp_of(vec x) {
    mask within = x > -87;
    x = keep(within, x);
    vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* the nearest whole number */
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec y = all(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1;
    return keep(within, (vec)((mask)y + (__builtin_convertvector(n, mask) << 23)));
}

/* exp(x) - 1 where x is small too: by its series up to 1/4. */
static inline vec exp_minus_one(vec x) {
    vec series = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7))))));
    return choose((x < 0.25f) & (x > -0.25f), series, exp_of(x) - 1);
}

/* `count` rows of `keys` floats, a lane each; lanes without a row repeat the last. */
static void load(const float *rows, long count, long keys, vec *to) {
    for (int lane = 0; lane < LANES; lane++) {
        const float *row = rows + (lane < count ? lane : count - 1) * keys;
        for (long key = 0; key < keys; key++) ((float *)(to + key))[lane] = row[key];
    }
}

static void store(const vec *from, long count, long keys, float *rows) {
    for (int lane = 0; lane < LANES && lane < count; lane++)
        for (long key = 0; key < keys; key++) rows[lane * keys + key] = ((const float *)(from + key))[lane];
}

static vec load_each(const float *numbers, long count) {
    vec x;
    load(numbers, count, 1, &x);
    return x;
}

/* Weights of up to LANES rows; room for 2 * keys vectors. */
static void forward(const float *scores, const float *alphas, float *weights, long count, long keys, vec *room) {
    vec *below = room, *powers = room + keys;
    vec top = all(-INFINITE), e = load_each(alphas, count) - 1;
    mask broken = {0}; /* rows with a score that is infinite or not a number: nothing of them is a number */
    load(scores, count, keys, below);
    for (long key = 0; key < keys; key++) {
        top = choose(below[key] > top, below[key], top);
        broken |= (below[key] != below[key]) | (below[key] == INFINITE);
    }
    top = choose(top == -INFINITE, all(0), top);
    e = choose(e > LEAST_EXPONENT, e, all(LEAST_EXPONENT));
    for (long key = 0; key < keys; key++) below[key] = (below[key] - top) * e;

    vec k = 1 / e, shift = {0}, total;
    for (int step = 0, last = 0;; step++) {
        vec slope = {0}, lost = {0};
        total = all(0);
        for (long key = 0; key < keys; key++) {
            /* 1 + (below - shift), in the order that keeps the digits of what is small. */
            vec base = (1 + below[key]) - shift;
            mask support = base > EDGE;
            base = choose(support, base, all(1));
            vec reciprocal = 1 / base, log_base = log_of(base);
            /* Near 1 with the digits that base has lost: log(x + d) = log(x) + d / x. */
            log_base += keep(base > 0.5f, (below[key] - shift - (base - 1)) * reciprocal);
            powers[key] = keep(support, exp_of(k * log_base));
            slope += powers[key] * reciprocal;
            /* Kahan's sum: plain ones over 1,000 keys lose two digits. */
            vec more = powers[key] - lost, sum = total + more;
            lost = (sum - total) - more;
            total = sum;
        }
        if (last || step == STEPS) break;
        /* Newton's error nearly squares with each step: from NEAR one more reaches the last digit. */
        last = !any((total - 1 > NEAR) & ~broken);
        mask empty = total == 0;
        vec log_norm = e * log_of(choose(empty, all(1), total));
        shift -= exp_minus_one(-log_norm) * total / choose(empty, all(1), slope);
    }
    vec scale = choose(broken, all(__builtin_nanf("")), 1 / choose(total == 0, all(1), total));
    for (long key = 0; key < keys; key++) powers[key] *= scale;
    store(powers, count, keys, weights);
}

/* Gradients of the scores and the alphas of up to LANES rows; room for 5 * keys vectors. */
static void backward(const float *weights, const float *alphas, const float *gradients, float *for_scores,
                     float *for_alphas, long count, long keys, vec *room) {
    vec *p = room, *gradient = p + keys, *curved = gradient + keys, *pu = curved + keys, *pr = pu + keys;
    vec e = load_each(alphas, count) - 1, curvature = {0}, weighted = {0}, sum_pu = {0}, sum_pr = {0};
    load(weights, count, keys, p);
    load(gradients, count, keys, gradient);
    for (long key = 0; key < keys; key++) {
        mask support = p[key] > 0;
        vec log_p = log_of(choose(support, p[key], all(1))), u = -e * log_p;
        curved[key] = keep(support, exp_of((1 - e) * log_p));
        pu[key] = p[key] * u;
        vec series = 1 + u / 3 * (1 + u / 4 * (1 + u / 5 * (1 + u / 6 * (1 + u / 7 * (1 + u / 8)))));
        pr[key] = keep(support, choose(u < 0.5f, p[key] * log_p * log_p * 0.5f * series,
                                       (curved[key] - p[key] - pu[key]) / (e * e)));
        curvature += curved[key];
        weighted += curved[key] * gradient[key];
        sum_pu += pu[key];
        sum_pr += pr[key];
    }
    vec by_curvature = 1 / choose(curvature == 0, all(1), curvature);
    vec mean = weighted * by_curvature, with_pu = {0}, with_pr = {0};
    for (long key = 0; key < keys; key++) {
        vec centred = gradient[key] - mean;
        curved[key] *= centred;
        with_pu += centred * (p[key] + pu[key]);
        with_pr += centred * pr[key];
    }
    vec for_alpha = (sum_pr * with_pu - (1 + sum_pu) * with_pr) * by_curvature;
    store(curved, count, keys, for_scores);
    store(&for_alpha, count, 1, for_alphas);
}

/* Both return 0, or 1 where there is no memory. Each thread takes an equal part of the rows. */

int entmax_forward(const float *scores, const float *alphas, float *weights, long rows, long keys, int threads) {
    int failed = 0;
#pragma omp parallel for num_threads(threads) reduction(| : failed)
    for (int thread = 0; thread < threads; thread++) {
        long last = rows * (thread + 1) / threads;
        vec *room = aligned_alloc(sizeof(vec), 2 * keys * sizeof(vec));
        failed |= !room;
        for (long row = rows * thread / threads; room && row < last; row += LANES)
            forward(scores + row * keys, alphas + row, weights + row * keys, last - row, keys, room);
        free(room);
    }
    return failed;
}

int entmax_backward(const float *weights, const float *alphas, const float *gradients, float *for_scores,
                    float *for_alphas, long rows, long keys, int threads) {
    int failed = 0;
#pragma omp parallel for num_threads(threads) reduction(| : failed)
    for (int thread = 0; thread < threads; thread++) {
        long last = rows * (thread + 1) / threads;
        vec *room = aligned_alloc(sizeof(vec), 5 * keys * sizeof(vec));
        failed |= !room;
        for (long row = rows * thread / threads; room && row < last; row += LANES) {
            long first = row * keys;
            backward(weights + first, alphas + row, gradients + first, for_scores + first, for_alphas + row,
                     last - row, keys, room);
        }
        free(room);
    }
    return failed;
}
