// Attention with one query a row, a block a head of a row: LANES threads read a head's D numbers of one key, a pack each, and a
// block reads GROUPS keys at a time.

const int D = LANES * PACK, GROUPS = 256 / LANES;

struct Head {
    int64 b, h, at, keys;  // at: where its D numbers start in (B, C); keys: how many the query sees
    float scale;           // 1 / √D; NaN if the query stands outside its row
    int lane, group;

    __device__ Head(const int64* last, int64 heads, int64 length) {
        b = blockIdx.x / heads, h = blockIdx.x % heads, at = (int64)blockIdx.x * D;
        bool inside = last[b] >= 0 && last[b] < length;
        keys = inside ? last[b] + 1 : length;
        scale = inside ? rsqrtf((float)D) : __uint_as_float(0x7fc00000);
        lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    }
    __device__ int64 key(int64 t, int64 length, int64 apart) const { return (b * length + t) * apart + h * D + lane * PACK; }
};

__device__ __forceinline__ float dot(const Pack& p, const Pack& q) {
    float sum = 0.f;
#pragma unroll
    for (int j = 0; j < PACK; j++) sum += wide(p.at[j]) * wide(q.at[j]);
#pragma unroll
    for (int step = LANES / 2; step; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return sum;
}

// y = Σ over the groups of what each has added up, by all threads of the block
__device__ __forceinline__ void sum_groups(const float* mine, T* y, const Head& head) {
    __shared__ float part[GROUPS][D];
#pragma unroll
    for (int j = 0; j < PACK; j++) part[head.group][head.lane * PACK + j] = mine[j];
    __syncthreads();
    for (int d = threadIdx.x; d < D; d += 256) {
        float sum = 0.f;
        for (int i = 0; i < GROUPS; i++) sum += part[i][d];
        y[head.at + d] = narrow<T>(sum);
    }
}

// y = (P ∘ M) v, and P is kept. k's and v's rows stand k_apart and v_apart numbers apart.
extern "C" __global__ void attention_at(const T* q, const T* k, const T* v, const int64* last, T* y, float* P, int64 heads,
                                        int64 length, int64 k_apart, int64 v_apart, uint64 key, const uint64* key_at,
                                        uint64 below, double kept) {
    Head head(last, heads, length);
    Mask mask(key, key_at, below, kept);
    P += blockIdx.x * length;
    Pack mine = pack_at(q, head.at + head.lane * PACK);
    float most = -__uint_as_float(0x7f800000), sum = 0.f;
    for (int64 start = 0; start < head.keys; start += GROUPS) {  // whole warps stay together for their sums
        int64 t = start + head.group, from = t < head.keys ? t : head.keys - 1;
        float s = head.scale * dot(mine, pack_at(k, head.key(from, length, k_apart)));
        most = fmaxf(most, s);
        if (t < head.keys && head.lane == 0) P[t] = s;
    }
    most = block_max(most);
    __syncthreads();
    for (int64 t = threadIdx.x; t < head.keys; t += 256) sum += __expf(P[t] - most);
    sum = block_sum(sum);
    for (int64 t = threadIdx.x; t < head.keys; t += 256) P[t] = __expf(P[t] - most) / sum;
    __syncthreads();
    float out[PACK] = {};
    for (int64 t = head.group; t < head.keys; t += GROUPS) {
        Pack p = pack_at(v, head.key(t, length, v_apart));
        float weight = P[t] * mask(blockIdx.x * length + t);
#pragma unroll
        for (int j = 0; j < PACK; j++) out[j] += weight * wide(p.at[j]);
    }
    sum_groups(out, y, head);
}

// d_k and d_v at every key, zeros where it is not seen, into (B, T, 2, C); and d_q. dP is room for P's like.
extern "C" __global__ void attention_at_backward(const T* q, const T* k, const T* v, const int64* last, const float* P,
                                                 const T* g, float* dP, T* d_q, T* d_kv, int64 heads, int64 length,
                                                 int64 k_apart, int64 v_apart, uint64 key, const uint64* key_at, uint64 below,
                                                 double kept) {
    Head head(last, heads, length);
    Mask mask(key, key_at, below, kept);
    P += blockIdx.x * length;
    dP += blockIdx.x * length;
    int64 width = heads * D;
    Pack query = pack_at(q, head.at + head.lane * PACK), mine = pack_at(g, head.at + head.lane * PACK);
    float sum = 0.f, out[PACK] = {};
    for (int64 start = 0; start < head.keys; start += GROUPS) {
        int64 t = start + head.group, from = t < head.keys ? t : head.keys - 1;
        float d = dot(mine, pack_at(v, head.key(from, length, v_apart))) * mask(blockIdx.x * length + from);
        if (t < head.keys && head.lane == 0) {
            dP[t] = d;
            sum += P[t] * d;
        }
    }
    sum = block_sum(sum);
    __syncthreads();
    for (int64 t = head.group; t < length; t += GROUPS) {
        bool seen = t < head.keys;
        float weight = seen ? P[t] * mask(blockIdx.x * length + t) : 0.f, d = seen ? head.scale * P[t] * (dP[t] - sum) : 0.f;
        Pack p, to_k, to_v;
        if (seen) p = pack_at(k, head.key(t, length, k_apart));
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            if (seen) out[j] += d * wide(p.at[j]);
            to_k.at[j] = narrow<T>(d * wide(query.at[j]));
            to_v.at[j] = narrow<T>(weight * wide(mine.at[j]));
        }
        int64 at = head.key(t, length, 2 * width);
        pack_at(d_kv, at) = to_k;
        pack_at(d_kv, at + width) = to_v;
    }
    sum_groups(out, d_q, head);
}
