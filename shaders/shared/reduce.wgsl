// Sum and maximum over the THREADS of a workgroup, as a tree of fixed shape: the same bits every time. THREADS is a power
// of two. Every thread must call, and every thread gets the result.
var<workgroup> reduce_scratch: array<f32, THREADS>;

fn workgroup_sum(value: f32, thread: u32) -> f32 {
    workgroupBarrier();
    reduce_scratch[thread] = value;
    for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if thread < stride {
            reduce_scratch[thread] += reduce_scratch[thread + stride];
        }
    }
    workgroupBarrier();
    return reduce_scratch[0];
}

fn workgroup_max(value: f32, thread: u32) -> f32 {
    workgroupBarrier();
    reduce_scratch[thread] = value;
    for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if thread < stride {
            reduce_scratch[thread] = max(reduce_scratch[thread], reduce_scratch[thread + stride]);
        }
    }
    workgroupBarrier();
    return reduce_scratch[0];
}
