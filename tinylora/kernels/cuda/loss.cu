// Cross-entropy of float logits: one block per row, then one block for the sum.

// Per row: lse = log Σ e^z, w = its weight or 0 where it is ignored, and w (lse - z[target]); NaN for a target that is no class.
extern "C" __global__ void row_losses(const T* z, const int64* target, const T* weight, int64 ignored, int64 classes, float* lse,
                                      float* w, float* losses) {
    int64 row = blockIdx.x;
    z += row * classes;
    float most = -__uint_as_float(0x7f800000), sum = 0.f;
    for (int64 j = threadIdx.x; j < classes; j += blockDim.x) most = fmaxf(most, wide(z[j]));
    most = block_max(most);
    for (int64 j = threadIdx.x; j < classes; j += blockDim.x) sum += expf(wide(z[j]) - most);
    sum = block_sum(sum);
    if (threadIdx.x) return;
    int64 t = target[row];
    bool kept = t != ignored, broken = kept && (t < 0 || t >= classes);
    float mine = !kept ? 0.f : broken ? __uint_as_float(0x7fc00000) : weight ? wide(weight[t]) : 1.f;
    lse[row] = most + logf(sum);
    w[row] = mine;
    losses[row] = !kept ? 0.f : broken ? mine : mine * (logf(sum) + (most - wide(z[t])));
}

// out = (Σ losses / Σ w, Σ w), or (Σ losses, 1) unless `mean`.
extern "C" __global__ void total_loss(const float* losses, const float* w, int64 rows, int64 mean, T* out, float* total) {
    float a = 0.f, b = 0.f;
    for (int64 i = threadIdx.x; i < rows; i += blockDim.x) {
        a += losses[i];
        b += w[i];
    }
    a = block_sum(a);
    b = block_sum(b);
    if (threadIdx.x) return;
    *total = mean ? b : 1.f;
    *out = narrow<T>(a / *total);
}

// d = w (softmax z - onehot target) g / total, with g one number or one per row; total may be null.
extern "C" __global__ void cross_entropy_backward(const T* z, const int64* target, const float* lse, const float* w, const T* g,
                                                  int64 g_step, const float* total, int64 classes, T* d) {
    int64 row = blockIdx.x;
    int64 t = target[row];
    float scale = w[row] ? w[row] * wide(g[row * g_step]) / (total ? *total : 1.f) : 0.f, base = lse[row];
    for (int64 j = threadIdx.x; j < classes; j += blockDim.x) {
        int64 i = row * classes + j;
        d[i] = narrow<T>(scale * (expf(wide(z[i]) - base) - (j == t)));
    }
}

// -------------------------------------------------------------- a head and its loss, one tile of logits at a time
// Of each row: the largest logit so far, Σ e^(z - most), the same without the target's term, and the target's logit.
struct Row { float most, sum, others, own; };

__device__ __forceinline__ float power(float x) { return sizeof(T) == 2 ? __expf(x) : expf(x); }

const int KEEP = 4;  // packs of a row that one thread holds in registers: of 256 threads, a tile has at most 1024 a row

// Overwrites z, logits of the classes from `first` on, with e^(z - most), and 0 at the target. If the largest logit has grown,
// scales the sums and the row of `products` (null: there is none) to it.
extern "C" __global__ void tile_of_logits(T* z, int64 z_step, int64 columns, const int64* target, int64 first, Row* state,
                                          float* products, int64 width) {
    int64 row = blockIdx.x;
    z += row * z_step;
    Row before = {-__uint_as_float(0x7f800000), 0.f, 0.f, 0.f};
    if (first) before = state[row];
    int64 t = target[row] - first;
    Pack p[KEEP];
    float most = before.most, sum = 0.f, others = 0.f;
#pragma unroll
    for (int k = 0; k < KEEP; k++) {
        int64 at = (k * blockDim.x + threadIdx.x) * PACK;
        if (at >= columns) continue;
        p[k] = pack_at(z, at);
#pragma unroll
        for (int j = 0; j < PACK; j++)
            if (at + j < columns) most = fmaxf(most, wide(p[k].at[j]));
    }
    most = block_max(most);
    float base = most == -__uint_as_float(0x7f800000) ? 0.f : most;
#pragma unroll
    for (int k = 0; k < KEEP; k++) {
        int64 at = (k * blockDim.x + threadIdx.x) * PACK;
        if (at >= columns) continue;
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            float own = wide(p[k].at[j]), e = at + j < columns ? power(own - base) : 0.f;
            if (at + j == t) {
                state[row].own = own;
                sum += e;
                e = 0.f;
            }
            others += e;
            p[k].at[j] = narrow<T>(e);
        }
        pack_at(z, at) = p[k];  // beyond the last column there is room for the rest of a pack
    }
    others = block_sum(others);
    sum = others + (t >= 0 && t < columns ? block_sum(sum) : 0.f);  // only the target's
    float by = expf(before.most - base);
    if (threadIdx.x == 0) {
        state[row].most = most;
        state[row].sum = (first ? before.sum * by : 0.f) + sum;
        state[row].others = (first ? before.others * by : 0.f) + others;
    }
    if (products && first && by != 1.f)
        for (int64 i = threadIdx.x; i < width; i += blockDim.x) products[row * width + i] *= by;
}

// After the last tile, per row: lse, w (0 where it is ignored), w (lse - z[target]), and if d is given
// d = w (products / sum - others / sum · weight[target]) = w Σ (softmax z - onehot target) W.
extern "C" __global__ void end_of_rows(const Row* state, const int64* target, const T* weight, int64 ignored, int64 classes,
                                       const float* products, int64 width, float* lse, float* w, float* losses, T* d) {
    int64 row = blockIdx.x, t = target[row];
    Row s = state[row];
    bool kept = t != ignored, broken = kept && (t < 0 || t >= classes);
    float mine = !kept ? 0.f : broken ? __uint_as_float(0x7fc00000) : 1.f;
    if (threadIdx.x == 0) {
        lse[row] = s.most + logf(s.sum);
        w[row] = mine;
        losses[row] = !kept ? 0.f : broken ? mine : logf(s.sum) + (s.most - s.own);
    }
    if (!d) return;
    float by = mine / s.sum, rest = s.others / s.sum;
    for (int64 i = threadIdx.x; i < width; i += blockDim.x)
        d[row * width + i] = narrow<T>(
            by * products[row * width + i] - (kept && !broken ? rest * wide(weight[t * width + i]) : 0.f));
}

// z = w (softmax z - onehot target) in place, for logits of the classes from `first` on
extern "C" __global__ void tile_of_gradients(T* z, int64 z_step, int64 columns, const int64* target, int64 first, const float* lse,
                                             const float* w) {
    int64 row = blockIdx.x, t = target[row] - first;
    float mine = w[row], base = lse[row];
    for (int64 j = threadIdx.x; j < columns; j += blockDim.x)
        z[row * z_step + j] = narrow<T>(mine * (power(wide(z[row * z_step + j]) - base) - (j == t)));
}

// y = x · g / total
extern "C" __global__ void scale_by(const T* x, const float* g, const float* total, T* y, int64 n) {
    int64 i = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * PACK;
    float by = *g / *total;
    if (i + PACK <= n) {
        Pack p = pack_at(x, i);
#pragma unroll
        for (int j = 0; j < PACK; j++) p.at[j] = narrow<T>(wide(p.at[j]) * by);
        pack_at(y, i) = p;
    } else
        for (; i < n; i++) y[i] = narrow<T>(wide(x[i]) * by);
}
