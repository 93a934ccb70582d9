// Shared by all kernels: number types, packs of 16 bytes, reductions over a warp and a block, dropout masks.
// T is a macro that compile.py defines: float, bf16 or half. Arithmetic is done in float.

typedef long long int64;
typedef unsigned long long uint64;

struct alignas(2) bf16 { unsigned short bits; };
struct alignas(2) half { unsigned short bits; };

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ __forceinline__ float wide(half x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

template <class U> __device__ __forceinline__ U narrow(float x);  // to the nearest, ties to even
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float x) {
    bf16 y;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
    unsigned bits = __float_as_uint(x);
    y.bits = x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
#endif
    return y;
}
template <> __device__ __forceinline__ half narrow<half>(float x) {
    half y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

const int PACK = 16 / sizeof(T);
struct alignas(16) Pack { T at[PACK]; };  // read and written by one instruction

__device__ __forceinline__ Pack& pack_at(const T* x, int64 i) { return *(Pack*)(x + i); }

template <class T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int step = 16; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = 16; step; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// Reduction over a block of whole warps; every thread gets the result.
template <class T> __device__ __forceinline__ T block_sum(T x) {
    __shared__ T part[32];
    x = warp_sum(x);
    __syncthreads();  // the last call's parts have been read
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < blockDim.x / 32 ? part[threadIdx.x % 32] : T(0);
    return warp_sum(x);
}

__device__ __forceinline__ float block_max(float x) {
    __shared__ float part[32];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < blockDim.x / 32 ? part[threadIdx.x % 32] : part[0];
    return warp_max(x);
}

// Dropout: 1 / (1 - p) with probability 1 - p, else 0; 1 where p is 0. The bits are those of backend.mix, SplitMix64: a pure
// function of key and position. The key is an argument, or is read from key_at.
struct Mask {
    uint64 key, below;
    float kept;

    __device__ Mask(uint64 key_, const uint64* key_at, uint64 below_, double kept_)
        : key(key_at ? *key_at : key_), below(below_), kept((float)kept_) {}
    __device__ float operator()(int64 i) const {
        if (!below) return 1.f;
        uint64 z = key + (uint64)(i + 1) * 0x9E3779B97F4A7C15ull;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ z >> 27) * 0x94D049BB133111EBull;
        z ^= z >> 31;
        return z >= below ? kept : 0.f;
    }
};
