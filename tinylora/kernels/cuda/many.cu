// Ops on many arrays in one launch. A table has an address per array and column; each block processes one chunk of one array.

const int CHUNK = 4096;

#define FOR_MY_CHUNK(chunks) \
    int64 which = chunks[2 * blockIdx.x], start = chunks[2 * blockIdx.x + 1]; \
    int64 stop = start + CHUNK < sizes[which] ? start + CHUNK : sizes[which]

// Adam on every weight. numbers has, per weight: lr / (1 - β₁ᵗ), 1 / (1 - β₂ᵗ), 1 - lr λ, λ', ε, β₁, β₂, with λ the decoupled
// weight decay (AdamW) and λ' the one added to the gradient (Adam). table: new w, w, g, m, v.
extern "C" __global__ void adam(const int64* table, const int64* sizes, const int64* chunks, const double* numbers) {
    FOR_MY_CHUNK(chunks);
    const int64* row = table + 5 * which;
    float *out = (float*)row[0], *m = (float*)row[3], *v = (float*)row[4];
    const float *w = (const float*)row[1], *g = (const float*)row[2];
    const double* c = numbers + 7 * which;
    float lr = c[0], correction = c[1], keep = c[2], decay = c[3], eps = c[4], b1 = c[5], b2 = c[6], r1 = 1 - c[5], r2 = 1 - c[6];
    for (int64 i = start + threadIdx.x; i < stop; i += blockDim.x) {
        float x = w[i], d = g[i] + decay * x;
        float a = m[i] = b1 * m[i] + r1 * d;
        float b = v[i] = b2 * v[i] + r2 * d * d;
        out[i] = keep * x - lr * a / (sqrtf(b * correction) + eps);
    }
}

// Per chunk the sum of squares of g, in double: in float they overflow from 2e19 on. table: g.
extern "C" __global__ void squares(const int64* table, const int64* sizes, const int64* chunks, double* partial) {
    FOR_MY_CHUNK(chunks);
    const float* g = (const float*)table[which];
    double sum = 0;
    for (int64 i = start + threadIdx.x; i < stop; i += blockDim.x) sum += double(g[i]) * g[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// √ of the sum of all partial sums, by one block.
extern "C" __global__ void root_of_sum(const double* partial, int64 n, float* out) {
    double sum = 0;
    for (int64 i = threadIdx.x; i < n; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *out = sqrt(sum);
}

// y = x · factor. table: y, x.
extern "C" __global__ void scale(const int64* table, const int64* sizes, const int64* chunks, const float* factor) {
    FOR_MY_CHUNK(chunks);
    float *y = (float*)table[2 * which], by = *factor;
    const float* x = (const float*)table[2 * which + 1];
    for (int64 i = start + threadIdx.x; i < stop; i += blockDim.x) y[i] = x[i] * by;
}
