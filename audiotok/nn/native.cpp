// One step of a Llama-shaped decoder (transformer.py) over a few vectors, as fast as a CPU reads the weights.
//
// Why not PyTorch's operations: between two products the weights have pushed everything else out of the cache, the code of the next small
// operation too, so that a norm that takes 8 us in a loop takes 60 us here, and there are 130 of them in a step. Here all of them are one
// page of code in one parallel region.
//
// Each vector's result has the same bits whatever other vectors are in the step: every product of a weight row and a vector adds its
// lanes in one order. So a batch equals its rows one by one, and several positions at once equal one after the other.
//
// Weights are float, bf16 (the upper half of a float) or int8 with a scale per row; vectors and sums are always float.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

using Bf16 = uint16_t;
constexpr int LANES = 16;
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

static inline void narrow(float value, float *to) { *to = value; }
static inline void narrow(float value, Bf16 *to) {  // to the nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &value, 4);
    *to = std::isnan(value) ? 0x7FC0 : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
}

static inline Lanes load(const float *from) {
    Lanes lanes;
    memcpy(&lanes, from, sizeof lanes);
    return lanes;
}
#ifdef __AVX512F__
static inline Lanes load(const Bf16 *from) {
    return (Lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
}
static inline Lanes load(const int8_t *from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
}
#else
static inline float widen(int8_t value) { return value; }
static inline float widen(Bf16 value) {
    const uint32_t bits = uint32_t(value) << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}
template <class W>
static inline Lanes load(const W *from) {
    Lanes lanes;
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = widen(from[lane]);
    return lanes;
}
#endif
static inline float sum(const Lanes &lanes) {  // in halves: a chain of sixteen additions would take as long as the product of a row
    float parts[LANES];
    memcpy(parts, &lanes, sizeof parts);
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++) parts[lane] += parts[lane + half];
    return parts[0];
}

// exp of each lane, within two units in the last place, from 2^-126 to 2^127. One by one they would take 1 % of a step in float.
static inline Lanes exponential(Lanes of) {
    of = of < -87.3f ? Lanes{} - 87.3f : of;  // NaN stays
    of = of > 88.0f ? Lanes{} + 88.0f : of;
    const float integer = 12582912.0f;  // 1.5 x 2^23, beside which nothing behind the point has a place
    const Lanes whole = (of * 1.44269504f + integer) - integer;
    const Lanes rest = (of - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts
    Lanes power = rest * 1.9875691500e-4f + 1.3981999507e-3f;  // Cephes' expf
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    return power * (Lanes)((__builtin_convertvector(whole, Integers) + 127) << 23);
}

struct Matrix {  // [rows, width], row by row; `scale` [rows] of int8 weights only
    const void *weight;
    const float *scale;
    int64_t rows, width;
};

struct Block {
    const float *attention_norm;
    Matrix input, output;
    const float *feed_forward_norm;
    Matrix gate_up, down;
};

struct Model {
    int64_t layers, width, heads, hidden;
    float epsilon;
    const Block *blocks;
    const float *norm;
};

struct Cache {  // keys and values [layers, B, H, capacity, D]; cosines and sines [capacity, D / 2]
    void *keys, *values;
    const int64_t *lengths;
    int64_t rows, capacity;
    const float *cosines, *sines;
};

constexpr int ROWS_AT_ONCE = 4;

// Products of ROWS weight rows with VECTORS vectors: a weight is loaded once for all vectors, a vector's lanes once for all rows.
template <int ROWS, int VECTORS, class W, class Store>
static inline void products(const Matrix &matrix, int64_t row, const float *vectors, int64_t vector, Store store) {
    const int64_t width = matrix.width;
    const W *weight = (const W *)matrix.weight + row * width;
    vectors += vector * width;
    Lanes sums[ROWS][VECTORS] = {};
    for (int64_t at = 0; at < width; at += LANES) {
        Lanes given[VECTORS];
        for (int v = 0; v < VECTORS; v++) given[v] = load(vectors + v * width + at);
        for (int r = 0; r < ROWS; r++) {
            // The same place in the rows that come next. Without it, one vector: 1.05 x the time in fp32, 1.4 x in bf16, 1.6 x in int8.
            __builtin_prefetch(weight + (ROWS_AT_ONCE + r) * width + at);
            const Lanes weights = load(weight + r * width + at);
            for (int v = 0; v < VECTORS; v++) sums[r][v] += weights * given[v];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) {
            const float product = sum(sums[r][v]);
            store(vector + v, row + r, matrix.scale ? product * matrix.scale[row + r] : product);
        }
}

// Products of ROWS_AT_ONCE weight rows with all vectors. Eight vectors go with two rows: their sums fill half of the 32 registers.
template <class W, class Store>
static inline void products_of_block(const Matrix &matrix, int64_t row, const float *vectors, int64_t count, Store store) {
    int64_t vector = 0;
    for (; vector + 8 <= count; vector += 8) {
        products<2, 8, W>(matrix, row, vectors, vector, store);
        products<2, 8, W>(matrix, row + 2, vectors, vector, store);
    }
    for (; vector + 4 <= count; vector += 4) products<4, 4, W>(matrix, row, vectors, vector, store);
    for (; vector + 2 <= count; vector += 2) products<4, 2, W>(matrix, row, vectors, vector, store);
    for (; vector < count; vector++) products<4, 1, W>(matrix, row, vectors, vector, store);
}

template <class W, class Store>
static inline void products_of_row(const Matrix &matrix, int64_t row, const float *vectors, int64_t count, Store store) {
    for (int64_t vector = 0; vector < count; vector++) products<1, 1, W>(matrix, row, vectors, vector, store);
}

// Within a parallel region: all products of the matrix with `count` vectors, the rows shared among the threads.
template <class W, class Store>
static void multiply(const Matrix &matrix, const float *vectors, int64_t count, Store store) {
    const int64_t blocks = matrix.rows / ROWS_AT_ONCE;
#pragma omp for schedule(static) nowait
    for (int64_t block = 0; block < blocks; block++) products_of_block<W>(matrix, ROWS_AT_ONCE * block, vectors, count, store);
#pragma omp for schedule(static)
    for (int64_t row = ROWS_AT_ONCE * blocks; row < matrix.rows; row++) products_of_row<W>(matrix, row, vectors, count, store);
}

static void normalise(const float *vectors, const float *weight, float epsilon, int64_t count, int64_t width, float *out) {
#pragma omp for schedule(static)
    for (int64_t vector = 0; vector < count; vector++) {
        const float *from = vectors + vector * width;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < width; i++) squares += from[i] * from[i];
        const float scale = 1 / std::sqrt(squares / width + epsilon);
        for (int64_t i = 0; i < width; i++) out[vector * width + i] = from[i] * scale * weight[i];
    }
}

// The vector with component i and component i + D/2 turned as one plane.
template <class To>
static void rotate(const float *from, const float *cosine, const float *sine, int64_t half, To *to) {
    for (int64_t i = 0; i < half; i++) {
        narrow(from[i] * cosine[i] - from[i + half] * sine[i], to + i);
        narrow(from[i + half] * cosine[i] + from[i] * sine[i], to + i + half);
    }
}

// The mean of PARTS x LANES components of the values, weighted with shares that sum up to `total`.
template <int PARTS, class C>
static inline void mean(const float *shares, float total, const C *values, int64_t positions, int64_t depth, float *out) {
    Lanes sums[PARTS] = {};
    for (int64_t p = 0; p < positions; p++)
        for (int part = 0; part < PARTS; part++) sums[part] += shares[p] * load(values + p * depth + part * LANES);
    for (int part = 0; part < PARTS; part++) {
        sums[part] /= total;
        memcpy(out + part * LANES, sums + part, sizeof(Lanes));
    }
}

// scores [positions, up to a multiple of LANES] become the exponentials of their distances from the largest, whose sum this is.
static float softmax(float *scores, int64_t positions) {
    float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
    for (int64_t p = 0; p < positions; p++) largest = scores[p] > largest ? scores[p] : largest;
    for (int64_t p = positions; p % LANES; p++) scores[p] = -INFINITY;
    Lanes total = {};
    for (int64_t p = 0; p < positions; p += LANES) {
        const Lanes powers = exponential(load(scores + p) - largest);
        total += powers;
        memcpy(scores + p, &powers, sizeof powers);
    }
    return sum(total);
}

// What one query finds in the keys and values [positions, depth] of its row and head.
template <class C>
static void attend(const float *query, const C *keys, const C *values, int64_t positions, int64_t depth, float *scores, float *out) {
    const Matrix matrix = {keys, nullptr, positions, depth};
    const float scale = 1 / std::sqrt((float)depth);
    auto store = [=](int64_t, int64_t position, float product) { scores[position] = product * scale; };
    int64_t position = 0;
    for (; position + ROWS_AT_ONCE <= positions; position += ROWS_AT_ONCE) products_of_block<C>(matrix, position, query, 1, store);
    for (; position < positions; position++) products_of_row<C>(matrix, position, query, 1, store);

    const float total = softmax(scores, positions);
    int64_t at = 0;
    for (; at + 4 * LANES <= depth; at += 4 * LANES) mean<4>(scores, total, values + at, positions, depth, out + at);
    for (; at < depth; at += LANES) mean<1>(scores, total, values + at, positions, depth, out + at);
}

// Within a parallel region: keys and values of N new positions of each row go into the cache, then each attends to itself and those before.
template <class C>
static void attention(const Model &model, const Cache &cache, int64_t layer, int64_t num, const float *input, float *out) {
    const int64_t width = model.width, heads = model.heads, depth = width / heads, half = depth / 2;  // depth: of LANES
    std::vector<float> scores(cache.capacity + LANES), query(depth);
#pragma omp for collapse(2) schedule(static)
    for (int64_t row = 0; row < cache.rows; row++)
        for (int64_t head = 0; head < heads; head++) {
            const int64_t start = ((layer * cache.rows + row) * heads + head) * cache.capacity * depth, length = cache.lengths[row];
            C *keys = (C *)cache.keys + start, *values = (C *)cache.values + start;
            for (int64_t n = 0; n < num; n++) {
                const int64_t at = length + n;
                const float *mine = input + (row * num + n) * 3 * width + head * depth;
                rotate(mine + width, cache.cosines + at * half, cache.sines + at * half, half, keys + at * depth);
                for (int64_t i = 0; i < depth; i++) narrow(mine[2 * width + i], values + at * depth + i);
                rotate(mine, cache.cosines + at * half, cache.sines + at * half, half, query.data());
                attend(query.data(), keys, values, at + 1, depth, scores.data(), out + (row * num + n) * width + head * depth);
            }
        }
}

static void gate(const float *gate_up, int64_t count, int64_t hidden, float *out) {
#pragma omp for collapse(2) schedule(static)
    for (int64_t vector = 0; vector < count; vector++)
        for (int64_t i = 0; i < hidden; i += LANES) {  // of LANES
            const Lanes gate = load(gate_up + vector * 2 * hidden + i), up = load(gate_up + vector * 2 * hidden + hidden + i);
            const Lanes gated = gate / (1 + exponential(-gate)) * up;
            memcpy(out + vector * hidden + i, &gated, sizeof gated);
        }
}

template <class W>
static void step(const Model &model, const Cache &cache, int64_t num, float *hidden, float *out, int threads) {
    using C = std::conditional_t<std::is_same_v<W, float>, float, Bf16>;
    const int64_t count = cache.rows * num, width = model.width;
    std::vector<float> normed(count * width), input(count * 3 * width), attended(count * width);
    std::vector<float> gate_up(count * 2 * model.hidden), gated(count * model.hidden);
    auto into = [](float *to, int64_t rows) { return [=](int64_t vector, int64_t row, float sum) { to[vector * rows + row] = sum; }; };
    auto add = [=](int64_t vector, int64_t row, float sum) { hidden[vector * width + row] += sum; };
#pragma omp parallel num_threads(threads)
    {
        for (int64_t layer = 0; layer < model.layers; layer++) {
            const Block &block = model.blocks[layer];
            normalise(hidden, block.attention_norm, model.epsilon, count, width, normed.data());
            multiply<W>(block.input, normed.data(), count, into(input.data(), 3 * width));
            attention<C>(model, cache, layer, num, input.data(), attended.data());
            multiply<W>(block.output, attended.data(), count, add);
            normalise(hidden, block.feed_forward_norm, model.epsilon, count, width, normed.data());
            multiply<W>(block.gate_up, normed.data(), count, into(gate_up.data(), 2 * model.hidden));
            gate(gate_up.data(), count, model.hidden, gated.data());
            multiply<W>(block.down, gated.data(), count, add);
        }
        normalise(hidden, model.norm, model.epsilon, count, width, out);
    }
}

template <class W>
static void product(const Matrix &matrix, const float *vectors, int64_t count, float *out, int threads) {
#pragma omp parallel num_threads(threads)
    multiply<W>(matrix, vectors, count, [=](int64_t vector, int64_t row, float sum) { out[vector * matrix.rows + row] = sum; });
}

#define EXPORT(kind, W)                                                                                                            \
    extern "C" void step_##kind(const Model *model, const Cache *cache, int64_t num, float *hidden, float *out, int threads) {     \
        step<W>(*model, *cache, num, hidden, out, threads);                                                                        \
    }                                                                                                                              \
    extern "C" void product_##kind(const Matrix *matrix, const float *vectors, int64_t count, float *out, int threads) {           \
        product<W>(*matrix, vectors, count, out, threads);                                                                         \
    }
EXPORT(fp32, float)
EXPORT(bf16, Bf16)
EXPORT(int8, int8_t)
