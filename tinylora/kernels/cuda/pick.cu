// The index of the largest number of each row, of several the first; a NaN counts as the largest, as in NumPy.
extern "C" __global__ void argmax_rows(const T* x, int64* y, int64 width) {
    __shared__ uint64 part[32];
    const T* row = x + blockIdx.x * width;
    uint64 best = 0;
    for (int64 i = threadIdx.x; i < width; i += blockDim.x) {
        float value = wide(row[i]);
        unsigned bits = __float_as_uint(value + 0.f);  // -0 is 0
        unsigned order = value != value ? 0xffffffffu : bits >> 31 ? ~bits : bits | 0x80000000u;
        uint64 mine = (uint64)order << 32 | (0xffffffffu - (unsigned)i);
        if (mine > best) best = mine;
    }
#pragma unroll
    for (int step = 16; step; step /= 2) {
        uint64 other = __shfl_xor_sync(0xffffffffu, best, step);
        if (other > best) best = other;
    }
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < blockDim.x / 32; i++)
        if (part[i] > best) best = part[i];
    y[blockIdx.x] = 0xffffffffu - (unsigned)best;
}
