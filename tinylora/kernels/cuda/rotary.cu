// Rotary embedding: pair i of a head's D features, (x[i], x[i + D / 2]), turned by the angle of its position.
// A thread turns one pack of first features and the pack of their partners. x may be y.

extern "C" __global__ void rope(const T* x, const float* cos, const float* sin, T* y, int64 n, int64 heads, int64 tokens, int64 half,
                                int64 x_batch, int64 x_head, int64 x_token, int64 y_batch, int64 y_head, int64 y_token,
                                int64 angle_batch, int64 angle_token, double turn) {
    int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned packs = half / PACK, rest = i / packs, at = i % packs * PACK;
    unsigned h = rest % heads, bt = rest / heads, t = bt % tokens, b = bt / tokens;
    const T* from = x + b * x_batch + h * x_head + t * x_token + at;
    T* to = y + b * y_batch + h * y_head + t * y_token + at;
    int64 angle = b * angle_batch + t * angle_token + at;
    Pack p = pack_at(from, 0), q = pack_at(from, half);
#pragma unroll
    for (int j = 0; j < PACK; j += 4) {
        float4 c = *(const float4*)(cos + angle + j), s = *(const float4*)(sin + angle + j);
        float cs[4] = {c.x, c.y, c.z, c.w}, sn[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float first = wide(p.at[j + k]), second = wide(q.at[j + k]), by = (float)turn * sn[k];
            p.at[j + k] = narrow<T>(first * cs[k] - second * by);
            q.at[j + k] = narrow<T>(second * cs[k] + first * by);
        }
    }
    pack_at(to, 0) = p;
    pack_at(to, half) = q;
}
