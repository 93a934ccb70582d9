// LoRA's small matrices, made ready for the products: A as T, and B' = [s B; bias; 0], (r + 8, out), as T.
// The rows of x A get a 1 and zeros behind them, so that [x A, 1, 0] B' = s x A B + bias in one product.

extern "C" __global__ void factors(const float* A, const float* B, const T* bias, double scale, int64 d_in, int64 d_out, int64 r,
                                   int64 rows, T* small_A, T* small_B, T* x_A) {
    int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x, step = (int64)gridDim.x * blockDim.x;
    if (small_A)  // else A serves as it is
        for (int64 k = i; k < d_in * r; k += step) small_A[k] = narrow<T>(A[k]);
    for (int64 k = i; k < r * d_out; k += step) small_B[k] = narrow<T>((float)scale * B[k]);
    for (int64 k = i; k < 8 * d_out; k += step) small_B[r * d_out + k] = k < d_out && bias ? bias[k] : narrow<T>(0.f);
    for (int64 k = i; k < 8 * rows; k += step) x_A[k / 8 * (r + 8) + r + k % 8] = narrow<T>(k % 8 ? 0.f : 1.f);
}

// For a layer with many outputs, x' = [x, ., 1, 0], where x A will fill the gap, and W' = [W, s Bᵀ, bias, 0], so that y = x' W'ᵀ.
extern "C" __global__ void widen(const T* x, const T* W, const T* bias, const float* A, const float* B, double scale, int64 n,
                                 int64 d_in, int64 d_out, int64 r, T* wide_x, T* wide_W, T* small_A) {
    unsigned width = d_in + r + 8, in_a_row = width / PACK, i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned step = gridDim.x * blockDim.x;
    for (unsigned k = i; k < (n + d_out) * in_a_row; k += step) {
        unsigned row = k / in_a_row, at = k % in_a_row * PACK, o = row - n;
        const T* from = row < n ? x + row * d_in : W + o * d_in;
        Pack p;
        if (at < d_in) p = pack_at(from, at);
        else
            for (int j = 0; j < PACK; j++) {
                unsigned c = at + j - d_in;
                float one = row < n ? 1.f : bias ? wide(bias[o]) : 0.f;
                p.at[j] = narrow<T>(c == r ? one : c < r && row >= n ? (float)scale * B[c * d_out + o] : 0.f);
            }
        pack_at(row < n ? wide_x + (int64)row * width : wide_W + (int64)o * width, at) = p;
    }
    if (small_A)
        for (unsigned k = i; k < d_in * r; k += step) small_A[k] = narrow<T>(A[k]);
}
