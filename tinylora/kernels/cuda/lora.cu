// Prepares LoRA's small matrices for the products: A as T, and B' = [s B; bias; 0], (r + 8, out), as T.
// The rows of x A are extended by a 1 and zeros, so that [x A, 1, 0] B' = s x A B + bias in one product.

extern "C" __global__ void factors(const float* A, const float* B, const T* bias, double scale, int64 d_in, int64 d_out, int64 r,
                                   int64 rows, T* small_A, T* small_B, T* x_A) {
    int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x, step = (int64)gridDim.x * blockDim.x;
    if (small_A)  // else A serves as it is
        for (int64 k = i; k < d_in * r; k += step) small_A[k] = narrow<T>(A[k]);
    for (int64 k = i; k < r * d_out; k += step) small_B[k] = narrow<T>((float)scale * B[k]);
    for (int64 k = i; k < 8 * d_out; k += step) small_B[r * d_out + k] = k < d_out && bias ? bias[k] : narrow<T>(0.f);
    for (int64 k = i; k < 8 * rows; k += step) x_A[k / 8 * (r + 8) + r + k % 8] = narrow<T>(k % 8 ? 0.f : 1.f);
}

// For one layer with many outputs, or up to three side by side, of outs[i] outputs each. With x' = [x, x A, 1, 0] and, of each
// layer, W' = [W, s Bᵀ in columns of its own, bias, 0], all y = x' W'ᵀ. A is theirs, side by side, as T, and wide_B those columns.

#define EACH(type, name) type name##0, type name##1, type name##2
#define OF(i, name) ((i) == 0 ? name##0 : (i) == 1 ? name##1 : name##2)

extern "C" __global__ void widen(EACH(const T*, W), EACH(const T*, bias), EACH(const float*, A), EACH(const float*, B),
                                 EACH(double, scale), EACH(int64, outs), int64 packs, int64 w_step, int64 d_in, int64 r, int64 layers,
                                 T* wide_W, T* wide_B, T* small_A) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x;
    unsigned all_r = layers * r, width = d_in + all_r + 8, across = width / PACK;
    if (i < packs) {
        unsigned row = i / across, at = (i - row * across) * PACK, o = row;
        unsigned layer = row < outs0 ? 0 : row < outs0 + outs1 ? 1 : 2;
        if (layer > 0) o -= outs0;
        if (layer > 1) o -= outs1;
        Pack p;
        if (at < d_in) p = pack_at(OF(layer, W), (int64)o * d_in + at);
        else {
            unsigned c = at - d_in, first = layer * r;
            const T* b = OF(layer, bias);
            const float* from = OF(layer, B) + o;
            int64 down = OF(layer, outs);
            float scale = OF(layer, scale);
            bool mine = c >= first && c < first + r;  // r fills packs, so a pack is of one layer
            for (int j = 0; j < PACK; j++)
                p.at[j] = narrow<T>(mine ? scale * from[(c - first + j) * down] : c + j == all_r && b ? wide(b[o]) : 0.f);
            if (c < all_r) pack_at(wide_B, (int64)row * all_r + c) = p;
        }
        pack_at(wide_W, row * w_step + at) = p;
    }
    for (unsigned k = i; k < d_in * all_r; k += step) {
        unsigned c = k % all_r, layer = c / r;
        small_A[k] = narrow<T>(OF(layer, A)[k / all_r * r + c - layer * r]);
    }
}

extern "C" __global__ void widen_rows(const T* x, const T* low, T* wide_x, int64 packs, int64 x_step, int64 d_in,
                                      int64 all_r) {
    int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= packs) return;
    unsigned width = d_in + all_r + 8, across = width / PACK;
    int64 row = i / across;
    unsigned at = (i - row * across) * PACK;
    Pack p;
    if (at < d_in) p = pack_at(x, row * d_in + at);
    else if (at < d_in + all_r) p = pack_at(low, row * all_r + at - d_in);
    else
        for (int j = 0; j < PACK; j++) p.at[j] = narrow<T>(at == d_in + all_r && j == 0 ? 1.f : 0.f);
    pack_at(wide_x, row * x_step + at) = p;
}
