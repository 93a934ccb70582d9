// One generated token: attention over a cache of keys and values, and the likeliest token of each row.
// Cached keys and values: (B, Hkv, S, D). LANES = D / PACK threads, a power of two, read the D numbers of a key.

const int THREADS = 256, GROUPS = THREADS / LANES, D = LANES * PACK;

// One block per row and query head. The new key and value, of column *position, are also written into the cache.
extern "C" __global__ void attention_step(const T* q, const T* k, const T* v, T* keys, T* values, const int64* position,
                                          const int64* first, T* y, int64 heads, int64 kv_heads, int64 S) {
    __shared__ float sums[GROUPS][D], mosts[GROUPS], totals[GROUPS];
    int64 b = blockIdx.x / heads, h = blockIdx.x % heads, group_size = heads / kv_heads, kv = b * kv_heads + h / group_size;
    int64 last = *position;
    int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    bool inside = last >= 0 && last < S;  // else NaN, since a CUDA graph cannot raise
    float scale = inside ? rsqrtf((float)D) : __uint_as_float(0x7fc00000);
    if (!inside) last = 0;
    Pack query = pack_at(q + blockIdx.x * D, lane * PACK), new_k = pack_at(k + kv * D, lane * PACK),
         new_v = pack_at(v + kv * D, lane * PACK);
    if (inside && h % group_size == 0 && group == 0) {
        pack_at(keys, (kv * S + last) * D + lane * PACK) = new_k;
        pack_at(values, (kv * S + last) * D + lane * PACK) = new_v;
    }
    float most = -__uint_as_float(0x7f800000), total = 0.f, sum[PACK] = {};
    for (int64 start = first[b]; start <= last; start += GROUPS) {  // whole warps stay together for their sums
        int64 t = start + group, from = (kv * S + (t < last ? t : 0)) * D + lane * PACK;
        Pack key = t < last ? pack_at(keys, from) : new_k, value = t < last ? pack_at(values, from) : new_v;
        float s = 0.f;
#pragma unroll
        for (int j = 0; j < PACK; j++) s += wide(query.at[j]) * wide(key.at[j]);
#pragma unroll
        for (int step = LANES / 2; step; step /= 2) s += __shfl_xor_sync(0xffffffffu, s, step);
        if (t > last) continue;
        s *= scale;
        float now = fmaxf(most, s), old = __expf(most - now), e = __expf(s - now);
        most = now;
        total = total * old + e;
#pragma unroll
        for (int j = 0; j < PACK; j++) sum[j] = sum[j] * old + e * wide(value.at[j]);
    }
#pragma unroll
    for (int j = 0; j < PACK; j++) sums[group][lane * PACK + j] = sum[j];
    if (lane == 0) mosts[group] = most, totals[group] = total;
    __syncthreads();
    for (int d = threadIdx.x; d < D; d += THREADS) {
        float highest = -__uint_as_float(0x7f800000), a = 0.f, all = 0.f;
        for (int i = 0; i < GROUPS; i++) highest = fmaxf(highest, mosts[i]);
        for (int i = 0; i < GROUPS; i++) {
            float by = totals[i] == 0.f ? 0.f : __expf(mosts[i] - highest);  // a group without keys
            a += by * sums[i][d];
            all += by * totals[i];
        }
        y[blockIdx.x * D + d] = narrow<T>(a / all);
    }
}
