// Layer norm, one warp per row. A row has at most 32 · PACKS packs, which stay in registers.

#define FOR_MY_ROW(rows) \
    int64 row = (int64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; \
    int lane = threadIdx.x % 32; \
    if (row >= rows) return

extern "C" __global__ void layer_norm(const T* x, const T* weight, const T* bias, T* y, float2* stats, int64 rows,
                                      int64 width, double eps) {
    FOR_MY_ROW(rows);
    float v[PACKS * PACK], sum = 0.f, square = 0.f;
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int64 at = (k * 32 + lane) * PACK;
        if (at < width) {
            Pack p = pack_at(x, row * width + at);
#pragma unroll
            for (int j = 0; j < PACK; j++) sum += v[k * PACK + j] = wide(p.at[j]);
        }
    }
    float mean = warp_sum(sum) / width;
#pragma unroll
    for (int k = 0; k < PACKS; k++)
        if ((k * 32 + lane) * PACK < width)
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                float c = v[k * PACK + j] -= mean;
                square += c * c;
            }
    float inverse = 1.f / sqrtf(warp_sum(square) / width + (float)eps);
    if (lane == 0) stats[row] = make_float2(mean, inverse);
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int64 at = (k * 32 + lane) * PACK;
        if (at < width) {
            Pack p, w, b;
            if (weight) w = pack_at(weight, at);
            if (bias) b = pack_at(bias, at);
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                float n = v[k * PACK + j] * inverse;
                p.at[j] = narrow<T>(n * (weight ? wide(w.at[j]) : 1.f) + (bias ? wide(b.at[j]) : 0.f));
            }
            pack_at(y, row * width + at) = p;
        }
    }
}

// d = (h - mean h - n mean(h n)) / √(variance + ε),  h = g w; plus so_far, if it is given.
extern "C" __global__ void layer_norm_backward(const T* x, const T* g, const T* weight, const float2* stats, const T* so_far,
                                               T* d, int64 rows, int64 width) {
    FOR_MY_ROW(rows);
    float2 s = stats[row];
    float n[PACKS * PACK], h[PACKS * PACK], sum_h = 0.f, sum_hn = 0.f;
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int64 at = (k * 32 + lane) * PACK;
        if (at < width) {
            Pack p = pack_at(x, row * width + at), q = pack_at(g, row * width + at), w;
            if (weight) w = pack_at(weight, at);
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                float a = n[k * PACK + j] = (wide(p.at[j]) - s.x) * s.y;
                float b = h[k * PACK + j] = wide(q.at[j]) * (weight ? wide(w.at[j]) : 1.f);
                sum_h += b;
                sum_hn += a * b;
            }
        }
    }
    float mean_h = warp_sum(sum_h) / width, mean_hn = warp_sum(sum_hn) / width;
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        int64 at = (k * 32 + lane) * PACK;
        if (at < width) {
            Pack p, q;
            if (so_far) q = pack_at(so_far, row * width + at);
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                int i = k * PACK + j;
                p.at[j] = narrow<T>(s.y * (h[i] - mean_h - n[i] * mean_hn) + (so_far ? wide(q.at[j]) : 0.f));
            }
            pack_at(d, row * width + at) = p;
        }
    }
}
