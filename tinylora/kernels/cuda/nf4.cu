// Dequantises NF4: a thread decodes 8 bytes of codes, 16 weights of one block of 64.
extern "C" __global__ void nf4_weight(const uint2* codes, const signed char* scales, const T* steps, const T* mean,
                                      const float* levels, T* y, int64 threads) {
    __shared__ float level[16];
    if (threadIdx.x < 16) level[threadIdx.x] = levels[threadIdx.x];
    __syncthreads();
    int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= threads) return;
    int64 block = i / 4;
    float scale = scales[block] * wide(steps[block / 256]) + wide(*mean);
    uint2 bytes = codes[i];
#pragma unroll
    for (int k = 0; k < 16; k += PACK) {
        Pack p;
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            unsigned word = k + j < 8 ? bytes.x : bytes.y, at = (k + j) % 8;
            p.at[j] = narrow<T>(level[word >> (at / 2 * 8 + (at % 2 ? 0 : 4)) & 15] * scale);
        }
        pack_at(y, i * 16 + k) = p;
    }
}
