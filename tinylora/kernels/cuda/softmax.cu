// Softmax, mask and dropout between the products of attention, one block per row: scores in, weights and gradients out.
// A row is one query of one head: `rows` queries of each head from query `first` on, and of S keys the first `width`.

struct Row {
    int64 at, seen, place;  // where it starts in the scores, how many keys it sees, where its dropout mask starts

    __device__ Row(int64 rows, int64 width, int64 first, int64 head, int64 T_, int64 S, bool causal) {
        int64 h = blockIdx.x / rows, t = first + blockIdx.x % rows;
        at = blockIdx.x * width;
        seen = causal ? S - T_ + t + 1 : S;
        place = ((head + h) * T_ + t) * S;
    }
};

#define ROW_AND_MASK \
    Row row(rows, width, first, head, queries, S, causal); \
    Mask mask(key, key_at, below, kept)
#define WHERE int64 rows, int64 width, int64 first, int64 head, int64 queries, int64 S, int64 causal
#define DROPOUT uint64 key, const uint64* key_at, uint64 below, double kept

// P ∘ M, and log Σ e^s of the row
extern "C" __global__ void weights(const float* s, T* PM, float* lse, WHERE, DROPOUT) {
    ROW_AND_MASK;
    s += row.at;
    PM += row.at;
    float most = -__uint_as_float(0x7f800000), sum = 0.f;
    for (int64 j = threadIdx.x; j < row.seen; j += blockDim.x) most = fmaxf(most, s[j]);
    most = block_max(most);
    for (int64 j = threadIdx.x; j < row.seen; j += blockDim.x) sum += __expf(s[j] - most);
    sum = block_sum(sum);
    for (int64 j = threadIdx.x; j < width; j += blockDim.x)
        PM[j] = narrow<T>(j < row.seen ? __expf(s[j] - most) / sum * mask(row.place + j) : 0.f);
    if (threadIdx.x == 0) lse[(head + blockIdx.x / rows) * queries + first + blockIdx.x % rows] = most + logf(sum);
}

// P ∘ M again, and dS = P ∘ (dP ∘ M - Σ dP ∘ M ∘ P)
extern "C" __global__ void weights_backward(const float* s, const float* dP, const float* lse, T* PM, T* dS, WHERE, DROPOUT) {
    ROW_AND_MASK;
    s += row.at;
    dP += row.at;
    float base = lse[(head + blockIdx.x / rows) * queries + first + blockIdx.x % rows], sum = 0.f;
    for (int64 j = threadIdx.x; j < row.seen; j += blockDim.x) sum += __expf(s[j] - base) * mask(row.place + j) * dP[j];
    sum = block_sum(sum);
    for (int64 j = threadIdx.x; j < width; j += blockDim.x) {
        bool seen = j < row.seen;
        float p = seen ? __expf(s[j] - base) : 0.f, m = seen ? mask(row.place + j) : 0.f;
        PM[row.at + j] = narrow<T>(p * m);
        dS[row.at + j] = narrow<T>(seen ? p * (dP[j] * m - sum) : 0.f);
    }
}
