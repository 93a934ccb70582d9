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
