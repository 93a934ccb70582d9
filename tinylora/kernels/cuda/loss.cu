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
