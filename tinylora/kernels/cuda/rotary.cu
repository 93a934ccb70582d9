// Rotary embedding: pair i of a head's D features, (x[i], x[i + D / 2]), turned by the angle of its position.
// A thread turns one pack of first features and the pack of their partners, in up to HEADS heads. x may be y.

const int HEADS = 4;

extern "C" __global__ void rope(const T* x, const float* cos, const float* sin, T* y, int64 n, int64 heads, int64 tokens, int64 half,
                                int64 x_batch, int64 x_head, int64 x_token, int64 y_batch, int64 y_head, int64 y_token,
                                int64 angle_batch, int64 angle_token, double turn) {
    int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned packs = half / PACK, rest = i / packs, at = i % packs * PACK, groups = (heads + HEADS - 1) / HEADS;
    unsigned h = rest % groups * HEADS, bt = rest / groups, t = bt % tokens, b = bt / tokens;
    const T* from = x + b * x_batch + h * x_head + t * x_token + at;
    T* to = y + b * y_batch + h * y_head + t * y_token + at;
    int64 angle = b * angle_batch + t * angle_token + at;
    Pack p[HEADS], q[HEADS];
#pragma unroll
    for (int k = 0; k < HEADS; k++)
        if (h + k < heads) {
            p[k] = pack_at(from, k * x_head);
            q[k] = pack_at(from, k * x_head + half);
        }
    float c[PACK], s[PACK];
#pragma unroll
    for (int j = 0; j < PACK; j += 4) {
        float4 u = *(const float4*)(cos + angle + j), v = *(const float4*)(sin + angle + j);
        c[j] = u.x, c[j + 1] = u.y, c[j + 2] = u.z, c[j + 3] = u.w;
        s[j] = v.x, s[j + 1] = v.y, s[j + 2] = v.z, s[j + 3] = v.w;
    }
#pragma unroll
    for (int k = 0; k < HEADS; k++)
        if (h + k < heads) {
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                float first = wide(p[k].at[j]), second = wide(q[k].at[j]), by = (float)turn * s[j];
                p[k].at[j] = narrow<T>(first * c[j] - second * by);
                q[k].at[j] = narrow<T>(second * c[j] + first * by);
            }
            pack_at(to, k * y_head) = p[k];
            pack_at(to, k * y_head + half) = q[k];
        }
}
