// RMS norm, LANES threads per row: a warp, or a block of their own. A thread holds at most PACKS packs of its row in registers.

#define FOR_MY_ROW(rows) \
    int64 row = (int64)blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES; \
    int lane = threadIdx.x % LANES; \
    if (row >= rows) return

__device__ __forceinline__ float row_sum(float x) { return LANES == 32 ? warp_sum(x) : block_sum(x); }

// y = x w / √(mean x² + ε). inverse holds 1 / √(mean x² + ε) of each row.
extern "C" __global__ void rms_norm(const T* x, const T* weight, T* y, float* inverse, int64 rows, int64 width, double eps) {
    FOR_MY_ROW(rows);
    Pack p[PACKS], w[PACKS];
    float square = 0.f;
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int64 at = (k * LANES + lane) * PACK;
        if (at < width) {
            p[k] = pack_at(x, row * width + at);
            w[k] = pack_at(weight, at);
        }
    }
#pragma unroll
    for (int k = 0; k < PACKS; k++)
        if ((k * LANES + lane) * PACK < width)
#pragma unroll
            for (int j = 0; j < PACK; j++) square += wide(p[k].at[j]) * wide(p[k].at[j]);
    float by = 1.f / sqrtf(row_sum(square) / width + (float)eps);
    if (lane == 0) inverse[row] = by;
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int64 at = (k * LANES + lane) * PACK;
        if (at < width) {
#pragma unroll
            for (int j = 0; j < PACK; j++) p[k].at[j] = narrow<T>(wide(p[k].at[j]) * by * wide(w[k].at[j]));
            pack_at(y, row * width + at) = p[k];
        }
    }
}

// d = (h - n mean(h n)) / √(mean x² + ε),  h = g w; plus so_far, if it is given. Rows of g are g_step apart.
extern "C" __global__ void rms_norm_backward(const T* x, const T* g, const T* weight, const float* inverse, const T* so_far, T* d,
                                             int64 rows, int64 width, int64 g_step) {
    FOR_MY_ROW(rows);
    float by = inverse[row], sum = 0.f;
    Pack p[PACKS], q[PACKS], r[PACKS];
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int64 at = (k * LANES + lane) * PACK;
        if (at < width) {
            p[k] = pack_at(x, row * width + at);
            q[k] = pack_at(g, row * g_step + at);
            if (so_far) r[k] = pack_at(so_far, row * width + at);
        }
    }
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int64 at = (k * LANES + lane) * PACK;
        if (at < width) {
            Pack w = pack_at(weight, at);
#pragma unroll
            for (int j = 0; j < PACK; j++) sum += wide(p[k].at[j]) * wide(q[k].at[j]) * wide(w.at[j]);
        }
    }
    float mean = row_sum(sum) * by / width * by;
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int64 at = (k * LANES + lane) * PACK;
        if (at < width) {
            Pack w = pack_at(weight, at);
#pragma unroll
            for (int j = 0; j < PACK; j++)
                p[k].at[j] = narrow<T>(by * (wide(q[k].at[j]) * wide(w.at[j]) - wide(p[k].at[j]) * mean) +
                                       (so_far ? wide(r[k].at[j]) : 0.f));
            pack_at(d, row * width + at) = p[k];
        }
    }
}
