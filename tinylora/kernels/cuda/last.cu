// Attention with one query per row; one block per row and head. LANES threads read the D numbers of a key, PER packs each;
// a block reads GROUPS keys at a time. ALIGNED: packs are 16-byte aligned, so that one instruction reads one.

const int THREADS = 256, GROUPS = THREADS / LANES, PER = (D + LANES * PACK - 1) / (LANES * PACK);

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
    __device__ int64 key(int64 t, int64 length, int64 apart) const { return (b * length + t) * apart + h * D; }
};

// A thread's share of D numbers; zeros beyond them.
struct Share {
    Pack at[PER];

    __device__ Share(const T* x, int lane) {
#pragma unroll
        for (int u = 0; u < PER; u++) {
            int d = (u * LANES + lane) * PACK;
            if (ALIGNED && d < D) at[u] = pack_at(x, d);
            else for (int j = 0; j < PACK; j++) at[u].at[j] = !ALIGNED && d + j < D ? x[d + j] : narrow<T>(0.f);
        }
    }
};

// y = factor · x, a thread's share of it
__device__ __forceinline__ void store(T* y, int lane, const Share& x, float factor) {
#pragma unroll
    for (int u = 0; u < PER; u++) {
        int d = (u * LANES + lane) * PACK;
        Pack p;
#pragma unroll
        for (int j = 0; j < PACK; j++) p.at[j] = narrow<T>(factor * wide(x.at[u].at[j]));
        if (ALIGNED && d < D) pack_at(y, d) = p;
        else for (int j = 0; j < PACK; j++) if (!ALIGNED && d + j < D) y[d + j] = p.at[j];
    }
}

__device__ __forceinline__ void add_to(float* sum, const Share& x, float factor) {
#pragma unroll
    for (int u = 0; u < PER; u++)
#pragma unroll
        for (int j = 0; j < PACK; j++) sum[u * PACK + j] += factor * wide(x.at[u].at[j]);
}

__device__ __forceinline__ float dot(const Share& x, const Share& y) {
    float sum = 0.f;
#pragma unroll
    for (int u = 0; u < PER; u++)
#pragma unroll
        for (int j = 0; j < PACK; j++) sum += wide(x.at[u].at[j]) * wide(y.at[u].at[j]);
#pragma unroll
    for (int step = LANES / 2; step; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return sum;
}

// y = Σ of the groups' partial sums, by all threads of the block
__device__ __forceinline__ void sum_groups(const float* mine, T* y, const Head& head) {
    __shared__ float part[GROUPS][D];
#pragma unroll
    for (int u = 0; u < PER; u++)
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            int d = (u * LANES + head.lane) * PACK + j;
            if (d < D) part[head.group][d] = mine[u * PACK + j];
        }
    __syncthreads();
    for (int d = threadIdx.x; d < D; d += THREADS) {
        float sum = 0.f;
        for (int i = 0; i < GROUPS; i++) sum += part[i][d];
        y[head.at + d] = narrow<T>(sum);
    }
}

// y = (P ∘ M) v, and P is kept. Strides of the rows of k and v: k_apart and v_apart.
extern "C" __global__ void attention_at(const T* q, const T* k, const T* v, const int64* last, T* y, float* P, int64 heads,
                                        int64 length, int64 k_apart, int64 v_apart, uint64 key, const uint64* key_at,
                                        uint64 below, double kept) {
    Head head(last, heads, length);
    Mask mask(key, key_at, below, kept);
    P += blockIdx.x * length;
    Share query(q + head.at, head.lane);
    float most = -__uint_as_float(0x7f800000), sum = 0.f;
    for (int64 start = 0; start < head.keys; start += GROUPS) {  // whole warps stay together for their sums
        int64 t = start + head.group, from = t < head.keys ? t : head.keys - 1;
        float s = head.scale * dot(query, Share(k + head.key(from, length, k_apart), head.lane));
        most = fmaxf(most, s);
        if (t < head.keys && head.lane == 0) P[t] = s;
    }
    most = block_max(most);
    __syncthreads();
    for (int64 t = threadIdx.x; t < head.keys; t += THREADS) sum += __expf(P[t] - most);
    sum = block_sum(sum);
    for (int64 t = threadIdx.x; t < head.keys; t += THREADS) P[t] = __expf(P[t] - most) / sum;
    __syncthreads();
    float out[PER * PACK] = {};
    for (int64 t = head.group; t < head.keys; t += GROUPS)
        add_to(out, Share(v + head.key(t, length, v_apart), head.lane), P[t] * mask(blockIdx.x * length + t));
    sum_groups(out, y, head);
}

// d_k and d_v at every key, zeros at masked ones, into (B, T, 2, C); and d_q. dP is scratch of P's shape.
extern "C" __global__ void attention_at_backward(const T* q, const T* k, const T* v, const int64* last, const float* P,
                                                 const T* g, float* dP, T* d_q, T* d_kv, int64 heads, int64 length,
                                                 int64 k_apart, int64 v_apart, uint64 key, const uint64* key_at, uint64 below,
                                                 double kept) {
    Head head(last, heads, length);
    Mask mask(key, key_at, below, kept);
    P += blockIdx.x * length;
    dP += blockIdx.x * length;
    Share query(q + head.at, head.lane), mine(g + head.at, head.lane);
    float sum = 0.f, out[PER * PACK] = {};
    for (int64 start = 0; start < head.keys; start += GROUPS) {
        int64 t = start + head.group, from = t < head.keys ? t : head.keys - 1;
        float d = dot(mine, Share(v + head.key(from, length, v_apart), head.lane)) * mask(blockIdx.x * length + from);
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
        if (seen) add_to(out, Share(k + head.key(t, length, k_apart), head.lane), d);
        T* to = d_kv + head.key(t, length, 2 * heads * D);
        store(to, head.lane, query, d);
        store(to + heads * D, head.lane, mine, weight);
    }
    sum_groups(out, d_q, head);
}
