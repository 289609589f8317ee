// classifier_count: counted = targets that are not ignored, in one workgroup. Reference: src/ops/classifier.rs
//
//   targets (ROWS) u32, 2^32 - 1 to ignore    counted (1)
// use: reduce
const ROWS: u32 = 1u;
const THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> targets: array<u32>;
@group(0) @binding(1) var<storage, read_write> counted: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var count = 0.0;
    for (var row = thread; row < ROWS; row += THREADS) {
        count += select(1.0, 0.0, targets[row] == 0xffffffffu);
    }
    count = workgroup_sum(count, thread);
    if thread == 0u {
        counted[0] = count;
    }
}
