// Elementwise kernels (GELU, gated SiLU, dropout, addition, float32 to float16 and back), and selection of rows.

const int UNROLL = 2;  // packs a thread, all of them read before the first is used

// y = f(a, b, position); b is read only if TWO.
template <bool TWO, class F> __device__ __forceinline__ void map(const T* a, const T* b, T* y, int64 n, F f) {
    int64 step = blockDim.x * PACK, start = blockIdx.x * step * UNROLL + threadIdx.x * PACK;
    if (start + (UNROLL - 1) * step + PACK <= n) {
        Pack p[UNROLL], q[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            p[u] = pack_at(a, start + u * step);
            if (TWO) q[u] = pack_at(b, start + u * step);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
#pragma unroll
            for (int j = 0; j < PACK; j++)
                p[u].at[j] = narrow<T>(f(wide(p[u].at[j]), TWO ? wide(q[u].at[j]) : 0.f, start + u * step + j));
            pack_at(y, start + u * step) = p[u];
        }
        return;
    }
    for (int u = 0; u < UNROLL; u++)
        for (int64 i = start + u * step; i < start + u * step + PACK && i < n; i++)
            y[i] = narrow<T>(f(wide(a[i]), TWO ? wide(b[i]) : 0.f, i));
}

constexpr float C1 = 2 * 0.7978845608028654f, C3 = 0.044715f * C1;  // 2 u = C1 x + C3 x³, u the argument of tanh

// s = (1 + tanh u) / 2 = 1 / (1 + e^-2u)
__device__ __forceinline__ float gate(float x) { return __fdividef(1.f, 1.f + __expf(-x * (C1 + C3 * x * x))); }

extern "C" __global__ void gelu(const T* x, T* y, int64 n) {
    map<false>(x, x, y, n, [](float x, float, int64) { return x * gate(x); });
}

extern "C" __global__ void gelu_backward(const T* x, const T* g, T* d, int64 n) {
    map<true>(x, g, d, n, [](float x, float g, int64) {
        float s = gate(x);
        return g * (s + s * (1.f - s) * x * (C1 + 3.f * C3 * x * x));
    });
}

// y = u s v, s = sigmoid u, with u = gate and v = up. Rows of `width` numbers: those of gate and up are a step apart.
extern "C" __global__ void swiglu(const T* gate, const T* up, T* y, int64 n, int64 width, int64 gate_step, int64 up_step) {
    int64 i = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * PACK;
    if (i >= n) return;
    int64 row = i / width, at = i - row * width;
    Pack u = pack_at(gate, row * gate_step + at), v = pack_at(up, row * up_step + at);
#pragma unroll
    for (int j = 0; j < PACK; j++) {
        float x = wide(u.at[j]);
        u.at[j] = narrow<T>(x * __fdividef(1.f, 1.f + __expf(-x)) * wide(v.at[j]));
    }
    pack_at(y, i) = u;
}

// d of a row: g v s (1 + u (1 - s)), then g u s; and y again, if it is given.
extern "C" __global__ void swiglu_backward(const T* gate, const T* up, const T* g, T* y, T* d, int64 n, int64 width,
                                           int64 gate_step, int64 up_step, int64 g_step) {
    int64 i = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * PACK;
    if (i >= n) return;
    int64 row = i / width, at = i - row * width;
    Pack u = pack_at(gate, row * gate_step + at), v = pack_at(up, row * up_step + at), q = pack_at(g, row * g_step + at), p;
#pragma unroll
    for (int j = 0; j < PACK; j++) {
        float x = wide(u.at[j]), s = __fdividef(1.f, 1.f + __expf(-x)), mine = wide(q.at[j]);
        p.at[j] = narrow<T>(x * s * wide(v.at[j]));
        u.at[j] = narrow<T>(mine * wide(v.at[j]) * s * (1.f + x * (1.f - s)));
        v.at[j] = narrow<T>(mine * x * s);
    }
    if (y) pack_at(y, i) = p;
    pack_at(d, 2 * row * width + at) = u;
    pack_at(d, 2 * row * width + width + at) = v;
}

extern "C" __global__ void add(const T* a, const T* b, T* y, int64 n) {
    map<true>(a, b, y, n, [](float a, float b, int64) { return a + b; });
}

extern "C" __global__ void dropout(const T* x, T* y, int64 n, uint64 key, const uint64* key_at, uint64 below, double kept) {
    Mask mask(key, key_at, below, kept);
    map<false>(x, x, y, n, [=](float x, float, int64 i) { return x * mask(i); });
}

// y = a + dropout(b); y may be a.
extern "C" __global__ void add_dropped(const T* a, const T* b, T* y, int64 n, uint64 key, const uint64* key_at, uint64 below,
                                       double kept) {
    Mask mask(key, key_at, below, kept);
    map<true>(a, b, y, n, [=](float a, float b, int64 i) { return a + b * mask(i); });
}

// ---------------------------------------------------------------------------------- float32 as T and back, for attention
// The power of two that takes numbers of at most `largest` to at most 1000; 1 if no largest is given.
__device__ __forceinline__ float power(const unsigned* largest) {
    return largest ? exp2f(floorf(log2f(1000.f / fmaxf(__uint_as_float(*largest), 1e-30f)))) : 1.f;
}

// The bits of max |x|: non-negative floats are ordered like their bits, so an integer atomicMax works.
extern "C" __global__ void find_largest(const float* x, int64 n, unsigned* largest) {
    unsigned mine = 0;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < n / 4; i += (int64)gridDim.x * blockDim.x) {
        float4 v = ((const float4*)x)[i];
        mine = max(mine, max(max(__float_as_uint(fabsf(v.x)), __float_as_uint(fabsf(v.y))),
                             max(__float_as_uint(fabsf(v.z)), __float_as_uint(fabsf(v.w)))));
    }
    mine = __reduce_max_sync(0xffffffffu, mine);
    if (threadIdx.x % 32 == 0) atomicMax(largest, mine);
}

extern "C" __global__ void from_float(const float* x, T* y, int64 n, const unsigned* largest) {
    int64 i = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * PACK;
    if (i >= n) return;
    float by = power(largest);
    Pack p;
#pragma unroll
    for (int j = 0; j < PACK; j += 4) {
        float4 v = *(const float4*)(x + i + j);
        p.at[j] = narrow<T>(v.x * by);
        p.at[j + 1] = narrow<T>(v.y * by);
        p.at[j + 2] = narrow<T>(v.z * by);
        p.at[j + 3] = narrow<T>(v.w * by);
    }
    pack_at(y, i) = p;
}

extern "C" __global__ void to_float(const T* x, float* y, int64 n, const unsigned* largest) {
    int64 i = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * PACK;
    if (i >= n) return;
    float by = 1.f / power(largest);
    Pack p = pack_at(x, i);
#pragma unroll
    for (int j = 0; j < PACK; j += 4)
        *(float4*)(y + i + j) =
            make_float4(wide(p.at[j]) * by, wide(p.at[j + 1]) * by, wide(p.at[j + 2]) * by, wide(p.at[j + 3]) * by);
}

// ------------------------------------------------------------------------------------------------------ rows of a table
// y = x, rows of `width` numbers that are a step apart in each
extern "C" __global__ void copy_rows(const T* x, T* y, int64 n, int64 width, int64 x_step, int64 y_step) {
    int64 i = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * PACK;
    if (i >= n) return;
    int64 row = i / width, at = i - row * width;
    pack_at(y, row * y_step + at) = pack_at(x, row * x_step + at);
}

// y[row] = weight[ids[row]], of `width` numbers; NaN for an id outside the vocabulary.
extern "C" __global__ void gather_rows(const T* weight, const int64* ids, T* y, int64 n, int64 width, int64 vocabulary) {
    int64 i = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * PACK;
    if (i >= n) return;
    int64 id = ids[i / width];
    Pack p;
    if (id >= 0 && id < vocabulary) p = pack_at(weight, id * width + i % width);
    else for (int j = 0; j < PACK; j++) p.at[j] = narrow<T>(__uint_as_float(0x7fc00000));
    pack_at(y, i) = p;
}

// d[ids[row]] += g[row]
extern "C" __global__ void scatter_rows(const T* g, const int64* ids, float* d, int64 n, int64 width, int64 vocabulary) {
    int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int64 id = ids[i / width];
    if (id >= 0 && id < vocabulary) atomicAdd(d + id * width + i % width, wide(g[i]));
}

// y[b] = x[b, last[b]]; NaN for a position outside the row.
extern "C" __global__ void rows_at(const T* x, const int64* last, T* y, int64 n, int64 length, int64 width) {
    int64 i = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * PACK;
    if (i >= n) return;
    int64 b = i / width, t = last[b];
    Pack p;
    if (t >= 0 && t < length) p = pack_at(x, (b * length + t) * width + i % width);
    else for (int j = 0; j < PACK; j++) p.at[j] = narrow<T>(__uint_as_float(0x7fc00000));
    pack_at(y, i) = p;
}

// d = so_far, or zeros, plus g[b] at last[b].
extern "C" __global__ void rows_at_backward(const T* g, const int64* last, const T* so_far, T* d, int64 n, int64 length,
                                            int64 width) {
    int64 i = ((int64)blockIdx.x * blockDim.x + threadIdx.x) * PACK;
    if (i >= n) return;
    int64 row = i / width, b = row / length;
    Pack p;
    if (so_far) p = pack_at(so_far, i);
    else for (int j = 0; j < PACK; j++) p.at[j] = narrow<T>(0.f);
    if (row % length == last[b]) {
        Pack q = pack_at(g, b * width + i % width);
        for (int j = 0; j < PACK; j++) p.at[j] = narrow<T>(wide(p.at[j]) + wide(q.at[j]));
    }
    pack_at(d, i) = p;
}
