// Rotary embedding: pair i of a head's D features, (x[i], x[i + D / 2]), turned by the angle of its position.
// A thread turns one pack. The pack of its partners is in the thread LANES / 2 beside it, LANES = D / PACK a power of two, and
// then y may be x; with LANES 0 it is read from memory.

extern "C" __global__ void rope(const T* x, const float* cos, const float* sin, T* y, int64 n, int64 heads, int64 tokens, int64 D,
                                int64 x_batch, int64 x_head, int64 x_token, int64 y_batch, int64 y_head, int64 y_token,
                                int64 angle_batch, int64 angle_token, double turn) {
    int64 thread = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    unsigned i = thread < n ? thread : n - 1;  // every thread of a warp takes part in the exchange
    unsigned packs = D / PACK, half = D / 2, rest = i / packs, at = i % packs * PACK;
    unsigned h = rest % heads, bt = rest / heads, t = bt % tokens, b = bt / tokens;
    const T* from = x + b * x_batch + h * x_head + t * x_token;
    bool second = at >= half;
    int64 angle = b * angle_batch + t * angle_token + (second ? at - half : at);
    float by = second ? (float)turn : -(float)turn;
    uint4 mine = *(const uint4*)(from + at), theirs;
    if (LANES) {
        theirs.x = __shfl_xor_sync(0xffffffffu, mine.x, LANES / 2);
        theirs.y = __shfl_xor_sync(0xffffffffu, mine.y, LANES / 2);
        theirs.z = __shfl_xor_sync(0xffffffffu, mine.z, LANES / 2);
        theirs.w = __shfl_xor_sync(0xffffffffu, mine.w, LANES / 2);
    } else theirs = *(const uint4*)(from + (second ? at - half : at + half));
    Pack p = *(Pack*)&mine, q = *(Pack*)&theirs;
#pragma unroll
    for (int j = 0; j < PACK; j += 4) {
        float4 u = *(const float4*)(cos + angle + j), v = *(const float4*)(sin + angle + j);
        float c[4] = {u.x, u.y, u.z, u.w}, s[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int k = 0; k < 4; k++) p.at[j + k] = narrow<T>(wide(p.at[j + k]) * c[k] + by * wide(q.at[j + k]) * s[k]);
    }
    if (thread < n) pack_at(y, b * y_batch + h * y_head + t * y_token + at) = p;
}
